"""Windows on the calendar, declarations that contradict themselves, and batches that are still absent."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.contracts.reading import load_contract
from trueup.domain.monitoring import Breach, Changed, KnownBy, Monitoring, ReferenceRows, Run, Window, WindowKind
from trueup.monitoring.postgres_counting import _without
from trueup.monitoring.staleness import stale
from trueup.monitoring.windows import window_of, windows_over

DAYS = st.dates(date(1990, 1, 1), date(2090, 1, 1))
LABEL = load_contract("""
name: t
version: 1
fields: {item: {type: string, role: key}, x: float64}
output: {kind: probability}
label: {name: l, type: bool, horizon: {days: 2}, never_after: 10}
""").label
DECLARED = Monitoring(windows=(WindowKind.DAY,))
DAY = date(2026, 11, 2)


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


@given(DAYS, st.sampled_from(WindowKind))
def test_a_window_holds_its_day_and_follows_the_one_before(day: date, kind: WindowKind):
    window = window_of(kind, day)
    assert window.first <= day <= window.last
    assert all(window_of(kind, d) == window for d in (window.first, window.last))
    assert window_of(kind, window.last + timedelta(days=1)).first == window.last + timedelta(days=1)
    lengths = {WindowKind.DAY: {1}, WindowKind.WEEK: {7}, WindowKind.HALF_MONTH: {13, 14, 15, 16},
               WindowKind.MONTH: {28, 29, 30, 31}}  # fmt: skip
    assert (window.last - window.first).days + 1 in lengths[kind]


def test_windows_have_ended_and_are_of_every_kind():
    kinds = (WindowKind.HALF_MONTH, WindowKind.MONTH)
    found = list(windows_over(kinds, date(2026, 2, 10), date(2026, 3, 16)))
    assert found == [
        Window(WindowKind.HALF_MONTH, date(2026, 2, 1), date(2026, 2, 15)),
        Window(WindowKind.HALF_MONTH, date(2026, 2, 16), date(2026, 2, 28)),
        Window(WindowKind.HALF_MONTH, date(2026, 3, 1), date(2026, 3, 15)),
        Window(WindowKind.MONTH, date(2026, 2, 1), date(2026, 2, 28)),
    ]


@given(st.sets(st.integers(1, 60)), st.data())
def test_numbers_that_are_absent_are_those_that_were_not_seen(seen: set[int], data: st.DataObject):
    """Whatever is seen first, and whatever later."""
    first = data.draw(st.sets(st.sampled_from(sorted(seen)))) if seen else set()
    upto = max(first, default=0)
    absent = _without(np.array([[1, upto + 1]]), np.array(sorted(first), np.int64))
    later = seen - first
    last = max(seen, default=0)
    ranges = np.concatenate([absent, [[upto + 1, last + 1]]])
    still = _without(ranges, np.array(sorted(later), np.int64))
    held = {number for a, b in still.tolist() for number in range(a, b)}
    assert held == set(range(1, last + 1)) - seen
    assert (still[:, 0] < still[:, 1]).all()


@pytest.mark.parametrize(
    ("counted_at", "changed", "known", "is_stale"),
    [
        (at(3), None, at(6), False),  # nothing since
        (at(5, 12), None, at(6), True),  # predictions were counted since
        (at(3), Changed(at(6, 1), at(2)), at(7), True),  # an outcome became known since
        (at(3), Changed(at(4), at(5, 12)), at(6), True),  # one that was known then was recorded since
        (at(3), Changed(at(4), at(4)), at(6), False),  # it was there
        (at(3), None, at(14), False),  # due on the 4th and given up after the 14th
        (at(3), None, at(15), True),
    ],
)
def test_a_window_is_stale_when_something_is_known_that_was_not(
    counted_at: datetime, changed: Changed | None, known: datetime, *, is_stale: bool
):
    window = Window(WindowKind.DAY, DAY, DAY)
    last = Run(1, window, at(5), KnownBy.RECORDED, at(5))
    measured = {(WindowKind.DAY, DAY): last}
    found = list(stale(DECLARED, LABEL, {DAY: (10, counted_at)}, measured, {DAY: changed} if changed else {}, known))
    assert found == ([window] if is_stale else [])


def test_a_window_is_stale_until_it_was_measured_and_not_before_it_has_ended():
    counted = {DAY: (10, at(3))}
    assert list(stale(DECLARED, LABEL, counted, {}, {}, at(2, 23))) == []
    assert [w.first for w in stale(DECLARED, LABEL, counted, {}, {}, at(3))] == [DAY]
    assert list(stale(DECLARED, LABEL, {}, {}, {}, at(3))) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ReferenceRows(),
        lambda: ReferenceRows(rows=1, days=1),
        lambda: ReferenceRows(first=DAY),
        lambda: ReferenceRows(first=DAY, last=DAY - timedelta(days=1)),
        lambda: ReferenceRows(rows=0),
        lambda: Breach(),
        lambda: Breach(above=float("nan")),
        lambda: Monitoring(windows=()),
        lambda: Monitoring(bins=1),
        lambda: Monitoring(segments=("a", "a")),
        lambda: Monitoring(alpha=1.0),
        lambda: Monitoring(maturity_floor=0.0),
        lambda: Monitoring(floors={"auc": 0.1}),
        lambda: Monitoring(smallest_slice=0),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(wrong: Any):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        wrong()


def test_a_metric_is_kept_with_its_estimate_and_its_difference():
    kept = Monitoring(metrics=("auc",))
    assert all(kept.keeps(name) for name in ("auc", "estimated_auc", "challenger_auc_difference"))
    assert not kept.keeps("ece")
    assert Monitoring().keeps("ece")
