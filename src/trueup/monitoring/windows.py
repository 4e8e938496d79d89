"""Which event days are measured together. Windows lie on the calendar, so that all deployments share theirs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from trueup.domain.monitoring import Window, WindowKind

_DAY = timedelta(days=1)


def window_of(kind: WindowKind, day: date) -> Window:
    """The window of that kind which holds the day."""
    if kind is WindowKind.DAY:
        return Window(kind, day, day)
    if kind is WindowKind.WEEK:
        monday = day - day.weekday() * _DAY
        return Window(kind, monday, monday + 6 * _DAY)
    last = _last_of_month(day)
    if kind is WindowKind.MONTH:
        return Window(kind, day.replace(day=1), last)
    if day.day <= 15:
        return Window(kind, day.replace(day=1), day.replace(day=15))
    return Window(kind, day.replace(day=16), last)


def windows_over(kinds: tuple[WindowKind, ...], first: date, last: date) -> Iterator[Window]:
    """The windows of each kind that touch the days and have ended by ``last``, oldest first."""
    for kind in kinds:
        window = window_of(kind, first)
        while window.last <= last:
            yield window
            window = window_of(kind, window.last + _DAY)


def _last_of_month(day: date) -> date:
    return (day.replace(day=28) + 4 * _DAY).replace(day=1) - _DAY
