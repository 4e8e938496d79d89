"""Several workers on one port: any of them answers a scrape for all, and no counter falls when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trueup.telemetry import sharing
from trueup.telemetry.exposition import Exposition
from trueup.telemetry.metrics import Metrics
from trueup.telemetry.sharing import Workers

PROGRAM = """
import os, sys
import numpy as np
from pathlib import Path
from trueup.domain.batch import Role
from trueup.telemetry.exposition import Exposition
from trueup.telemetry.metrics import Metrics
from trueup.telemetry.sharing import Workers

metrics = Metrics()
workers = Workers.joined(Path(sys.argv[1]), metrics)
assert workers is not None
metrics.observe("queue_rows", lambda: {name: 5.0 for name in metrics._places})
print("ready", flush=True)
for line in sys.stdin:
    name, n = line.split()
    if name == "scrape":
        page = Exposition(metrics, workers, "0").page("")[0].decode()
        print(page, "# done", sep="\\n", flush=True)
        continue
    place = metrics.deployment(name, hash(name))
    for _ in range(int(n)):
        metrics.request(0, place, "ok", 1_000_000)
        metrics.booked(hash(name), np.full((2, 4), 120, np.int32), 400, np.zeros(2, np.int8), [Role.CHAMPION])
    metrics.sample()
    print("counted", flush=True)
"""


class Worker:
    """A process that counts what it is told to."""

    def __init__(self, run: Path, number: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(run)],
            env={**os.environ, "TRUEUP_WORKER": str(number)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.said() == "ready"

    def said(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def tell(self, name: str, n: int = 0) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{name} {n}\n")
        self.process.stdin.flush()

    def count(self, name: str, n: int) -> None:
        self.tell(name, n)
        assert self.said() == "counted"

    def scrape(self) -> dict[tuple[str, str], float]:
        """Values by sample name and deployment (or worker)."""
        self.tell("scrape")
        lines = []
        while (line := self.said()) != "# done":
            lines.append(line)
        found: dict[tuple[str, str], float] = {}
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if "le" not in sample.labels:
                    where = sample.labels.get("deployment", sample.labels.get("worker", ""))
                    found[sample.name, where] = found.get((sample.name, where), 0) + sample.value
        return found

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def started() -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    yield workers
    for worker in workers:
        worker.kill()


def test_any_worker_tells_of_all(tmp_path: Path, started: list[Worker]):
    started += [Worker(tmp_path, 0), Worker(tmp_path, 1)]
    started[0].count("a", 3)
    started[1].count("b", 5)
    started[1].count("a", 4)
    for worker in started:
        found = worker.scrape()
        assert found["trueup_requests_total", "a"] == 7
        assert found["trueup_requests_total", "b"] == 5
        assert found["trueup_rows_booked_total", "a"] == 14
        assert found["trueup_batch_rows_count", "a"] == 7
        assert found["trueup_queue_rows", "a"] == 10
        assert found["trueup_queue_rows", "b"] == 5
        assert {w for name, w in found if name == "trueup_process_resident_memory_bytes"} == {"0", "1"}


def test_a_killed_worker_loses_no_count_and_its_successor_counts_on(tmp_path: Path, started: list[Worker]):
    started += [Worker(tmp_path, 0), Worker(tmp_path, 1)]
    started[1].count("a", 5)
    started[1].kill()
    assert started[0].scrape()["trueup_requests_total", "a"] == 5
    started.append(Worker(tmp_path, 1))
    assert started[0].scrape()["trueup_requests_total", "a"] == 5
    started[2].count("b", 1)
    started[2].count("a", 2)
    for worker in (started[0], started[2]):
        found = worker.scrape()
        assert found["trueup_requests_total", "a"] == 7
        assert found["trueup_requests_total", "b"] == 1


def test_what_a_dead_worker_held_is_no_longer_waiting(
    tmp_path: Path, started: list[Worker], monkeypatch: pytest.MonkeyPatch
):
    started.append(Worker(tmp_path, 1))
    started[0].count("a", 1)
    started[0].kill()
    (folder,) = (tmp_path / "metrics").iterdir()
    monkeypatch.setattr(sharing, "DEAD_S", -1.0)
    metrics = Metrics()
    workers = Workers(folder, "0", metrics)
    page = Exposition(metrics, workers, "0").page("")[0].decode()
    workers.leave()
    assert 'trueup_requests_total{class="2xx",deployment="a",door="rest",outcome="ok"} 1.0' in page
    assert 'trueup_queue_rows{deployment="a"} 0.0' in page
    assert 'worker="1"' not in page


def test_what_was_counted_before_joining_is_counted(tmp_path: Path):
    metrics = Metrics()
    metrics.request(0, metrics.deployment("z", 9), "ok", 1)
    metrics.request(0, metrics.deployment("a", 1), "ok", 1)
    first = Workers(tmp_path, "0", metrics)
    metrics.ledger_unavailable(1)
    first.leave()
    successor = Metrics()
    successor.request(0, successor.deployment("a", 1), "ok", 1)
    workers = Workers(tmp_path, "0", successor)
    successor.ledger_unavailable(1)
    page = Exposition(successor, workers, "0").page("")[0].decode()
    workers.leave()
    assert 'trueup_ledger_unavailable_total{deployment="a"} 2.0' in page
    assert 'trueup_requests_total{class="2xx",deployment="a",door="rest",outcome="ok"} 2.0' in page
    assert 'trueup_requests_total{class="2xx",deployment="z",door="rest",outcome="ok"} 1.0' in page


@pytest.mark.parametrize("found", [b"", b"x" * 100, b"\x00" * 300_000])
def test_a_file_of_other_cells_is_made_anew_and_of_another_worker_ignored(tmp_path: Path, found: bytes):
    for number in ("0", "1"):
        (tmp_path / f"{number}.cells").write_bytes(found)
    metrics = Metrics()
    workers = Workers(tmp_path, "0", metrics)
    metrics.request(0, metrics.deployment("a"), "ok", 1)
    page = Exposition(metrics, workers, "0").page("")[0].decode()
    workers.leave()
    assert 'trueup_requests_total{class="2xx",deployment="a",door="rest",outcome="ok"} 1.0' in page
    assert 'worker="1"' not in page


@pytest.mark.parametrize("number", ["", "x", "../1", "-1", "99999"])
def test_who_has_no_number_is_no_worker(tmp_path: Path, number: str):
    assert Workers.joined(tmp_path, Metrics(), {"TRUEUP_WORKER": number}) is None
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_supervisor_that_has_ended_goes(tmp_path: Path):
    old = tmp_path / "metrics" / "999999999-17"
    old.mkdir(parents=True)
    (old / "0.cells").write_bytes(b"x")
    workers = Workers.joined(tmp_path, Metrics(), {"TRUEUP_WORKER": "3"})
    assert workers is not None
    workers.leave()
    assert [path.name.partition("-")[0] for path in (tmp_path / "metrics").iterdir()] == [str(os.getppid())]


def test_where_no_file_can_be_made_the_worker_counts_for_itself(tmp_path: Path):
    (tmp_path / "metrics").write_text("a file where the folder should be")
    metrics = Metrics()
    assert Workers.joined(tmp_path, metrics, {"TRUEUP_WORKER": "0"}) is None
    metrics.request(0, metrics.deployment("a"), "ok", 1)
