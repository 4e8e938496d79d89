"""The state machine of alerts is Prometheus'."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus_model import state_at
from trueup.alerts.states import Bounds, resumed, step
from trueup.domain.alert import Alert, Row, State, Timing, fingerprint
from trueup.errors import InvalidQuery

START = datetime(2026, 11, 2, tzinfo=UTC)
LABELS = {"deployment": "fails"}
KEY = fingerprint(LABELS)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def timing(hold: float = 0, keep: float = 0) -> Timing:
    return Timing(timedelta(minutes=hold), timedelta(minutes=keep))


def rows(*names: str) -> list[Row]:
    return [Row({"deployment": name}, 1.0) for name in names]


def told(transitions: list) -> list[tuple[str, str]]:
    return [(str(t.before), str(t.after)) for t in transitions]


HISTORIES = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=40)


@given(HISTORIES, st.integers(0, 12), st.integers(0, 12))
def test_every_history_ends_where_the_model_says(gaps: list[tuple[int, bool]], hold: int, keep: int):
    history, moment = [], 0
    for gap, present in gaps:
        moment += gap
        history.append((moment, present))
    instances: dict[str, Alert] = {}
    for moment, present in history:
        before = instances.get(KEY)
        instances, transitions = step("r", timing(hold, keep), instances, [Row(LABELS)] if present else [], at(moment))
        state, active, fired = state_at(history, hold, keep, 15, moment)
        found = instances.get(KEY)
        if state == "gone":
            assert found is None
        else:
            assert found is not None
            assert (found.state, found.active_at) == (state, at(active or 0))
            assert found.fired_at == (None if fired is None else at(fired))
        was = State.INACTIVE if before is None else before.state
        ended_up = State.INACTIVE if found is None else found.state
        if was is not ended_up:
            assert told(transitions) == [(was, ended_up)]


@given(st.lists(st.lists(st.sampled_from("abc"), unique=True), max_size=15), st.integers(0, 5), st.integers(0, 5))
def test_instances_do_not_mix(history: list[list[str]], hold: int, keep: int):
    together: dict[str, Alert] = {}
    alone: dict[str, dict[str, Alert]] = {name: {} for name in "abc"}
    for minute, present in enumerate(history):
        together, _ = step("r", timing(hold, keep), together, rows(*present), at(minute))
        for name in "abc":
            given_rows = rows(name) if name in present else []
            alone[name], _ = step("r", timing(hold, keep), alone[name], given_rows, at(minute))
    assert together == {key: alert for one in alone.values() for key, alert in one.items()}


def test_equal_labels_in_one_evaluation_are_an_error_and_an_empty_label_is_none():
    with pytest.raises(InvalidQuery, match="equal labels"):
        step("r", timing(), {}, rows("a", "a"), at(0))
    with pytest.raises(InvalidQuery, match="equal labels"):
        step("r", timing(), {}, [Row({"a": "1", "b": ""}), Row({"a": "1"}, is_active=False)], at(0))


def test_a_raised_for_puts_firing_back_to_pending_even_while_it_only_keeps_firing():
    fired, _ = step("r", timing(0), {}, rows("a"), at(0))
    back, transitions = step("r", timing(5), fired, rows("a"), at(1))
    assert [(a.state, a.active_at, a.fired_at) for a in back.values()] == [(State.PENDING, at(0), None)]
    assert [t.reason for t in transitions] == ["`for` was raised"]
    again, _ = step("r", timing(5), back, rows("a"), at(5))
    assert [(a.state, a.fired_at) for a in again.values()] == [(State.FIRING, at(5))]
    kept, _ = step("r", timing(5, 10), fired, [], at(1))
    assert [a.state for a in kept.values()] == [State.PENDING]
    assert step("r", timing(5, 10), kept, [], at(2))[0] == {}


def test_values_and_messages_follow_while_it_is_active_and_stay_when_it_ends():
    one, _ = step("r", timing(0), {}, [Row(LABELS, 1.0, {"summary": "1"})], at(0))
    two, _ = step("r", timing(0), one, [Row(LABELS, 2.0, {"summary": "2"})], at(1))
    three, _ = step("r", timing(0), two, [], at(2))
    assert [(a.value, a.annotations) for x in (one, two, three) for a in x.values()] == [
        (1.0, {"summary": "1"}), (2.0, {"summary": "2"}), (2.0, {"summary": "2"})]  # fmt: skip


def test_who_handled_an_alert_is_forgotten_when_it_fires_anew():
    from dataclasses import replace

    fired, _ = step("r", timing(0), {}, rows("fails"), at(0))
    handled = {KEY: replace(fired[KEY], acknowledged_at=at(0), acknowledged_by="ann", assigned_to="bob")}
    resolved, _ = step("r", timing(0), handled, [], at(1))
    assert resolved[KEY].acknowledged_by == "ann"
    anew, _ = step("r", timing(0), resolved, rows("fails"), at(2))
    assert (anew[KEY].acknowledged_by, anew[KEY].assigned_to, anew[KEY].active_at) == (None, None, at(2))


def test_of_what_nothing_is_known_stays_as_it_is():
    pending, _ = step("r", timing(5), {}, rows("fails"), at(0))
    kept, transitions = step("r", timing(5), pending, [], at(20), kept=frozenset({KEY}))
    assert kept == pending
    assert transitions == []


@pytest.mark.parametrize(
    ("hold", "active", "down", "up", "expected"),
    [
        (5, 0, 3, 10, 10),  # holds for less than the grace: the clock begins anew
        (30, 0, 10, 40, 30),  # the time away does not count
        (30, 0, 25, 40, 20),  # would fire within the grace: fires after it
        (30, 0, 30, 40, 0),  # had held for long enough: fires at once
        (30, 0, 10, 70, 60),  # an hour is tolerated
        (30, 0, 10, 71, 71),  # and not more
    ],
)
def test_after_an_outage_the_clock_of_pending_goes_on(hold: int, active: int, down: int, up: int, expected: int):
    pending = {KEY: Alert("r", LABELS, State.PENDING, at(active))}
    assert resumed(pending, timing(hold), at(down), at(up))[KEY].active_at == at(expected)
    firing = {KEY: Alert("r", LABELS, State.FIRING, at(active), fired_at=at(active))}
    assert resumed(firing, timing(hold), at(down), at(up)) == firing


def test_resolved_is_kept_for_as_long_as_is_told():
    bounds = Bounds(retention=timedelta(minutes=2))
    instances, _ = step("r", timing(0), {}, rows("a"), at(0))
    seen = []
    for minute in (1, 2, 3, 4):
        instances, _ = step("r", timing(0), instances, [], at(minute), bounds=bounds)
        seen.append(len(instances))
    assert seen == [1, 1, 1, 0]
