"""What every place promises where processes say how they are, and the thread that does it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

import trueup
from trueup.domain.gauge import Gauge
from trueup.errors import LedgerUnavailable
from trueup.ledger.gauges import PostgresGauges, Reporter
from trueup.ledger.memory import MemoryGauges
from trueup.ports import Gauges

SPOOL = Gauge("spool_rows", {"spool": "host/1"}, 7.0)


@pytest.fixture(params=["memory", "postgres"])
def gauges(request: pytest.FixtureRequest) -> tuple[Gauges, object]:
    if request.param == "memory":
        made = MemoryGauges()
        return made, lambda: [(g.name, dict(g.labels), g.value) for g in made.reported]
    up: trueup.Trueup = request.getfixturevalue("up")
    return up.services.gauges, lambda: [
        (row["name"], row["labels"], row["value"])
        for row in up.query("SELECT * FROM gauges ORDER BY reported_at, name")
    ]


def test_what_was_reported_is_there_and_nothing_is_replaced(gauges):
    where, listed = gauges
    where.report([SPOOL])
    where.report([Gauge("spool_rows", {"spool": "host/1"}, 9.0)])
    where.report([])
    assert listed() == [("spool_rows", {"spool": "host/1"}, 7.0), ("spool_rows", {"spool": "host/1"}, 9.0)]


def test_the_latest_of_each_thing_is_known_while_it_is_fresh(up: trueup.Trueup):
    up.services.gauges.report([SPOOL, Gauge("spool_rows", {"spool": "host/2"}, 1.0)])
    up.services.gauges.report([Gauge("spool_rows", {"spool": "host/1"}, 9.0)])
    text = "SELECT labels ->> 'spool' AS spool, value FROM gauges_as_known(%(at)s) ORDER BY 1"
    now = datetime.now(UTC) + timedelta(seconds=1)
    assert up.query(text, at=now).rows() == [{"spool": "host/1", "value": 9.0}, {"spool": "host/2", "value": 1.0}]
    assert up.query(text, at=now + timedelta(minutes=6)).rows() == []
    assert up.query(text, at=now - timedelta(hours=1)).rows() == []


def test_old_reports_are_forgotten_and_no_others(up: trueup.Trueup):
    gauges: PostgresGauges = up.services.gauges
    gauges.report([SPOOL])
    assert gauges.forget(datetime.now(UTC) - timedelta(days=1)) == 0
    assert gauges.forget(datetime.now(UTC) + timedelta(days=1)) == 1


def test_a_reporter_goes_on_after_the_ledger_was_away_and_ends_when_it_is_closed():
    told, enough = list[Sequence[Gauge]](), threading.Event()

    class Away:
        def report(self, gauges: Sequence[Gauge]) -> None:
            told.append(gauges)
            if len(told) == 1:
                raise LedgerUnavailable("away")
            enough.set()

    reporter = Reporter(Away(), 0.01, lambda: [SPOOL])
    assert enough.wait(10)
    reporter.close()
    before = len(told)
    assert not any(thread.name == "trueup-gauges" for thread in threading.enumerate())
    assert before >= 2
    assert told[-1] == [SPOOL]
