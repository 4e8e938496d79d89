"""A serving process is killed under load, where it hurts and at random; its callers retry with their keys.

Every answer that any caller was ever given has exactly one row with its id and score, in both modes. The model
never gives a score twice, so an answer that was made anew would show.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

import trueup
from databases import away
from trueup.bootstrap import wired
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.spool_survey import survey
from trueup.ledger.urls import Urls

TESTS = Path(__file__).parents[1]
CALLERS = 8
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
AIMED = {
    "spooled": [
        ("written, not synced", 9),
        ("synced, not answered", 13),
        ("booked, position not written", 7),
        ("position written", 11),
    ],
    "durable": [("committed, not answered", 15), ("committed, not answered", 4)],
}
RANDOM = 3  # kills of each mode at a random moment


@dataclass
class Place:
    """One data directory and database, and the server that comes and goes on it."""

    environment: dict[str, str]
    settings: trueup.Settings
    database: Urls
    key: str = ""
    process: subprocess.Popen[str] | None = None
    address: str = ""

    def start(self, kill: str | None = None) -> None:
        environment = self.environment | ({"TRUEUP_TEST_KILL": kill} if kill else {})
        command = [sys.executable, str(TESTS / "killed_server.py"), "up", "--port", "0", "--drain-seconds", "0"]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        if not self.key:
            self.key = self.process.stdout.readline().strip()
        lines = self.process.stderr
        self.address = next(found[1] for line in lines if (found := re.search(r"listens on (\S+)", line)))
        threading.Thread(target=lines.read, daemon=True).start()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def place(fresh_database: Urls, tmp_path: Path) -> Iterator[Place]:
    settings = trueup.Settings(data_dir=tmp_path)
    with trueup.Trueup(wired(settings, fresh_database)) as up:
        for name in ("durable", "spooled"):
            serving = trueup.Serving(mode=trueup.Mode(name), replay_grade=trueup.ReplayGrade.RECORD_ONLY)
            model = "python:small_models:never_twice"
            up.deploy(name, contract=CONTRACT, model=model, version="1", serving=serving)
    environment = {
        **os.environ,
        "TRUEUP_DATABASE_URL": fresh_database.owner,
        "TRUEUP_DATA_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    made = Place(environment, settings, fresh_database)
    yield made
    if made.process is not None:
        made.kill()


@dataclass
class Callers:
    """Requests with a key each, repeated until they are answered, and a while after that."""

    place: Place
    deployment: str
    answers: dict[str, list[tuple[str, float]]] = field(default_factory=dict)  # by key, every answer ever given
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, http: httpx2.Client, key: str) -> bool:
        """Whether there was an answer."""
        sent: dict[str, Any] = {
            "inputs": [
                {"name": "account", "shape": [1], "datatype": "BYTES", "data": [key]},
                {"name": "amount", "shape": [1], "datatype": "FP64", "data": [1.0]},
            ],
            "parameters": {"idempotency_key": key},
        }
        with suppress(httpx2.HTTPError):
            response = http.post(
                f"{self.place.address}/v2/models/{self.deployment}/infer",
                json=sent,
                headers={"Authorization": f"Bearer {self.place.key}"},
            )
            if response.status_code == 200:
                found = {o["name"]: o["data"][0] for o in response.json()["outputs"]}
                with self.lock:
                    self.answers.setdefault(key, []).append((found["prediction_id"], found["score"]))
                return True
            assert response.status_code == 503, response.text
        return False

    def until_killed(self, round_: str) -> list[str]:
        """Everybody asks until the server is gone; the keys that were sent."""
        keys: list[str] = []

        def call(caller: int) -> None:
            with httpx2.Client(timeout=30) as http:
                for i in range(2_000):
                    assert self.place.process is not None
                    if self.place.process.poll() is not None:
                        return
                    key = f"{round_}-{caller}-{i}"
                    with self.lock:
                        keys.append(key)
                    self.ask(http, key)

        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(call, range(CALLERS)))
        return keys

    def repeat(self, keys: list[str]) -> None:
        """Everybody asks again for everything that was sent, answered or not."""
        with httpx2.Client(timeout=30) as http, ThreadPoolExecutor(CALLERS) as pool:
            assert all(pool.map(lambda key: self.ask(http, key), keys))


def rows(place: Place, deployment: str) -> dict[str, list[tuple[str, float]]]:
    with trueup.Trueup(wired(place.settings, place.database)) as up:
        found = up.query(
            "SELECT source_key, prediction_id::text AS id, score FROM predictions WHERE deployment = %(name)s",
            name=deployment,
        ).rows()
    booked: dict[str, list[tuple[str, float]]] = {}
    for row in found:
        booked.setdefault(row["source_key"], []).append((row["id"], row["score"]))
    return booked


def is_drained(place: Place) -> bool:
    return all(spool["rows"] == 0 for spool in survey(place.settings.data_dir / "spool"))


def until_drained(place: Place) -> None:
    end = time.monotonic() + 60
    while not is_drained(place):
        assert time.monotonic() < end
        time.sleep(0.02)


def check(place: Place, callers: Callers, sent: list[str]) -> None:
    """Nothing lost, nothing doubled, nobody told anything else."""
    booked = rows(place, callers.deployment)
    assert {key for key, held in booked.items() if len(held) != 1} == set()
    assert {key: set(given) for key, given in callers.answers.items()} == {k: set(v) for k, v in booked.items()}
    assert set(booked) == set(sent)
    assert all(not spool["dead_letters"] for spool in survey(place.settings.data_dir / "spool"))


@pytest.mark.parametrize("mode", ["spooled", "durable"])
def test_killed_where_it_hurts_and_at_random(place: Place, mode: str):
    callers, sent = Callers(place, mode), []
    dice = random.Random(20_261_124)
    for number, (point, nth) in enumerate(AIMED[mode]):
        place.start(f"{point}:{nth}")
        keys = callers.until_killed(f"aimed-{number}")
        assert place.process is not None
        assert place.process.returncode == -signal.SIGKILL
        sent += keys
        place.start()
        callers.repeat(keys)
        place.kill()
    for number in range(RANDOM):
        place.start()
        killing = threading.Timer(dice.uniform(0.2, 1.5), place.kill)
        killing.start()
        keys = callers.until_killed(f"random-{number}")
        killing.join()
        sent += keys
        place.start()
        callers.repeat(keys)
        place.stop()
    place.start()
    until_drained(place)
    place.stop()
    print(f"\n{mode}: {len(sent)} keys, {sum(map(len, callers.answers.values()))} answers")
    check(place, callers, sent)


def test_killed_while_the_database_is_away(place: Place, server: EmbeddedPostgres):
    callers = Callers(place, "spooled")
    place.start()
    callers.repeat(["before"])
    with away(server, place.database):
        threading.Timer(1.0, place.kill).start()
        keys = callers.until_killed("away")
        assert len(callers.answers) > 5
        with pytest.raises(StopIteration):  # without its database a server does not start, and says so
            place.start()
        assert place.process is not None
        assert place.process.wait(30) == 7
        assert not is_drained(place)
    place.start()
    callers.repeat(keys)
    until_drained(place)
    check(place, callers, ["before", *keys])


def test_stopped_with_undrained_rows_they_are_drained_by_the_next_process(place: Place, server: EmbeddedPostgres):
    callers = Callers(place, "spooled")
    place.start()
    callers.repeat(["before"])
    until_drained(place)
    with away(server, place.database):
        callers.repeat([str(i) for i in range(20)])
        place.stop()
        assert sum(spool["rows"] for spool in survey(place.settings.data_dir / "spool")) == 20
    done = subprocess.run(
        [sys.executable, "-m", "trueup", "spool", "drain", "--json"],
        env=place.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"drained_rows": 20' in done.stdout
    assert is_drained(place)
    check(place, callers, ["before", *(str(i) for i in range(20))])
