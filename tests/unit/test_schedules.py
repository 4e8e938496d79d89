"""Schedules mean the same moments to every worker, and what is missed is decided the same way by all."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.contracts.schedules import EPOCH, before, between, declared, every, later_by, schedule
from trueup.domain.job import Missed
from trueup.doors.clock.planning import plan
from trueup.errors import InvalidFile, InvalidInput
from trueup.settings import Clock

MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))
EVERY = st.builds(lambda n, unit: f"every {n}{unit}", st.integers(1, 700), st.sampled_from("smh"))


def field(low: int, high: int) -> st.SearchStrategy[str]:
    one = st.integers(low, high).map(str)
    ranges = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda r: f"{min(r)}-{max(r)}")
    return st.one_of(
        st.just("*"),
        one,
        ranges,
        st.integers(1, high).map(lambda n: f"*/{n}"),
        st.lists(one, min_size=2, max_size=3).map(",".join),
    )


CRON = st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6)).map(" ".join)
SCHEDULES = st.one_of(EVERY, CRON)


@given(SCHEDULES, MOMENTS)
def test_the_next_moment_is_strictly_later_and_in_utc(text: str, moment: datetime):
    due = schedule(text).after(moment)
    assert due > moment
    assert due.utcoffset() == timedelta(0)


@given(SCHEDULES, MOMENTS)
def test_no_moment_lies_between_one_and_the_next(text: str, moment: datetime):
    found = schedule(text)
    due = found.after(moment)
    assert found.after(due - timedelta(microseconds=1)) == due
    assert next(found.back(due)) == due
    assert next(found.back(due - timedelta(microseconds=1))) <= moment


@given(SCHEDULES, MOMENTS)
def test_backwards_are_the_same_moments(text: str, moment: datetime):
    found = schedule(text)
    back = list(islice(found.back(moment), 4))
    assert [found.after(due) for due in back[1:]] == back[:-1]


@given(st.integers(1, 86_400), MOMENTS)
def test_every_is_aligned_to_the_epoch(seconds: int, moment: datetime):
    due = schedule(f"every {seconds}s").after(moment)
    assert (due - EPOCH) % timedelta(seconds=seconds) == timedelta(0)
    assert due - moment <= timedelta(seconds=seconds)


def test_cron_is_read_in_utc():
    summer = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)  # Europe changes its clocks at 01:00 UTC
    assert schedule("30 * * * *").after(summer) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert schedule("0 6 * * 1-5").after(datetime(2026, 11, 27, 6, 0, tzinfo=UTC)) == datetime(
        2026, 11, 30, 6, 0, tzinfo=UTC
    )


@pytest.mark.parametrize(
    "text",
    ["", "every", "every 0s", "every 40d", "every 800h", "every -1s", "every 1.5m", "@daily", "* * * * * *",
     "61 * * * *", "0 0 30 2 *", "H * * * *", "0 0 L * *", "* * * *", "x", "0 0 * * 1#2", "*/0 * * * *", "9" * 300],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(text: str):
    with pytest.raises(InvalidInput) as caught:
        schedule(text)
    assert "UTC" in caught.value.next_step


@given(st.text(max_size=30))
def test_no_text_breaks_the_parser(text: str):
    with suppress(InvalidInput):
        assert schedule(text).after(EPOCH) > EPOCH


def test_three_periods_later():
    assert later_by(schedule("every 1h"), EPOCH, 3) == EPOCH + timedelta(hours=3)


BOUNDS = Clock(catch_up=5, missed_rows=20)
FIRST = datetime(2026, 11, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_one_moment_that_is_due_is_run_whatever_the_policy():
    for missed in Missed:
        found = plan(schedule("every 1m"), missed, FIRST, FIRST + timedelta(seconds=5), BOUNDS)
        assert (found.run, found.missed, found.next_due) == (FIRST, (), FIRST + MINUTE)


def test_latest_runs_the_last_and_misses_the_others():
    found = plan(schedule("every 1m"), Missed.LATEST, FIRST, FIRST + 3 * MINUTE, BOUNDS)
    assert found.run == FIRST + 3 * MINUTE
    assert found.missed == tuple(FIRST + n * MINUTE for n in range(3))
    assert found.next_due == FIRST + 4 * MINUTE


def test_all_runs_the_oldest_within_the_bound():
    found = plan(schedule("every 1m"), Missed.ALL, FIRST, FIRST + 8 * MINUTE, BOUNDS)
    assert found.run == FIRST + 4 * MINUTE
    assert found.missed == tuple(FIRST + n * MINUTE for n in range(4))
    assert found.next_due == FIRST + 5 * MINUTE


def test_skip_runs_nothing_that_is_old():
    hourly = schedule("every 1h")
    found = plan(hourly, Missed.SKIP, FIRST, FIRST + timedelta(hours=2, minutes=30), BOUNDS)
    assert found.run is None
    assert len(found.missed) == 3
    assert found.next_due == FIRST + timedelta(hours=3)
    punctual = plan(hourly, Missed.SKIP, FIRST, FIRST + timedelta(hours=2, seconds=30), BOUNDS)
    assert punctual.run == FIRST + timedelta(hours=2)


@given(SCHEDULES, st.sampled_from(Missed), MOMENTS, st.timedeltas(timedelta(0), timedelta(days=400)))
def test_no_plan_loses_or_doubles_a_moment_without_saying_so(
    text: str, missed: Missed, moment: datetime, asleep: timedelta
):
    of = schedule(text)
    first = of.after(moment)
    now = first + asleep
    found = plan(of, missed, first, now, BOUNDS)
    told = [*found.missed, *([] if found.run is None else [found.run])]
    assert told == sorted(set(told))
    assert len(told) <= BOUNDS.catch_up + BOUNDS.missed_rows
    assert all(first <= due <= now for due in told)
    assert found.next_due == of.after(told[-1])
    assert found.forgotten == (told[0] != first)
    if missed is not Missed.ALL:
        assert found.next_due > now


def test_nothing_is_due_yet():
    found = plan(schedule("every 1m"), Missed.ALL, FIRST, FIRST - timedelta(seconds=1), BOUNDS)
    assert (found.run, found.missed, found.next_due) == (None, (), FIRST)


@given(SCHEDULES, MOMENTS)
def test_the_moment_before_a_due_moment_is_due_and_nothing_lies_between(text: str, moment: datetime):
    found = schedule(text)
    due = found.after(moment)
    earlier = before(found, due)
    assert earlier < due
    assert list(between(found, earlier, due)) == [earlier, due]


@given(st.integers(1, 31 * 86_400).map(lambda seconds: timedelta(seconds=seconds)))
def test_an_interval_is_a_schedule_of_it(interval: timedelta):
    found = schedule(every(interval))
    assert found.after(EPOCH) - EPOCH == interval


def test_days_are_an_interval():
    assert schedule("every 2d").after(EPOCH) == EPOCH + timedelta(days=2)


@pytest.mark.parametrize("value", [5, None, ["every 5m"], "every 5w", "every 32d", "0 0 30 2 *"])
def test_a_file_with_what_is_no_schedule_is_refused(value: object):
    with pytest.raises(InvalidFile, match="schedule"):
        declared(value)
