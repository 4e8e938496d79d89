"""Booking: one row an identity, the first answer for ever, everything or nothing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

import trueup
from trueup.domain.batch import Booked, RefusalReason, Role
from trueup.errors import InvalidQuery, LedgerUnavailable, NotFound
from trueup.ledger.identity import prediction_ids

CONTRACT = """
name: trades
version: 1
event_time: trade_date
fields:
  trade_id: {type: string, role: key}
  trade_date: {type: date, role: context}
  amount: {type: float64, minimum: 0}
  history: {type: float64, nullable: true, allow_nan: true, allow_infinity: true}
  lots: {type: int64, nullable: true}
  price: {type: "decimal(20,6)", role: context, nullable: true}
  note: {type: string, role: context, nullable: true}
  seen: {type: timestamp, role: context, nullable: true}
  open: {type: bool, role: context, nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, horizon: {business_days: 1, calendar: us-settlement}}
decision: {threshold: 0.5, at_or_above: chase, below: pass}
expected_cost: probability x amount
"""
MODEL = "python:small_models:share_of_a_million"


def trade(i: int, **changes: Any) -> dict[str, Any]:
    return {"trade_id": f"T{i}", "trade_date": "2026-11-20", "amount": 1000.0 * i, **changes}


@pytest.fixture
def desk(up: trueup.Trueup) -> trueup.Trueup:
    up.deploy("trades", contract=CONTRACT, model=MODEL, version="1", by="test")
    return up


def count(up: trueup.Trueup, table: str = "predictions") -> int:
    return int(up.query(f"SELECT count(*) AS n FROM {table}").rows()[0]["n"])


def test_the_same_dataset_again_changes_nothing_and_answers_the_same(desk: trueup.Trueup):
    rows = [trade(i) for i in range(500)]
    first, second = (desk.score("trades", rows, dataset="morning") for _ in range(2))
    assert (first.new, first.repeated, second.new, second.repeated) == (500, 0, 0, 500)
    assert first.ids == second.ids
    assert np.array_equal(first.score, second.score)
    assert first.decision.tolist() == second.decision.tolist()
    assert count(desk) == 500
    assert count(desk, "batches") == 1


def test_a_partly_booked_dataset_is_completed(desk: trueup.Trueup):
    rows = [trade(i) for i in range(10)]
    desk.score("trades", rows[:4], dataset="morning")
    scores = desk.score("trades", rows, dataset="morning")
    assert scores.booked.tolist() == [Booked.REPEATED] * 4 + [Booked.NEW] * 6
    assert count(desk) == 10


def test_a_retry_after_a_promotion_gets_the_first_answer(desk: trueup.Trueup):
    first = desk.score("trades", [trade(900)], dataset="morning")
    desk.deploy("trades", contract=CONTRACT, model="python:small_models:always_half", version="2")
    desk.services.scoring.resolve("trades", fresh=True)
    again = desk.score("trades", [trade(900)], dataset="morning")
    other = desk.score("trades", [trade(900)], dataset="noon")
    assert (first.score[0], again.score[0], other.score[0]) == (0.9, 0.9, 0.5)
    assert desk.prediction(first.ids[0])["model_version"] == "1"


def test_other_content_under_the_same_identity_is_a_conflict_and_a_row(desk: trueup.Trueup):
    desk.score("trades", [trade(1), trade(2)], dataset="morning")
    scores = desk.score("trades", [trade(1), trade(2, amount=5.0)], dataset="morning")
    assert [(row, reason) for row, reason, _ in scores.refused] == [(1, RefusalReason.CONFLICT)]
    assert np.isnan(scores.score[1])
    assert scores.ids[1] is None
    assert count(desk) == 2
    desk.score("trades", [trade(1), trade(2, amount=5.0)], dataset="morning")
    assert count(desk, "refusals") == 1


def test_one_identity_twice_in_a_batch_is_one_row(desk: trueup.Trueup):
    rows = [trade(1), trade(1), trade(1, amount=7.0)]
    scores = desk.score("trades", rows, keys=["a", "a", "a"])
    assert scores.booked.tolist() == [Booked.NEW, Booked.REPEATED, -1]
    assert scores.ids[0] == scores.ids[1]
    assert count(desk) == 1


def test_of_two_rows_with_one_identity_each_is_compared_with_what_is_booked(desk: trueup.Trueup):
    first = desk.score("trades", [trade(1)], keys=["a"])
    both = desk.score("trades", [trade(1, amount=7.0), trade(1)], keys=["a", "a"])
    assert both.booked.tolist() == [-1, Booked.REPEATED]
    assert both.ids[1] == first.ids[0]
    assert count(desk) == 1


def test_overlapping_writers_leave_one_row_an_identity_and_agree(desk: trueup.Trueup):
    rows = [trade(i) for i in range(400)]

    def score(start: int) -> Any:
        part = rows[start : start + 200]
        keys = [r["trade_id"] for r in part]
        order = slice(None, None, -1 if start % 20 else 1)
        return desk.score("trades", part[order], keys=keys[order], dataset="stream")

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(score, [0, 10, 50, 90, 150, 200, 30, 110]))
    assert count(desk) == 400
    assert sum(r.new for r in results) == 400
    assert sum(r.new + r.repeated for r in results) == 8 * 200


def test_shadows_and_challengers_are_rows_of_the_same_commit(desk: trueup.Trueup):
    desk.deploy("trades", contract=CONTRACT, model="python:small_models:always_half", version="2", role=Role.SHADOW)
    desk.deploy("trades", contract=CONTRACT, model="python:small_models:broken", version="3", role=Role.CHALLENGER)
    desk.services.scoring.resolve("trades", fresh=True)
    desk.score("trades", [trade(i) for i in range(5)], dataset="morning")
    rows = desk.query(
        "SELECT role, count(*) AS n, count(DISTINCT batch_id) AS b FROM predictions GROUP BY role ORDER BY role"
    )
    assert [(r["role"], r["n"], r["b"]) for r in rows] == [("champion", 5, 1), ("shadow", 5, 1)]


def test_a_broken_model_refuses_every_instance_and_shows_no_value(desk: trueup.Trueup):
    desk.deploy("trades", contract=CONTRACT, model="python:small_models:wrong_shape", version="2")
    desk.services.scoring.resolve("trades", fresh=True)
    scores = desk.score("trades", [trade(1), trade(2)], dataset="morning")
    assert [reason for _, reason, _ in scores.refused] == [RefusalReason.FAILED] * 2
    assert count(desk, "refusals") == 2
    assert count(desk) == 0


def test_due_days_follow_the_contracts_calendar(desk: trueup.Trueup):
    scores = desk.score("trades", [trade(1)], dataset="morning")
    assert str(desk.prediction(scores.ids[0])["due_day"]) == "2026-11-23"


def test_a_request_without_event_time_finds_its_row_the_next_day(up: trueup.Trueup):
    contract = CONTRACT.replace("event_time: trade_date\n", "")
    up.deploy("trades", contract=contract, model=MODEL, version="1")
    ledger = up.services.ledger
    first = up.score("trades", [trade(1)], keys=["key-1"])
    tomorrow = np.full(2, "2031-01-01", "datetime64[us]")
    deployment = up.services.registry.deployment("trades").deployment_id
    assert deployment is not None
    from trueup.domain.batch import Channel, Source

    times = ledger.claim_event_times(deployment, Source(Channel.PYTHON, "request", ["key-1", "key-2"]), tomorrow)
    assert times[0] < np.datetime64("2031-01-01")
    assert times[1] == np.datetime64("2031-01-01")
    assert up.score("trades", [trade(1)], keys=["key-1"]).ids == first.ids


def test_one_key_is_one_row_whatever_day_its_retry_names(up: trueup.Trueup):
    contract = CONTRACT.replace("event_time: trade_date\n", "")
    up.deploy("trades", contract=contract, model=MODEL, version="1")
    days = [np.array([day], "datetime64[us]") for day in ("2026-11-20", "2026-11-21")]
    first, again = (up.score("trades", [trade(1)], keys=["a"], event_time=day) for day in days)
    assert (first.new, again.repeated, first.ids == again.ids, count(up)) == (1, 1, True, 1)


@pytest.mark.parametrize(("other", "refused"), [(1, []), (2, [RefusalReason.CONFLICT])])
def test_one_key_twice_in_a_batch_is_one_row_whatever_day_each_names(up: trueup.Trueup, other: int, refused: list[Any]):
    up.deploy("trades", contract=CONTRACT.replace("event_time: trade_date\n", ""), model=MODEL, version="1")
    days = np.array(["2026-11-20", "2026-11-21"], "datetime64[us]")
    for _ in range(2):
        found = up.score("trades", [trade(1), trade(other)], keys=["a", "a"], event_time=days)
        assert [reason for _, reason, _ in found.refused] == refused
        assert [str(row["event_day"]) for row in up.query("SELECT event_day FROM predictions")] == ["2026-11-20"]


def test_one_key_with_another_trade_date_is_a_conflict(desk: trueup.Trueup):
    desk.score("trades", [trade(1)], keys=["a"])
    again = desk.score("trades", [trade(1, trade_date="2026-11-21")], keys=["a"])
    assert [reason for _, reason, _ in again.refused] == [RefusalReason.CONFLICT]
    assert count(desk) == 1


def test_the_contracts_event_time_cannot_be_overridden(desk: trueup.Trueup):
    with pytest.raises(InvalidQuery):
        desk.score("trades", [trade(1)], event_time=np.array(["2026-11-20"], "datetime64[us]"))


def test_an_event_out_of_bounds_is_refused_before_anything_is_made(desk: trueup.Trueup):
    with pytest.raises(InvalidQuery):
        desk.score("trades", [trade(1, trade_date="3026-01-01")], dataset="far")
    assert count(desk, "batches") == 0


def test_nothing_is_answered_when_the_ledger_is_away(desk: trueup.Trueup, fresh_database: Any):
    desk.score("trades", [trade(1)], dataset="morning")
    name = conninfo_to_dict(fresh_database.owner)["dbname"]
    postgres = fresh_database.owner.replace(f"/{name}?", "/postgres?")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
    resolved_only = [trade(2)]
    with pytest.raises(LedgerUnavailable):
        desk.score("trades", resolved_only, dataset="noon")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    time.sleep(2 * desk.services.settings.limits.database_probe_s)  # for so long it is remembered as away
    assert desk.score("trades", resolved_only, dataset="noon").new == 1


@pytest.mark.parametrize(
    "change",
    [
        "status = 'unknown'",
        "role = 'king'",
        "event_day = event_day + 1",
        "score = NULL",
        "status = 'abstained'",
        "content_digest = 'short'",
        "reason_fields = '{1}'",
        "due_day = event_day - 1",
    ],
)
def test_contradictory_rows_are_impossible(desk: trueup.Trueup, fresh_database: Any, change: str):
    desk.score("trades", [trade(1)], dataset="morning")
    with psycopg.connect(fresh_database.owner) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(f"UPDATE ledger.predictions SET {change}")


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
ROWS = st.fixed_dictionaries(
    {
        "trade_id": TEXTS,
        "trade_date": st.sampled_from(["2026-11-20", "2024-02-29", "1999-12-31"]),
        "amount": st.floats(0, 1e300),
        "history": st.none() | st.floats(),
        "lots": st.none() | st.integers(-(2**63), 2**63 - 1),
        "price": st.none() | st.decimals(-(10**13), 10**13, places=6).map(str),
        "note": st.none() | TEXTS,
        "seen": st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
        "open": st.none() | st.booleans(),
    }
)


@given(st.lists(ROWS, min_size=1, max_size=6), st.integers(0, 2**40))
@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_value_comes_back_from_the_ledger_as_it_went_in(desk: trueup.Trueup, rows: list[Any], run: int):
    scores = desk.score("trades", rows, dataset=f"any-{run}-{hash(str(rows))}", reasons=True)
    assert scores.refused == []
    for row, i in zip(rows, scores.ids, strict=True):
        fields = desk.prediction(i)["fields"]  # type: ignore[arg-type]
        assert fields["trade_id"] == row["trade_id"]
        assert fields["amount"] == row["amount"]
        assert fields["lots"] == row["lots"]
        assert fields["note"] == row["note"]
        assert fields["open"] == row["open"]
        assert (None if fields["price"] is None else float(fields["price"])) == (
            None if row["price"] is None else float(row["price"])
        )
        history = row["history"]
        if history is None or not np.isfinite(history):
            assert fields["history"] == (None if history is None else str(history))
        else:
            assert fields["history"] == history
        if row["seen"] is not None:
            assert np.datetime64(fields["seen"][:-1]) == np.datetime64(row["seen"].replace(tzinfo=None))


@given(
    st.integers(1, 1000),
    st.sampled_from(Role),
    st.text(max_size=10),
    st.lists(st.text(max_size=6) | st.integers(0, 10**9).map(str), unique=True, min_size=2, max_size=30),
)
def test_ids_are_stable_distinct_and_proper_uuids(deployment: int, role: Role, source: str, keys: list[str]):
    ids = prediction_ids(deployment, role, source, keys)
    assert np.array_equal(ids, prediction_ids(deployment, role, source, keys))
    uuids = [UUID(bytes=i.tobytes()) for i in ids]
    assert len(set(uuids)) == len(keys)
    assert {(u.version, u.variant) for u in uuids} == {(8, "specified in RFC 4122")}
    for other in (
        prediction_ids(deployment + 1, role, source, keys),
        prediction_ids(deployment, role, f"{source}x", keys),
    ):
        assert not {i.tobytes() for i in ids} & {i.tobytes() for i in other}


def test_ids_of_one_source_are_neighbours():
    ids = [
        UUID(bytes=i.tobytes())
        for i in prediction_ids(1, Role.CHAMPION, "batch:x", [str(i) for i in range(0, 4096, 16)])
    ]
    assert ids == sorted(ids)


def test_an_unknown_prediction_is_not_found(desk: trueup.Trueup):
    with pytest.raises(NotFound):
        desk.prediction("00000000-0000-8000-8000-000000000000")
    with pytest.raises(InvalidQuery):
        desk.prediction("nonsense")


def test_lists_are_filtered_and_bounded(desk: trueup.Trueup):
    desk.score("trades", [trade(i) for i in range(0, 1000, 100)], dataset="morning")
    assert len(desk.predictions(decision="chase")) == 5
    assert desk.predictions(business_key="T300")[0]["score"] == 0.3
    assert len(desk.predictions(min_score=0.85)) == 1
    assert len(desk.predictions(limit=3)) == 3
    with pytest.raises(InvalidQuery):
        desk.predictions(limit=10_001)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM ledger.predictions",
        "DELETE FROM predictions",
        "SELECT 1; SELECT 2",
        "SELECT nothing FROM nowhere",
        "SELECT pg_sleep(60)",
        "SELECT 1/0",
        "COPY predictions TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
    ],
)
def test_a_query_can_only_read_views_for_a_while(desk: trueup.Trueup, sql: str):
    from trueup.bootstrap import wired

    settings = desk.services.settings
    quick = settings.model_copy(update={"limits": settings.limits.model_copy(update={"statement_timeout_s": 0.5})})
    with wired(quick, desk.services.urls) as services, pytest.raises(InvalidQuery) as caught:
        services.queries.rows(sql)
    assert "ledger" not in caught.value.message
    assert "passwd" not in caught.value.message


def test_outcomes_are_revised_and_can_be_read_as_known_before(desk: trueup.Trueup):
    desk.score("trades", [trade(1), trade(2)], dataset="morning")
    row = {"trade_id": "T1", "event_day": "2026-11-20", "value": True}
    assert desk.outcomes("trades", [row], source="custodian").first == 1
    assert desk.outcomes("trades", [row], source="custodian").unchanged == 1
    known = desk.query("SELECT clock_timestamp() AS at").rows()[0]["at"]
    assert desk.outcomes("trades", [{**row, "value": False}], source="custodian").revised == 1
    now = desk.query("SELECT business_key, outcome, has_outcome, is_due FROM truth ORDER BY business_key").rows()
    assert [(r["business_key"], r["outcome"], r["has_outcome"]) for r in now] == [
        ("T1", 0.0, True),
        ("T2", None, False),
    ]
    then = desk.query("SELECT outcome FROM truth_as_known(%(at)s) WHERE business_key = 'T1'", at=known).rows()
    assert then == [{"outcome": 1.0}]
    history = desk.query("SELECT revision, value_number FROM outcome_history ORDER BY revision").rows()
    assert [(r["revision"], r["value_number"]) for r in history] == [(1, 1.0), (2, 0.0)]
    assert desk.query("SELECT maturity FROM maturity").rows() == [{"maturity": 0.5}]


def test_of_two_outcomes_in_one_batch_the_later_observation_counts(desk: trueup.Trueup):
    row = {"trade_id": "T1", "event_day": "2026-11-20"}
    batch = [
        {**row, "value": True, "observed_at": "2026-11-24T10:00:00Z"},
        {**row, "value": False, "observed_at": "2026-11-23T10:00:00Z"},
    ]
    assert desk.outcomes("trades", batch, source="custodian").first == 1
    assert desk.query("SELECT value_number FROM outcomes").rows() == [{"value_number": 1.0}]


def test_recorders_at_once_leave_one_first_revision(desk: trueup.Trueup):
    rows = [{"trade_id": f"T{i}", "event_day": "2026-11-20", "value": True} for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        receipts = list(pool.map(lambda _: desk.outcomes("trades", rows, source="s"), range(4)))
    assert sum(r.first for r in receipts) == 200
    assert sum(r.unchanged for r in receipts) == 600


def test_the_typed_view_has_the_contracts_columns(desk: trueup.Trueup):
    desk.score("trades", [trade(3, price="1.5", lots=2**60, seen="2026-11-20T10:00:00Z", open=True)], dataset="m")
    row = desk.query("SELECT * FROM trades_v1").rows()[0]
    assert str(row["price"]) == "1.500000"
    assert row["lots"] == 2**60
    assert row["open"] is True
    assert row["seen"] == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert str(row["trade_date"]) == "2026-11-20"


def test_a_version_is_what_it_was_deployed_with(desk: trueup.Trueup):
    from trueup.errors import Conflict

    with pytest.raises(Conflict):
        desk.deploy("trades", contract=CONTRACT, model="python:small_models:always_half", version="1")
    with pytest.raises(Conflict):
        desk.deploy("trades", contract=CONTRACT.replace("0.5", "0.6"), model=MODEL, version="9")
    again = desk.deploy("trades", contract=CONTRACT, model=MODEL, version="1")
    assert again.revision == 1
    assert replace(again, deployed_at=None) == replace(desk.deployments()[0], deployed_at=None)
