"""Every shipped rule fires on a ledger in which its situation truly is, and not on the same ledger before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg
import pytest

import monitored
import trueup
from rooms import Desk
from rooms import trade as spooled_trade
from streaming import Reading
from streaming import trade as streamed_trade
from trueup.alerts.reading import SHIPPED
from trueup.bootstrap import open_alerts, utc_now
from trueup.domain.action import Action
from trueup.domain.alert import Row
from trueup.domain.monitoring import Breach, Monitoring, ReferenceRows
from trueup.doors.kafka.opening import lag_of
from trueup.ledger.spool import SpooledLedger
from trueup.ledger.spool_lookup import Lookup
from trueup.ledger.urls import Urls

Ask = Callable[..., list[Row]]
CONTRACT = """
name: trades
version: 1
event_time: trade_date
fields:
  trade_id: {type: string, role: key}
  trade_date: {type: date, role: context}
  amount: {type: float64, minimum: 0}
output: {kind: probability}
label: {name: failed, type: bool, horizon: {days: 1}}
decision: {threshold: 0.5, at_or_above: chase, below: pass}
expected_cost: probability x amount
"""
TODAY = datetime.now(UTC).date()
FLOOR = Monitoring(
    reference=ReferenceRows(rows=500), breaches={"auc": Breach(below=0.7), "ece": Breach(above=0.1)}, bins=10, top_k=10
)


@pytest.fixture
def ask(up: trueup.Trueup) -> Ask:
    """The instances of a shipped rule at a moment, now unless given, as the engine asks for them."""
    engine = open_alerts(up.services)
    asked: set[str] = set()

    def instances(rule: str, at: datetime | None = None, *, known_by: str = "recorded", **given: object) -> list[Row]:
        asked.add(rule)
        file = engine.folders.rule(rule)
        return list(engine.ask(file, engine.bound(file, at or utc_now(), given, known_by)).rows)

    return instances


@pytest.fixture
def desk(up: trueup.Trueup) -> trueup.Trueup:
    up.deploy("trades", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    return up


def trades(*amounts: float, prefix: str = "T") -> list[dict[str, Any]]:
    return [
        {"trade_id": f"{prefix}{i}", "trade_date": TODAY.isoformat(), "amount": amount}
        for i, amount in enumerate(amounts)
    ]


def labels(rows: list[Row], *without: str) -> list[dict[str, str]]:
    """Of every instance, but what is the same in all of a rule."""
    dropped = {"alertname", "severity", "owner", *without}
    return [{name: value for name, value in row.labels.items() if name not in dropped} for row in rows]


def as_owner(urls: Urls, statement: str) -> None:
    with psycopg.connect(urls.owner) as connection:
        assert connection.execute(statement.encode()).rowcount == 1


def test_here_is_every_shipped_rule():
    here = Path(__file__).read_text(encoding="utf-8")
    assert [path.stem for path in SHIPPED.glob("*.sql") if f'"{path.stem}"' not in here] == []


def test_rejections_up(desk: trueup.Trueup, ask: Ask):
    desk.score("trades", trades(*range(95)), dataset="good")
    assert ask("rejections_up") == []
    scores = desk.score("trades", trades(*[-1.0] * 10, prefix="bad"), dataset="bad")
    assert len(scores.refused) == 10
    (row,) = ask("rejections_up")
    assert labels([row]) == [{"deployment": "trades"}]
    assert row.value == pytest.approx(10 / 105)
    assert (row.annotations["message"], row.annotations["refused"], row.annotations["received"]) == (
        "contract",
        "10",
        "105",
    )
    assert ask("rejections_up", utc_now() + timedelta(hours=2)) == []


def test_model_silent(desk: trueup.Trueup, ask: Ask):
    desk.score("trades", trades(1.0), dataset="morning")
    assert ask("model_silent") == []
    (row,) = ask("model_silent", utc_now() + timedelta(days=2))
    assert labels([row]) == [{"deployment": "trades"}]
    assert row.value == pytest.approx(2 * 24 * 60, abs=5)


@pytest.mark.parametrize("held", [1, 2])
def test_seal_broken(desk: trueup.Trueup, ask: Ask, fresh_database: Urls, held: int):
    desk.score("trades", trades(1.0, 2.0), dataset="morning")
    desk.score("trades", trades(3.0, prefix="U"), dataset="evening")
    assert ask("seal_broken") == []
    change = (
        "DELETE FROM ledger.predictions WHERE business_key = 'T0'"
        if held == 1
        else "UPDATE ledger.predictions SET batch_id = batch_id - 1 WHERE business_key = 'U0'"
    )
    as_owner(fresh_database, change)
    found = ask("seal_broken")
    assert [(row.value, row.annotations["booked"]) for row in found] == (
        [(1, "2")] if held == 1 else [(3, "2"), (0, "1")]
    )
    assert {row.labels["deployment"] for row in found} == {"trades"}


def test_sla_clock(desk: trueup.Trueup, ask: Ask):
    assert ask("sla_clock") == []
    desk.score("trades", trades(900_000.0, 800_000.0, 100.0), dataset="morning")
    (row,) = ask("sla_clock")
    assert labels([row]) == [{"deployment": "trades", "due_day": (TODAY + timedelta(days=1)).isoformat()}]
    assert (row.value, row.annotations["first_item"]) == (2, "T0")
    assert float(row.annotations["cost"]) == pytest.approx(0.9 * 900_000 + 0.8 * 800_000, abs=0.01)
    desk.act("trades", [Action("a0", "chased", "ana", business_key="T0", event_day=TODAY)], by="ana")
    assert [row.value for row in ask("sla_clock")] == [1]
    desk.outcomes("trades", [{"trade_id": "T1", "event_day": TODAY.isoformat(), "value": True}], source="custodian")
    assert ask("sla_clock") == []


def test_cost_at_risk(desk: trueup.Trueup, ask: Ask):
    desk.score("trades", trades(900_000.0, 800_000.0), dataset="morning")
    assert ask("cost_at_risk") == []
    (row,) = ask("cost_at_risk", limit=1_000_000.0)
    assert labels([row]) == [{"deployment": "trades"}]
    assert (row.value, row.annotations["items"]) == (pytest.approx(0.9 * 900_000 + 0.8 * 800_000), "2")
    desk.outcomes("trades", [{"trade_id": "T0", "event_day": TODAY.isoformat(), "value": False}], source="custodian")
    assert ask("cost_at_risk", limit=1_000_000.0) == []


def test_reconciliation_broken(up: trueup.Trueup, ask: Ask, fresh_database: Urls):
    Reading(up).read([streamed_trade(i) for i in range(6)], partitions=3)
    assert ask("reconciliation_broken") == []
    as_owner(fresh_database, "DELETE FROM ledger.predictions WHERE source_key = '1/0'")
    (row,) = ask("reconciliation_broken")
    assert labels([row], "day") == [{"deployment": "trades", "cluster": "c1", "topic": "trades"}]
    assert (row.value, row.annotations["received"], row.annotations["answered"]) == (1, "6", "5")


def test_stream_lag(up: trueup.Trueup, ask: Ask):
    server: Any = SimpleNamespace(topic="trades", behind={0: 10, 1: 60_000})
    up.services.gauges.report(lag_of("fails", SimpleNamespace(topic="trades", behind={0: 49_999})))  # type: ignore[arg-type]
    assert ask("stream_lag") == []
    up.services.gauges.report(lag_of("fails", server))
    (row,) = ask("stream_lag")
    assert labels([row]) == [{"deployment": "fails", "topic": "trades"}]
    assert (row.value, row.annotations["worst"]) == (60_010, "partition 1 with 60000")
    assert ask("stream_lag", utc_now() + timedelta(minutes=6)) == []


def test_spool_growing(up: trueup.Trueup, ask: Ask, tmp_path: Path):
    services = up.services
    lookup, limits = Lookup(services._pools[1], 5.0), services.settings.limits
    services.spool = spool = SpooledLedger(services.ledger, lookup, tmp_path / "spool", limits)
    desk = Desk(services.registry, spool, services.outcomes)
    desk.deploy()
    try:
        services.gauges.report(services._spool_gauges())
        assert ask("spool_growing", rows=2) == []
        desk.score([spooled_trade(i) for i in range(3)], source="request", keys=["a", "b", "c"])
        services.gauges.report(services._spool_gauges())
        (row,) = ask("spool_growing", rows=2)
        assert row.value == 3
        assert row.labels["spool"].endswith(f"/{spool.folder.path.name}")
        assert ask("spool_growing") == []  # nothing has waited for long
    finally:
        spool.close()
        services.spool = None


def test_what_measurements_say(up: trueup.Trueup, ask: Ask):
    """Drift of a feature and of the score, a ranking and a calibration gone wrong, outcomes that are late."""
    monitored.deployed(up, FLOOR)
    now = datetime(2026, 11, 20, tzinfo=UTC)
    rules = ("feature_drift", "score_drift", "performance_below_floor", "calibration_off", "maturity_late")

    def day(text: str, seed: int, shift: float = 0.0) -> dict[str, Any]:
        rows = monitored.rows_of(np.random.default_rng(seed), 800, text, shift=shift)
        up.score("fails", rows, dataset=text)
        return rows

    def came(rows: dict[str, Any], *, right: bool) -> None:
        score = 1 / (1 + np.exp(-np.asarray(rows["amount"])))
        failed = np.random.default_rng(3).random(len(score)) < (score if right else 0.2)
        up.outcomes("fails", monitored.outcomes_of(rows, failed, "2026-11-05T09:00:00Z"), source="custodian")

    def fired() -> dict[str, list[Row]]:
        up.monitor("fails", at=now, known_by="observed")
        return {rule: ask(rule, now, known_by="observed") for rule in rules}

    came(day("2026-11-02", 1), right=True)
    assert fired() == {rule: [] for rule in rules}
    came(day("2026-11-03", 2, shift=1.0), right=False)
    day("2026-11-04", 3, shift=1.0)  # of which nothing is ever known
    found = fired()
    (drift,), (score,), (late,) = found["feature_drift"], found["score_drift"], found["maturity_late"]
    one = {"deployment": "fails", "model_version": "1", "window_kind": "day"}
    assert labels([drift]) == labels([score]) == [one]
    assert (drift.value, drift.annotations["worst"]) == (1, "amount")
    assert score.annotations["window_first"] == drift.annotations["window_first"] == "2026-11-04"
    assert labels([late]) == [{"deployment": "fails", "window_kind": "day"}]
    assert (late.value, late.annotations["window_first"]) == (0, "2026-11-04")
    (below,) = found["performance_below_floor"]
    assert labels([below]) == [{**one, "role": "champion", "metric": "auc"}]
    assert below.value < 0.7
    assert below.annotations["window_first"] == date(2026, 11, 3).isoformat()
    (off,) = found["calibration_off"]
    assert labels([off]) == [{**one, "role": "champion"}]
    assert off.value > 0.1
