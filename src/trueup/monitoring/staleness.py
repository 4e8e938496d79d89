"""Which windows have to be measured, or measured again, because something is known now that was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta

import numpy as np

from trueup.contracts.horizon import due_days
from trueup.domain.contract import Label
from trueup.domain.monitoring import Changed, Monitoring, Run, Window, WindowKind
from trueup.monitoring.windows import windows_over

_DAY = timedelta(days=1)


def stale(
    declared: Monitoring,
    label: Label | None,
    counted: Mapping[date, tuple[int, datetime]],
    measured: Mapping[tuple[WindowKind, date], Run],
    changed: Mapping[date, Changed],
    now: datetime,
) -> Iterator[Window]:
    """Windows that have ended and hold predictions, and since whose last measurement predictions or outcomes came or
    outcomes fell due. Oldest first."""
    today = now.date()
    if not counted:
        return
    for window in sorted(
        windows_over(declared.windows, min(counted), today - _DAY), key=lambda w: (w.last, w.first, w.kind)
    ):
        days = [window.first + i * _DAY for i in range((window.last - window.first).days + 1)]
        rows = [counted[day] for day in days if day in counted]
        last = measured.get((window.kind, window.first))
        if rows and (last is None or _has_changed(last, days, rows, changed, label, today)):
            yield window


def _has_changed(
    last: Run,
    days: list[date],
    rows: list[tuple[int, datetime]],
    changed: Mapping[date, Changed],
    label: Label | None,
    today: date,
) -> bool:
    if max(at for _, at in rows) > last.started_at:
        return True
    outcomes = [changed[day] for day in days if day in changed]
    if any(c.known_at > last.known_at or c.recorded_at > last.started_at for c in outcomes):
        return True
    return label is not None and _falls_due(label, days, last.known_at.date(), today)


def _falls_due(label: Label, days: list[date], before: date, today: date) -> bool:
    """Whether outcomes of the event days became due, or were given up, after ``before`` and until ``today``."""
    due = due_days(label, np.array(days, "datetime64[D]"))
    due = due[~np.isnat(due)]
    moments = [due] if label.never_after is None else [due, due + np.timedelta64(label.never_after + 1, "D")]
    return any(((m > np.datetime64(before)) & (m <= np.datetime64(today))).any() for m in moments)
