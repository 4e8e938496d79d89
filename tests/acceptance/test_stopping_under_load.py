"""SIGTERM while callers keep on asking: nothing that was accepted is lost, with one worker and with two."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import trueup
from running import CONTRACT, Answered, ends, load, running, until
from trueup.bootstrap import wired
from trueup.domain.deployment import Mode, Serving
from trueup.ledger.urls import Urls

CALLERS = 16


@pytest.fixture
def ledger(tmp_path: Path, fresh_database: Urls) -> trueup.Trueup:
    """A deployment that waits for `trueup up`, which uses the same store."""
    opened = trueup.Trueup(wired(trueup.Settings(data_dir=tmp_path / "data"), fresh_database))
    opened.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    return opened


def rows(ledger: trueup.Trueup) -> dict[str, str]:
    """Every booked key with its prediction's id; keys are unique or this fails."""
    found = ledger.query("SELECT source_key, prediction_id::text AS id FROM predictions").rows()
    assert len({row["source_key"] for row in found}) == len(found)
    return {row["source_key"]: row["id"] for row in found}


def id_of(end: Answered) -> str:
    """The prediction's id in either protocol's answer."""
    if "outputs" in end.document:
        (found,) = [o["data"][0] for o in end.document["outputs"] if o["name"] == "prediction_id"]
        return str(found)
    return str(end.document["prediction_id"])


@pytest.mark.parametrize("workers", [1, 2])
def test_every_answer_has_its_row_and_every_accepted_request_its_answer(
    ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls, workers: int
) -> None:
    with running(tmp_path, fresh_database, workers=workers, drain="1") as up:
        until(up.ready)
        processes = psutil.Process(up.process.pid).children()
        with load(up, CALLERS) as callers:
            until(lambda: all(len(caller.ends) > 20 for caller in callers))
            up.process.send_signal(signal.SIGTERM)
            until(lambda: not any(caller.thread.is_alive() for caller in callers))
        assert up.process.wait(60) == 0
    found = ends(callers)
    booked = rows(ledger)
    assert [end for end in found if end.status != 200] == []
    assert booked == {end.key: id_of(end) for end in found}
    assert all(any(end.closing for end in caller.ends) for caller in callers)
    assert not any(process.is_running() for process in processes)


def test_spooled_answers_are_on_disk_when_two_workers_stop_and_reach_the_ledger_once(
    ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls
) -> None:
    half = "python:small_models:always_half"
    ledger.deploy("t", contract=CONTRACT, model=half, version="2", serving=Serving(mode=Mode.SPOOLED))
    with running(tmp_path, fresh_database, workers=2, drain="1") as up:
        until(up.ready)
        with load(up, CALLERS) as callers:
            until(lambda: all(len(caller.ends) > 20 for caller in callers))
            up.process.send_signal(signal.SIGTERM)
            until(lambda: not any(caller.thread.is_alive() for caller in callers))
        assert up.process.wait(60) == 0
        drained = subprocess.run([sys.executable, "-m", "trueup", "spool", "drain"], env=up.environment, check=False)
    assert drained.returncode == 0
    found = ends(callers)
    assert [end for end in found if end.status != 200] == []
    assert rows(ledger) == {end.key: id_of(end) for end in found}


@pytest.mark.parametrize("workers", [1, 2])
def test_at_the_keyboard_it_does_not_wait_and_loses_nothing_either(
    ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls, workers: int
) -> None:
    with running(tmp_path, fresh_database, workers=workers, drain="60") as up:
        until(up.ready)
        with load(up, CALLERS) as callers:
            until(lambda: all(len(caller.ends) > 20 for caller in callers))
            assert up.stop(signal.SIGINT, seconds=30) == 0
            until(lambda: not any(caller.thread.is_alive() for caller in callers))
    found = ends(callers)
    booked = rows(ledger)
    answered = [end for end in found if end.status == 200]
    assert all(booked[end.key] == id_of(end) for end in answered)
    assert all(end.whole for end in found)
    assert len(booked) == len(answered)


def test_a_killed_worker_costs_its_own_callers_a_retry_and_nobody_a_row(
    ledger: trueup.Trueup, tmp_path: Path, fresh_database: Urls
) -> None:
    with running(tmp_path, fresh_database, workers=2) as up:
        until(up.ready)
        with load(up, CALLERS, again=True) as callers:
            until(lambda: all(len(caller.ends) > 20 for caller in callers))
            victim, survivor = up.workers()
            psutil.Process(victim["pid"]).kill()
            until(lambda: len(found := up.pids()) == 2 and victim["pid"] not in found)
            counted = len(ends(callers))
            until(lambda: len(ends(callers)) > counted + 100)
            assert survivor["pid"] in up.pids()
        first = {end.key: end for end in ends(callers) if end.status == 200}
        ledger.deploy("t", contract=CONTRACT, model="python:small_models:always_half", version="2")
        sample = list(first.items())[-40:]
        again = [
            up.ask(number, key, 1000.0 * (int(key.partition("-")[2]) % 900), oip="outputs" in end.document)
            for number, (key, end) in enumerate(sample)
        ]
        assert up.stop() == 0
    found = ends(callers)
    assert {end.status for end in found} <= {200, 0}
    assert any(end.status == 0 for end in found)
    assert set(rows(ledger)) == set(first)
    for (_, end), (status, document) in zip(sample, again, strict=True):
        assert status == 200
        assert id_of(Answered("", 200, document)) == id_of(end)
