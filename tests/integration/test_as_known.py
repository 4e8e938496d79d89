"""The truth in SQL: what arrives in any order, of any label, as known at any instant."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

import trueup
from trueup.contracts.horizon import due_days
from trueup.contracts.labels import is_positive
from trueup.domain.batch import OutcomeBatch
from trueup.outcomes.memory import MemoryOutcomes

DAY = date(2026, 11, 2)  # well in the past of the tests' clock, and a Monday
START = np.datetime64("2026-11-03T00:00", "us")
NUMBER = itertools.count()

CONTRACT = """
name: settled
version: 1
event_time: trade_date
fields:
  trade: {type: string, role: key}
  party: {type: string, role: key}
  trade_date: {type: date, role: context}
  lots: {type: int64, role: key}
  amount: {type: float64, minimum: 0}
output: {kind: probability}
labels:
  - {name: failed, type: bool, join_key: [trade], horizon: {days: 1}, never_after: 3}
  - {name: days_late, type: int64, horizon: {business_days: 5, calendar: us-settlement}, positive: {at_least: 2}}
  - {name: penalty, type: float64, horizon: when published, positive: {above: 100}}
  - {name: reason, type: string, horizon: {days: 3650}, positive: {equals: LACK}}
  - {name: defaulted, type: bool, join_key: [party, lots, trade], horizon: {days: 30}}
"""
Observation = tuple[int, str, float | None]  # hours after START, state, value
observations = st.tuples(
    st.integers(0, 5), st.sampled_from([("known", 0.0), ("known", 1.0), ("retracted", None), ("censored", None)])
).map(lambda drawn: (drawn[0], *drawn[1]))
arrivals = st.lists(st.lists(st.tuples(observations, st.booleans()), min_size=1, max_size=4), min_size=1, max_size=5)
once = examples(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def batch(item: str, rows: list[tuple[Observation, bool]]) -> OutcomeBatch:
    hours, states, values = zip(*(observation for observation, _ in rows), strict=True)
    return OutcomeBatch(
        contract_name="settled",
        label="failed",
        source="test",
        business_keys=[item] * len(rows),
        event_days=np.full(len(rows), DAY, "datetime64[D]"),
        observed_at=START + np.array(hours).astype("timedelta64[h]"),
        numbers=np.array([np.nan if v is None else v for v in values]),
        states=np.array(states, object),
        said=np.array([said for _, said in rows], bool),
    )


def history(up: trueup.Trueup, item: str, source: str = "outcome_history") -> list[tuple[Any, ...]]:
    sql = f"SELECT revision, observed_at, state, value_number FROM {source} WHERE business_key = %(item)s ORDER BY 1"
    return [tuple(row.values()) for row in up.query(sql, item=item).rows()]


def known_by(up: trueup.Trueup, item: str, hour: int) -> tuple[str, float | None] | None:
    sql = (
        "SELECT state, value_number FROM outcomes_as_known(%(at)s, 'observed')"
        " WHERE contract_name = 'settled' AND label = 'failed' AND business_key = %(item)s"
    )
    at = (START + np.timedelta64(hour, "h")).item().replace(tzinfo=UTC)
    rows = [tuple(row.values()) for row in up.query(sql, at=at, item=item).rows()]
    assert len(rows) <= 1
    return rows[0] if rows else None


@once
@given(arrivals)
def test_the_database_holds_what_the_rules_say(up: trueup.Trueup, batches: list[list[tuple[Observation, bool]]]):
    item, fake = f"I{next(NUMBER)}", MemoryOutcomes()
    for rows in batches:
        assert up.services.outcomes.record(batch(item, rows)) == fake.record(batch(item, rows))
    expected = fake._revisions[("settled", "failed", item, DAY)]
    assert history(up, item) == [
        (n, one.observed_at.item().replace(tzinfo=UTC), one.state, one.value) for n, one in enumerate(expected, 1)
    ]
    latest = fake.latest("settled", "failed", item, DAY)
    assert latest is not None
    assert [row[2:] for row in history(up, item, "outcomes")] == [(latest.state, latest.value)]
    for hour in range(6):
        by = fake.latest("settled", "failed", item, DAY, START + np.timedelta64(hour, "h"))
        assert known_by(up, item, hour) == (None if by is None else (by.state, by.value))


@once
@given(st.lists(observations, min_size=1, max_size=6, unique_by=lambda o: o[0]), st.randoms())
def test_the_order_of_arrival_changes_nothing(up: trueup.Trueup, said: list[Observation], random: Any):
    found = []
    for _ in range(2):
        item, waiting = f"I{next(NUMBER)}", list(said)
        random.shuffle(waiting)
        while waiting:
            size = random.randint(1, len(waiting))
            up.services.outcomes.record(batch(item, [(one, True) for one in waiting[:size]]))
            del waiting[:size]
        found.append([row[2:] for row in history(up, item, "outcomes")])
        found.append([known_by(up, item, hour) for hour in range(6)])  # type: ignore[arg-type]
    assert found[:2] == found[2:]
    assert found[0] == [max(said)[1:]]


@once
@given(arrivals)
def test_what_was_known_at_an_instant_stays_so(up: trueup.Trueup, batches: list[list[tuple[Observation, bool]]]):
    item, seen = f"I{next(NUMBER)}", []
    for rows in batches:
        up.services.outcomes.record(batch(item, rows))
        (at,) = up.query("SELECT clock_timestamp() AS at").rows()
        seen.append((at["at"], history(up, item, "outcomes")))
    for at, then in seen:
        columns = "revision, observed_at, state, value_number"
        sql = f"SELECT {columns} FROM outcomes_as_known(%(at)s) WHERE business_key = %(item)s"
        assert [tuple(row.values()) for row in up.query(sql, at=at, item=item).rows()] == then


@pytest.fixture
def desk(up: trueup.Trueup) -> trueup.Trueup:
    up.deploy("settled", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    up.score("settled", [trade(1), trade(2, party="a|b\\c"), trade(3)], dataset="morning")
    return up


def trade(number: int, **changes: Any) -> dict[str, Any]:
    return {"trade": f"T{number}", "party": "P", "lots": 7, "trade_date": str(DAY), "amount": 1e5 * number, **changes}


def said(number: int, **what: Any) -> dict[str, Any]:
    return {"trade": f"T{number}", "event_day": str(DAY), **what}


def truths(desk: trueup.Trueup, columns: str, label: str, source: str = "truth_by_label") -> list[tuple[Any, ...]]:
    sql = f"SELECT {columns} FROM {source} WHERE label = %(label)s ORDER BY business_key"
    return [tuple(row.values()) for row in desk.query(sql, label=label).rows()]


def test_a_row_says_some_labels_or_all(desk: trueup.Trueup):
    rows = [
        said(1, failed=True, days_late=3, penalty=120.5, reason="LACK"),
        said(2, value=False, penalty=0.0),
        said(3, label="days_late", state="censored"),
    ]
    assert desk.outcomes("settled", rows, source="CSD").first == 7
    assert truths(desk, "outcome, is_positive, outcome_state", "failed") == [
        (1.0, True, "known"), (0.0, False, "known"), (None, None, "never")]  # fmt: skip
    assert truths(desk, "outcome, is_positive, outcome_state", "days_late") == [
        (3.0, True, "known"), (None, None, "awaited"), (None, None, "censored")]  # fmt: skip
    assert truths(desk, "outcome, is_positive", "penalty") == [(120.5, True), (0.0, False), (None, None)]
    assert truths(desk, "outcome_text, is_positive, outcome_state", "reason") == [
        ("LACK", True, "known"), (None, None, "not_due"), (None, None, "not_due")]  # fmt: skip
    assert len(desk.query("SELECT * FROM truth")) == 3


def test_a_label_with_a_join_key_of_its_own_finds_its_predictions(desk: trueup.Trueup):
    row = {"trade": "T2", "party": "a|b\\c", "lots": 7, "event_day": str(DAY), "value": True}
    assert desk.outcomes("settled", [row], source="court", label="defaulted").first == 1
    assert desk.query("SELECT business_key FROM outcomes").rows() == [{"business_key": "a\\|b\\\\c|7|T2"}]
    assert truths(desk, "has_outcome", "defaulted") == [(False,), (True,), (False,)]


def test_due_days_in_the_database_are_those_of_the_code(desk: trueup.Trueup):
    contract = desk.contract("settled")
    days = np.arange("2024-12-01", "2027-03-01", dtype="datetime64[D]")
    due = due_days(contract.labels[1], days)
    sql = (
        "SELECT trueup.business_day_after(day::date, 5, 'us-settlement') AS due"
        " FROM generate_series(%(a)s::date, %(b)s::date, '1 day') AS day ORDER BY day"
    )
    rows = desk.query(sql, a=days[0].item(), b=days[-1].item()).rows()
    assert [row["due"] for row in rows] == due.tolist()
    assert (
        truths(desk, "due_day", "days_late")[0][0] == due_days(contract.labels[1], np.array([DAY], "M8[D]"))[0].item()
    )


def test_the_event_in_the_database_is_that_of_the_code(desk: trueup.Trueup):
    values = [0.0, 1.0, 2.0, 3.0]
    desk.score("settled", [trade(10 + i) for i in range(4)], dataset="noon")
    rows = [said(10 + i, failed=bool(v % 2), days_late=int(v), penalty=v * 50) for i, v in enumerate(values)]
    desk.outcomes("settled", rows, source="CSD")
    for label in desk.contract("settled").labels[:3]:
        found = [row for row in truths(desk, "outcome, is_positive", label.name) if row[0] is not None]
        assert [row[1] for row in found] == is_positive(label, np.array([row[0] for row in found])).tolist()


def test_what_is_taken_back_is_not_known_and_what_left_observation_is_not_due(desk: trueup.Trueup):
    desk.outcomes("settled", [said(1, value=True), said(2, value=True)], source="CSD")
    before = desk.query("SELECT clock_timestamp() AS at").rows()[0]["at"]
    desk.outcomes("settled", [said(1, state="retracted"), said(2, state="censored")], source="CSD", label="failed")
    assert truths(desk, "outcome, outcome_state, has_outcome, is_due", "failed", "truth") == [
        (None, "retracted", False, True), (None, "censored", False, True), (None, "never", False, True)]  # fmt: skip
    counts = "predictions, due, due_with_outcome, maturity, retracted, censored, never"
    sql = f"SELECT {counts} FROM maturity"
    assert [tuple(r.values()) for r in desk.query(sql).rows()] == [(3, 1, 0, 0.0, 1, 1, 1)]
    sql = f"SELECT {counts} FROM maturity_as_known(%(at)s)"
    assert [tuple(r.values()) for r in desk.query(sql, at=before).rows()] == [(3, 2, 2, 1.0, 0, 0, 1)]


def test_replayed_history_is_known_as_its_sources_said_it(desk: trueup.Trueup):
    desk.outcomes("settled", [said(1, value=True, observed_at="2026-11-04T10:00:00Z")], source="CSD")
    desk.outcomes("settled", [said(1, value=False, observed_at="2026-11-06T10:00:00Z")], source="CSD")
    sql = "SELECT outcome, outcome_state FROM truth_as_known(%(at)s, 'observed') WHERE business_key = 'T1'"

    def at(day: int) -> list[tuple[Any, ...]]:
        return [tuple(r.values()) for r in desk.query(sql, at=datetime(2026, 11, day, 12, tzinfo=UTC)).rows()]

    assert at(1) == []
    assert at(2) == [(None, "not_due")]
    assert at(3) == [(None, "awaited")]
    assert at(4) == [(1.0, "known")]
    assert at(6) == [(0.0, "known")]
    moment = datetime.now(UTC) - timedelta(days=1)
    assert desk.query("SELECT * FROM truth_as_known(%(at)s)", at=moment).rows() == []
    assert desk.query("SELECT * FROM truth_as_known(%(at)s, 'recoded')", at=datetime.now(UTC)).rows() == []


@pytest.mark.parametrize(
    ("row", "field", "code"),
    [
        (said(1), "value", "null"),
        (said(1, value=True, state="retracted"), "value", "unexpected"),
        (said(1, value=True, failed=True), "value", "unexpected"),
        (said(1, label="penalty", value=True), "value", "type"),
        (said(1, label="penalty", penalty=1.0), "label", "unexpected"),
        (said(1, label="colour", state="censored"), "label", "category"),
        (said(1, value=True, observed_at="0001-01-01T00:00:00Z"), "observed_at", "range"),
        (said(1, defaulted=True), "defaulted", "unexpected"),
        (said(1, value=True, state="maybe"), "state", "category"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(desk: trueup.Trueup, row: dict[str, Any], field: str, code: str):
    with pytest.raises(trueup.errors.InstanceErrors) as caught:
        desk.outcomes("settled", [said(2, value=True), row], source="CSD")
    assert [(e.row, e.field, e.code) for e in caught.value.errors] == [(1, field, code)]
    assert len(desk.query("SELECT * FROM outcomes")) == 0


def test_the_truth_of_a_day_is_found_without_looking_at_others(desk: trueup.Trueup):
    for call in ("truth", "truth_by_label", "truth_as_known(now())", "truth_as_known(now(), 'observed')"):
        plan = explain(desk, f"SELECT * FROM trueup.{call} t WHERE event_day = '{DAY}' AND deployment = 'settled'")
        assert "Function Scan on truth" not in plan
        assert "Index Cond: ((contract_name = " in plan
        assert "event_day" in plan
    plan = explain(
        desk, "SELECT * FROM trueup.outcomes_as_known(now()) WHERE label = 'failed' AND contract_name = 'settled'"
    )
    assert "Index Cond" in plan


def explain(desk: trueup.Trueup, sql: str) -> str:
    import psycopg

    with psycopg.connect(desk.services.urls.reader) as connection:
        connection.execute("SET enable_seqscan = off")
        return "\n".join(row[0] for row in connection.execute(f"EXPLAIN {sql}").fetchall())
