"""When what waits for a deployment is worth a batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.doors.inference.asks import Ask
from trueup.doors.inference.waiting import Line, Pace
from trueup.settings import Limits

LIMITS = Limits(gathered_rows=64, commits_in_flight=2)


def ask(rows: int = 1) -> Ask:
    """As much of one as a line looks at; ``answer`` None is nobody who could have gone."""
    found: Any = SimpleNamespace(rows=rows, answer=None, deadline=None, source=SimpleNamespace(keys=[object()] * rows))
    found.goes_with = lambda other: True
    return cast(Ask, found)


def start(line: Line, bound: int = LIMITS.gathered_rows) -> list[Ask]:
    asks = line.next_batch(bound, lambda _: None)
    line.started(asks)
    return asks


def test_one_caller_never_waits():
    line = Line()
    for _ in range(20):
        line.came(ask())
        assert line.has_its_share(LIMITS)
        line.ended(start(line))


def test_half_of_a_crowd_starts_a_batch_beside_the_other_half():
    line = Line()
    for _ in range(8):
        line.came(ask())
    first = start(line)  # nobody else came
    assert len(first) == 8
    line.ended(first)
    for _ in range(3):
        line.came(ask())
        assert not line.has_its_share(LIMITS)
    line.came(ask())
    assert line.has_its_share(LIMITS)
    assert len(start(line)) == 4
    for _ in range(4):
        line.came(ask())
    assert line.has_its_share(LIMITS)  # the second commit in flight


def test_no_more_commits_than_may_be_in_flight():
    line = Line()
    for _ in range(2):
        for _ in range(8):
            line.came(ask())
        start(line)
    line.came(ask(64))
    assert line.in_flight == LIMITS.commits_in_flight
    assert not line.has_its_share(LIMITS)
    assert not line.may_go_on(LIMITS)


def test_a_few_are_left_to_the_next_batch_while_one_is_booked():
    line = Line()
    for _ in range(16):
        line.came(ask())
    start(line)
    line.came(ask())
    assert not line.may_go_on(LIMITS)
    for _ in range(5):
        line.came(ask())
    assert line.may_go_on(LIMITS)


def test_a_repeat_is_not_booked_beside_its_first():
    line = Line()
    first, repeat = ask(), ask()
    repeat.source.keys[:] = first.source.keys  # type: ignore[index]
    line.came(first)
    assert start(line) == [first]
    line.came(repeat)
    assert line.next_batch(64, lambda _: None) == []
    assert (line.rows, list(line.waiting)) == (1, [repeat])
    line.ended([first])
    assert start(line) == [repeat]


def test_a_crowd_that_went_away_is_forgotten():
    line = Line()
    for _ in range(60):
        line.came(ask())
    line.ended(start(line))
    for _ in range(60):
        line.came(ask())
        line.ended(start(line))
    line.came(ask())
    assert line.has_its_share(LIMITS)


@given(st.lists(st.one_of(st.integers(1, 40), st.just("start"), st.just("end")), max_size=60), st.integers(1, 64))
def test_rows_are_counted_and_whatever_waits_can_start_once_nothing_is_booked(steps: list[int | str], bound: int):
    line, booking, waiting = Line(), [], 0
    for step in steps:
        if isinstance(step, int):
            line.came(ask(step))
            waiting += step
        elif step == "start" and line.waiting:
            batch = start(line, bound)
            rows = sum(one.rows for one in batch)
            assert batch
            assert rows <= bound or len(batch) == 1
            waiting -= rows
            booking.append(batch)
        elif booking:
            line.ended(booking.pop(0))
        assert (line.rows, line.in_flight) == (waiting, len(booking))
        assert line.booking == sum(one.rows for batch in booking for one in batch)
        assert line.crowd >= 0
        if line.waiting and not booking:
            assert line.may_go_on(LIMITS)


@pytest.mark.parametrize("rows", [1, 100, 1_000])
def test_a_pace_says_how_many_rows_fit(rows: int):
    pace = Pace()
    assert pace.rows(2.0) <= 0  # unknown: as if it were slow
    for _ in range(200):
        pace.took(rows, 10_000 * (rows + 32))
    assert pace.rows(2.0) == pytest.approx(200 - 32, abs=2)
