"""The database goes away under load: `durable` refuses quickly and recovers, `spooled` goes on, and rows equal answers.

TRUEUP_TEST_OUTAGE_S says for how long (20 s unless given).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import pytest

import trueup
from databases import away
from serving import Served, serving
from trueup.bootstrap import open_services, wired
from trueup.doors.auth import ApiRole
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls
from trueup.settings import Limits

OUTAGE_S = float(os.environ.get("TRUEUP_TEST_OUTAGE_S", "20"))
QUICK_S = 1.0
PAUSE_S = 0.02  # of each caller between two requests
CALLERS = 3  # of each deployment
CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: {type: float64, minimum: 0}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
decision: {threshold: 0.5}
"""


def deploy(up: trueup.Trueup, model: str = "never_twice") -> None:
    for name, mode in (("durable", trueup.Mode.DURABLE), ("spooled", trueup.Mode.SPOOLED)):
        up.deploy(
            name,
            contract=CONTRACT,
            model=f"python:small_models:{model}",
            version="1",
            serving=trueup.Serving(mode=mode, replay_grade=trueup.ReplayGrade.RECORD_ONLY),
        )


def body(amount: float, key: str | None = None) -> dict[str, Any]:
    sent: dict[str, Any] = {
        "inputs": [
            {"name": "account", "shape": [1], "datatype": "BYTES", "data": ["1"]},
            {"name": "amount", "shape": [1], "datatype": "FP64", "data": [amount]},
        ]
    }
    return sent if key is None else sent | {"parameters": {"idempotency_key": key}}


def answered(response: Any) -> tuple[str, float]:
    assert response.status_code == 200, response.text
    found = {o["name"]: o["data"][0] for o in response.json()["outputs"]}
    return found["prediction_id"], found["score"]


@dataclass
class Load:
    """Callers of one deployment: every second request has a key, and every fourth repeats the one before."""

    door: Served
    name: str
    answers: dict[str, float] = field(default_factory=dict)
    codes: list[tuple[float, int, float]] = field(default_factory=list)  # when, status, seconds
    changed: list[str] = field(default_factory=list)  # repeats that were answered otherwise
    stop: threading.Event = field(default_factory=threading.Event)

    def call(self, caller: int) -> None:
        last: tuple[str, float, tuple[str, float] | None] = ("", 0.0, None)
        with httpx2.Client(timeout=60) as http:
            for i in count():
                if self.stop.is_set():
                    return
                key, amount = (f"{caller}-{i}" if i % 2 else None), float(i % 1000)
                repeat = i % 4 == 3 and last[2] is not None
                if repeat:
                    key, amount = last[:2]
                got = self.once(http, amount, key)
                if repeat and got is not None and got != last[2]:
                    self.changed.append(last[0])
                if key is not None:
                    last = (key, amount, got)
                time.sleep(PAUSE_S)

    def once(self, http: httpx2.Client, amount: float, key: str | None) -> tuple[str, float] | None:
        began = time.monotonic()
        url = f"http://{self.door.address}/v2/models/{self.name}/infer"
        response = http.post(url, json=body(amount, key), headers=self.door.headers(ApiRole.SCORER))
        self.codes.append((began, response.status_code, time.monotonic() - began))
        if response.status_code != 200:
            return None
        found = answered(response)
        self.answers[found[0]] = found[1]
        return found


@contextmanager
def under_load(door: Served) -> Iterator[tuple[Load, Load]]:
    loads = Load(door, "durable"), Load(door, "spooled")
    threads = [threading.Thread(target=load.call, args=(i,)) for load in loads for i in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield loads
    finally:
        for load in loads:
            load.stop.set()
        for thread in threads:
            thread.join()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for it, and fails when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_drained(door: Served) -> bool:
    spool = door.up.services.spool
    assert spool is not None
    return spool.stats()["depth_rows"] == 0


def exposed(door: Served, name: str) -> float:
    """A gauge as a scrape tells it."""
    lines = door.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def booked(door: Served, name: str) -> list[tuple[str, float]]:
    rows = door.up.query(
        "SELECT prediction_id::text AS id, score FROM predictions WHERE deployment = %(name)s", name=name
    ).rows()
    return [(row["id"], row["score"]) for row in rows]


def outage_is_survived(door: Served, outage: Callable[[], AbstractContextManager[None]]) -> None:
    with under_load(door) as (durable, spooled):
        until(lambda: len(durable.answers) > 30 and len(spooled.answers) > 30)
        with outage():
            began = time.monotonic()
            time.sleep(OUTAGE_S / 2)
            checks = door.get("/health/ready", role=None)
            assert (checks.status_code, checks.json()["checks"]) == (
                200,
                {"ledger": False, "registry": False, "models": True, "spool": True},
            )
            assert door.get("/v2/health/ready", role=None).status_code == 200
            assert exposed(door, "trueup_spool_rows") > 0
            assert exposed(door, "trueup_spool_oldest_seconds") > 0
            time.sleep(OUTAGE_S / 2)
            ended = time.monotonic()
        known = len(durable.answers)
        until(lambda: len(durable.answers) > known + 30)
    until(lambda: is_drained(door))

    meanwhile = [code for at, code, took in durable.codes if began + QUICK_S < at and at + took < ended]
    assert set(meanwhile) == {503}
    refused = [took for _, code, took in durable.codes if code != 200]
    slowest = max(took for _, _, took in spooled.codes)
    print(f"\n{OUTAGE_S:.0f} s away: durable refused {len(refused)}, slowest after {max(refused):.3f} s; "
          f"spooled answered {len(spooled.codes)}, slowest after {slowest:.3f} s")  # fmt: skip
    assert max(refused) < QUICK_S
    assert {code for _, code, _ in durable.codes} == {200, 503}
    assert {code for _, code, _ in spooled.codes} == {200}
    assert not spooled.changed
    assert not durable.changed

    rows = booked(door, "spooled")
    assert len(rows) == len(dict(rows))
    assert dict(rows) == spooled.answers
    rows = booked(door, "durable")
    assert len(rows) == len(dict(rows))
    assert durable.answers.items() <= dict(rows).items()
    assert door.up.services.spool is not None
    assert door.up.services.spool.stats()["conflicts"] == 0


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    deploy(up)
    with serving(up) as served:
        yield served


def test_connections_are_cut_and_refused(door: Served, server: EmbeddedPostgres, fresh_database: Urls):
    outage_is_survived(door, lambda: away(server, fresh_database))


def test_the_server_is_stopped_and_started():
    with (
        TemporaryDirectory() as folder,  # not pytest's, which each of its runs closes to other users
        trueup.Trueup(open_services(trueup.Settings(data_dir=Path(folder)))) as up,
    ):
        postgres = up.services.embedded
        assert postgres is not None

        @contextmanager
        def stopped() -> Iterator[None]:
            postgres._run("pg_ctl", "-D", str(Path(folder) / "postgres"), "-m", "immediate", "-w", "stop")
            yield
            postgres._ensure_running()

        deploy(up)
        with serving(up) as door:
            outage_is_survived(door, stopped)


def test_a_full_spool_refuses_and_is_not_ready_until_it_is_drained(
    fresh_database: Urls, server: EmbeddedPostgres, tmp_path: Path
):
    settings = trueup.Settings(data_dir=tmp_path, limits=Limits(spool_rows=5))
    with trueup.Trueup(wired(settings, fresh_database)) as up:
        deploy(up)
        with serving(up) as door:
            answered(door.infer(body(1.0), model="spooled"))
            until(lambda: is_drained(door))
            with away(server, fresh_database):
                codes = [door.infer(body(1.0), model="spooled").status_code for _ in range(8)]
                assert codes == [200] * 5 + [503] * 3
                assert door.get("/health/ready", role=None).status_code == 503
                assert up.services.spool is not None
                assert up.services.spool.stats()["refused"] == 3
            until(lambda: is_drained(door))
            until(lambda: door.get("/health/ready", role=None).status_code == 200)
            assert door.infer(body(1.0), model="spooled").status_code == 200
            until(lambda: is_drained(door))
            assert door.count() == 7


def test_a_bad_request_is_told_what_is_wrong_while_the_database_is_away(
    door: Served, server: EmbeddedPostgres, fresh_database: Urls
):
    door.infer(body(1.0), model="spooled")
    with away(server, fresh_database):
        assert door.infer(body(-1.0), model="spooled").status_code == 400
    until(lambda: is_drained(door))
    assert door.count("refusals", "reason = 'contract'") == 1


def test_management_requests_are_spooled_too(door: Served, server: EmbeddedPostgres, fresh_database: Urls):
    url = f"http://{door.address}/v1/deployments/spooled/score"
    sent = {"instance": {"account": "1", "amount": 2.0}, "key": "k"}
    first = door.http.post(url, json=sent, headers=door.headers(ApiRole.SCORER))
    until(lambda: is_drained(door))
    time.sleep(1.1)  # what is in memory is older than the registry is asked again
    with away(server, fresh_database):
        again = door.http.post(url, json=sent, headers=door.headers(ApiRole.SCORER))
        other = door.http.post(url, json=sent | {"key": "k2"}, headers=door.headers(ApiRole.SCORER))
    assert [r.status_code for r in (first, again, other)] == [200, 200, 200]
    assert first.json()["prediction_id"] == again.json()["prediction_id"]
    assert first.json()["score"] == again.json()["score"] != other.json()["score"]
    until(lambda: is_drained(door))
    assert door.count() == 2


def test_outside_a_server_what_is_declared_spooled_is_booked_durably(up: trueup.Trueup):
    deploy(up)
    up.score("spooled", [{"account": "1", "amount": 2.0}])
    assert len(up.query("SELECT 1 AS one FROM predictions").rows()) == 1
