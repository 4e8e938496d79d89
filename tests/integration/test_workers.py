"""Several workers behind one port: what they share, what each has, and what happens when one ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

import trueup
from running import CONTRACT, Caller, Up, running, until
from trueup.bootstrap import wired
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb
from trueup.doors.inference.grpc.generated import open_inference_pb2_grpc as stubs
from trueup.ledger.urls import Urls
from trueup.scoring.models import REFRESH_S


@pytest.fixture
def ledger(tmp_path: Path, fresh_database: Urls) -> Iterator[trueup.Trueup]:
    """A deployment that waits for `trueup up`, which uses the same store."""
    with trueup.Trueup(wired(trueup.Settings(data_dir=tmp_path / "data"), fresh_database)) as opened:
        opened.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
        yield opened


@pytest.fixture
def two(ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls) -> Iterator[Up]:
    with running(tmp_path, fresh_database, workers=2, drain="0.2") as up:
        until(up.ready)
        yield up


def kept(up: Up, n: int = 10) -> list[Caller]:
    """Connections that stay open: with ten, both workers have one, but for once in 500."""
    made = [Caller(up, f"kept{i}") for i in range(n)]
    for one in made:
        one.connection.connect()
    return made


def read(caller: Caller, path: str) -> Any:
    caller.connection.request("GET", path, headers={"Authorization": f"Bearer {caller.up.key}"})
    return json.loads(caller.connection.getresponse().read())


class TestTheWorkers:
    def test_each_is_a_process_with_its_number_memory_and_models(self, two: Up) -> None:
        reports: list[dict[str, Any]] = []  # of one answer: to another worker they may be a second older

        def ready() -> bool:
            reports[:] = two.workers()
            return [worker["ready"] for worker in reports] == [True, True]

        until(ready)
        first, second = reports
        assert (first["worker"], second["worker"]) == (1, 2)
        children = {child.pid for child in psutil.Process(two.process.pid).children()}
        assert {first["pid"], second["pid"]} == children
        for worker in (first, second):
            assert psutil.Process(worker["pid"]).environ()["TRUEUP_WORKER"] == str(worker["worker"])
            assert worker["rss_bytes"] > 20e6
            (model,) = worker["models"]
            assert (model["deployment"], model["version"], model["role"]) == ("t", "1", "champion")
            assert 0 <= model["memory_bytes"] < worker["rss_bytes"]

    def test_the_address_is_announced_once_and_the_first_key_made_once(self, two: Up) -> None:
        assert sum("listens on" in line for line in two.said) == 1
        assert sum(line.startswith("tu_") for line in two.said) == 1

    def test_models_are_loaded_before_it_is_ready(self, two: Up) -> None:
        for caller in kept(two):
            found = read(caller, "/health/ready")
            assert found["checks"]["models"] is True
            assert found["deployments"] == {"loaded": 1, "behind": 0, "failed": 0}

    def test_a_promotion_reaches_all_of_them_within_a_moment(self, two: Up, ledger: trueup.Trueup) -> None:
        callers = kept(two)
        ledger.deploy("t", contract=CONTRACT, model="python:small_models:always_half", version="2")
        began = time.monotonic()
        until(lambda: all(read(c, "/v1/deployments/t")["serving_revision"] == 2 for c in callers))
        assert time.monotonic() - began < REFRESH_S + 1
        assert {c.asked(f"k{i}", 10.0)[1]["score"] for i, c in enumerate(callers)} == {0.5}


class TestOneIdentity:
    def test_one_key_sent_by_32_callers_to_all_workers_is_one_row_and_one_answer(
        self, two: Up, ledger: trueup.Trueup
    ) -> None:
        callers = kept(two, 32)
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda caller: caller.asked("same", 250_000.0), callers))
        assert {status for status, _ in answers} == {200}
        assert len({answer["prediction_id"] for _, answer in answers}) == 1
        assert sum(not answer["repeated"] for _, answer in answers) == 1
        assert ledger.query("SELECT count(*) AS n FROM predictions").rows()[0]["n"] == 1

    def test_another_worker_gives_the_first_answer_and_refuses_other_content(self, two: Up) -> None:
        first, *others = kept(two)
        status, answer = first.asked("a", 250_000.0)
        assert status == 200
        assert {c.asked("a", 250_000.0)[1]["prediction_id"] for c in others} == {answer["prediction_id"]}
        assert {c.asked("a", 1.0)[0] for c in others} == {409}

    def test_so_does_a_server_that_was_started_again_after_a_promotion(
        self, ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls
    ) -> None:
        with running(tmp_path, fresh_database, workers=2, drain="0") as up:
            first = [up.ask(i, f"k{i}", 250_000.0) for i in range(5)]
            key = up.key
            assert up.stop() == 0
        ledger.deploy("t", contract=CONTRACT, model="python:small_models:always_half", version="2")
        with running(tmp_path, fresh_database, workers=2, drain="0") as up:
            assert up.key == ""
            up.key = key
            again = [up.ask(i, f"k{i}", 250_000.0) for i in range(5)]
            assert up.ask(9, "other", 250_000.0)[1]["score"] == 0.5
            assert up.stop() == 0
        assert again == [(status, {**answer, "repeated": True}) for status, answer in first]


class TestAWorkerThatEnds:
    def test_is_started_again_under_its_number_and_the_other_goes_on(self, two: Up) -> None:
        until(lambda: len(two.workers()) == 2)
        victim, survivor = two.workers()
        psutil.Process(victim["pid"]).kill()
        two.told("worker_ended.*worker=(1)")
        until(lambda: len(found := two.pids()) == 2 and victim["pid"] not in found)
        assert [w["worker"] for w in two.workers()] == [1, 2]
        assert two.pids()[1] == survivor["pid"]
        assert two.stop() == 0

    def test_told_to_end_drains_and_is_replaced(self, two: Up) -> None:
        until(lambda: len(two.workers()) == 2)
        victim, _ = two.workers()
        psutil.Process(victim["pid"]).terminate()
        until(lambda: len(found := two.pids()) == 2 and victim["pid"] not in found)

    def test_too_often_is_given_up_and_the_exit_code_tells(
        self, ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls
    ) -> None:
        with running(tmp_path, fresh_database, workers=2, drain="0", TRUEUP_LIMITS__WORKER_RESTARTS="1") as up:
            for _ in range(2):
                until(lambda: len(up.workers()) == 2)
                pid = up.workers()[0]["pid"]
                psutil.Process(pid).kill()
                until(lambda pid=pid: (found := up.pids()) != [] and pid not in found)  # type: ignore[misc]
            up.told("(worker_given_up)")
            assert [w["worker"] for w in up.workers()] == [2]
            assert up.ask(0, "a", 1.0)[0] == 200
            assert up.stop() == 1

    def test_when_the_last_is_given_up_the_server_ends(
        self, ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls
    ) -> None:
        with running(tmp_path, fresh_database, workers=2, drain="0", TRUEUP_LIMITS__WORKER_RESTARTS="0") as up:
            for child in psutil.Process(up.process.pid).children():
                child.kill()
            assert up.process.wait(30) == 1

    def test_before_it_listens_stops_the_start(self, tmp_path: Path, fresh_database: Urls) -> None:
        (tmp_path / "sitecustomize.py").write_text("import os\n'TRUEUP_WORKER' in os.environ and os._exit(7)\n")
        ended = subprocess.run(
            [sys.executable, "-m", "trueup", "up", "--port", "0", "--workers", "2"],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env={
                **os.environ,
                "TRUEUP_DATABASE_URL": fresh_database.owner,
                "TRUEUP_DATA_DIR": str(tmp_path / "data"),
                "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
            },
        )
        assert ended.returncode == 1
        assert "code=7" in ended.stderr
        assert "listens on" not in ended.stderr


class TestStopping:
    def test_readiness_is_false_first_on_every_worker_and_requests_are_answered(
        self, ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls
    ) -> None:
        with running(tmp_path, fresh_database, workers=2, drain="3") as up:
            until(up.ready)
            callers = kept(up)
            up.process.send_signal(signal.SIGTERM)
            until(lambda: all(read(c, "/health/ready") == {"status": "draining"} for c in callers))
            status, _ = callers[0].asked("late", 1.0)
            assert status == 200
            assert callers[0].closing
            assert up.process.wait(30) == 0

    def test_a_second_signal_does_not_wait(self, ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls) -> None:
        with running(tmp_path, fresh_database, workers=2, drain="100") as up:
            up.process.send_signal(signal.SIGTERM)
            until(lambda: up.get("/health/ready")[0] == 503)
            assert up.stop(signal.SIGTERM, seconds=30) == 0

    def test_a_worker_that_does_not_end_is_killed_and_the_exit_code_tells(
        self, ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls
    ) -> None:
        with running(tmp_path, fresh_database, workers=2, drain="0") as up:
            stuck, other = psutil.Process(up.process.pid).children()
            stuck.suspend()
            up.process.send_signal(signal.SIGTERM)
            other.wait(30)
            assert up.stop(signal.SIGTERM, seconds=30) == 1
            assert not stuck.is_running()

    def test_workers_do_not_outlive_a_supervisor_that_is_killed(self, two: Up) -> None:
        children = psutil.Process(two.process.pid).children()
        two.process.kill()
        _, alive = psutil.wait_procs(children, 30)
        assert alive == []


class TestOtherDoors:
    def test_all_workers_share_the_ports_of_grpc_and_administration_too(
        self, ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls
    ) -> None:
        ports = {"TRUEUP_GRPC_PORT": "0", "TRUEUP_ADMIN_PORT": "0"}
        with running(tmp_path, fresh_database, workers=2, drain="0.2", **ports) as up:
            address = up.told(r"listens on grpc://(\S+)")
            assert sum("listens on" in line for line in up.said) == 2
            for i in range(10):
                with grpc.insecure_channel(address) as channel:
                    ready = stubs.GRPCInferenceServiceStub(channel).ModelReady
                    assert ready(pb.ModelReadyRequest(name="t"), metadata=[("authorization", f"Bearer {up.key}")]).ready
                    assert up.ask(i, f"k{i}", 1.0)[0] == 200
            assert up.stop() == 0


class TestTheDatabase:
    def test_the_embedded_one_is_started_once_shared_and_stopped_at_the_end(self, tmp_path: Path) -> None:
        with running(tmp_path, None, workers=2, drain="0") as up:
            with trueup.connect(trueup.Settings(data_dir=tmp_path / "data")) as opened:
                opened.deploy("t", contract=CONTRACT, model="python:small_models:always_half", version="1")
            assert {up.ask(i, f"k{i}", 1.0)[0] for i in range(10)} == {200}
            assert (tmp_path / "data/postgres/postmaster.pid").exists()
            assert up.stop() == 0
        assert not (tmp_path / "data/postgres/postmaster.pid").exists()

    def test_too_few_connections_for_so_many_workers_are_told(self, tmp_path: Path, fresh_database: Urls) -> None:
        with running(tmp_path, fresh_database, workers=2, drain="0", TRUEUP_LIMITS__POOL_CONNECTIONS="60") as up:
            assert any("2 workers may need 248 connections, the database allows 100" in line for line in up.said)
            assert up.stop() == 0


def test_a_port_that_another_server_has_is_not_shared_with_it(two: Up, tmp_path: Path, fresh_database: Urls) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "trueup", "up", "--port", two.address.split(":")[1], "--workers", "2"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TRUEUP_DATABASE_URL": fresh_database.owner, "TRUEUP_DATA_DIR": str(tmp_path / "data")},
    )
    assert ended.returncode == 7
    assert "cannot be listened on" in ended.stderr


def test_a_model_that_cannot_be_loaded_is_reported_and_stops_no_other(
    ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/gone_models.py").write_text(
        "import numpy\n\ndef half(c):\n    return numpy.full(len(c), 0.5)\n"
    )
    with monkeypatch.context() as here:
        here.syspath_prepend(tmp_path / "elsewhere")
        ledger.deploy("gone", contract=CONTRACT, model="python:gone_models:half", version="9")
    with running(tmp_path, fresh_database, workers=1, drain="0") as up:
        until(up.ready)
        assert up.get("/health/ready")[1]["deployments"] == {"loaded": 1, "behind": 0, "failed": 1}
        _, document = up.get("/v1/deployments/gone")
        assert document["serving_revision"] is None
        assert document["load_failure"]["message"] == "there is no such Python function"
        assert up.ask(0, "a", 1.0)[0] == 200
        assert up.stop() == 0
