"""received = answered + repeated + refused, counted in the ledger itself; a row that is missing shows."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

import trueup
from streaming import CONTRACT, WIDER, Command, Reading, trade
from trueup.bootstrap import utc_now
from trueup.doors.kafka import reconciling
from trueup.doors.kafka.reconciling import Reconciling
from trueup.ledger.urls import Urls

TOO_MUCH = trade(7, amount=2e6)
Line = tuple[Any, ...]


@pytest.fixture
def command(fresh_database: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(fresh_database, tmp_path, monkeypatch)


def lines(command: Command, *arguments: str, code: int = 0) -> list[Line]:
    """Partition, received, answered, repeated, refused, difference."""
    names = ("partition", "received", "answered", "repeated", "refused", "difference")
    return [tuple(line[n] for n in names) for line in command.json("reconcile", *arguments, code=code)]


def change(urls: Urls, statement: str) -> None:
    """As the owner, whom nothing holds back."""
    with psycopg.connect(urls.owner) as connection:
        assert connection.execute(statement.encode()).rowcount == 1


def test_every_partition_balances(up: trueup.Trueup, command: Command):
    reading = Reading(up)
    reading.read([trade(1), trade(2), b"{", [trade(3), TOO_MUCH], trade(4), []], partitions=2)
    reading.read([trade(5)])
    assert lines(command) == [(0, 4, 3, 0, 1, 0), (1, 3, 2, 0, 1, 0)]
    (first, _) = command.json("reconcile")
    assert (first["deployment"], first["topic"], first["day"], first["reads"]) == (
        "trades",
        "trades",
        utc_now().date().isoformat(),
        2,
    )
    assert (first["records"], first["skipped"], first["reread"], first["replayed"]) == (4, 0, 0, 0)
    assert lines(command, "--deployment", "trades", "--until", "2020-01-01", "--from", "2019-12-31") == []
    assert b"trades" in command("reconcile")
    command("reconcile", "--deployment", "other", code=4)
    command("reconcile", "--from", "2026-01-02", "--until", "2026-01-01", code=2)


def test_a_row_that_is_missing_shows_at_its_partition(up: trueup.Trueup, command: Command, fresh_database: Urls):
    Reading(up).read([trade(i) for i in range(6)], partitions=3)
    change(fresh_database, "DELETE FROM ledger.predictions WHERE source_key = '1/0'")
    assert lines(command, code=1) == [(0, 2, 2, 0, 0, 0), (1, 2, 1, 0, 0, 1), (2, 2, 2, 0, 0, 0)]
    assert "1 of 3 lines do not balance" in command.error


def test_a_letter_that_is_missing_shows(up: trueup.Trueup, command: Command, fresh_database: Urls):
    Reading(up).read([trade(1), [TOO_MUCH, TOO_MUCH], b"{"])
    change(fresh_database, "DELETE FROM ledger.dead_letters WHERE record_offset = 1")
    assert lines(command, code=1) == [(0, 4, 1, 0, 1, 2)]


def test_events_with_an_id_of_their_own(up: trueup.Trueup, command: Command, fresh_database: Urls):
    reading = Reading(up, identity="value.account")
    reading.read([trade(i) for i in range(6)], partitions=2)
    reading.read([trade(1), trade(9)], partitions=2)
    assert lines(command) == [(0, 4, 3, 1, 0, 0), (1, 4, 4, 0, 0, 0)]
    change(fresh_database, "DELETE FROM ledger.predictions WHERE source_key = 'A0'")
    assert lines(command, code=1) == [(0, 4, 3, 1, 0, 0), (1, 4, 3, 0, 0, 1)]


def test_a_batch_that_is_gone_shows(up: trueup.Trueup, command: Command, fresh_database: Urls):
    Reading(up).read([trade(1)])
    change(fresh_database, "DELETE FROM ledger.predictions")
    assert lines(command, code=1) == [(0, 1, 0, 0, 0, 1)]


def test_challengers_count_once(up: trueup.Trueup, command: Command):
    reading = Reading(up)
    registry = up.services.registry
    first = registry.deployment("trades").champion
    reading.deploy(CONTRACT, "2")
    now = registry.deployment("trades")
    registry.deploy(replace(now, shadows=(first,)), by="test")
    reading.read([trade(1), trade(2)])
    assert lines(command) == [(0, 2, 2, 0, 0, 0)]


def test_a_replay_changes_no_balance(up: trueup.Trueup, command: Command):
    reading = Reading(up)
    reading.read([trade(1), TOO_MUCH])
    reading.deploy(WIDER, "2")
    command("dlq", "replay", "--deployment", "trades")
    assert lines(command) == [(0, 2, 1, 0, 1, 0)]
    assert command.json("reconcile")[0]["replayed"] == 1
    reading.read([trade(3)])
    assert lines(command) == [(0, 3, 2, 0, 1, 0)]


def rewound(up: trueup.Trueup) -> None:
    """As the runbook has it: only the owner moves a position back."""
    with psycopg.connect(up.services.urls.owner) as connection:
        connection.execute("UPDATE ledger.positions SET next_offset = 0")


def test_jumps_and_rewinds_are_told_and_balance(up: trueup.Trueup, command: Command):
    reading = Reading(up)
    reading.read([trade(1), TOO_MUCH, b"{"])
    reading.read([trade(4)], start=10)
    (line,) = command.json("reconcile")
    assert (line["skipped"], line["reread"]) == (7, 0)
    rewound(up)
    reading.read([trade(1), TOO_MUCH, b"{", b"}", trade(8)], start=0)
    assert lines(command) == [(0, 9, 3, 1, 5, 0)]
    (line,) = command.json("reconcile")
    assert (line["skipped"], line["reread"]) == (7, 11)


def test_the_day_before_counts_as_what_was_read_before(up: trueup.Trueup, command: Command, fresh_database: Urls):
    reading = Reading(up)
    reading.read([trade(1)])
    change(fresh_database, "UPDATE ledger.reads SET received_at = received_at - interval '3 days'")
    reading.read([trade(2)], start=5)
    (line,) = command.json("reconcile")
    assert (line["received"], line["skipped"]) == (1, 4)


def test_the_gauge_looks_at_a_bounded_rate(up: trueup.Trueup, fresh_database: Urls, monkeypatch: pytest.MonkeyPatch):
    Reading(up).read([trade(i) for i in range(3)])
    asked: list[tuple[date, date]] = []
    real = reconciling.reconciliation

    def counted(queries: Any, name: str | None, first: date, last: date) -> Any:
        asked.append((first, last))
        return real(queries, name, first, last)

    monkeypatch.setattr(reconciling, "reconciliation", counted)
    change(fresh_database, "DELETE FROM ledger.predictions WHERE source_key = '0/1'")
    gauge = Reconciling(up.services.queries, "trades", utc_now)
    until = time.monotonic() + 20
    while not gauge() and time.monotonic() < until:
        time.sleep(0.01)
    assert [gauge() for _ in range(5)] == [{"trades": 1.0}] * 5
    assert asked == [(utc_now().date(), utc_now().date())]
