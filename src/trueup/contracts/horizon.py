"""When an event happened, and when the label of its prediction is due.

Calendars are settlement or trading calendars by name; the holidays themselves come from
the `holidays` library, so they are dated data and not code.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Columns
from trueup.domain.contract import FieldType, HorizonKind, Label
from trueup.errors import ContractError

CALENDARS = ("weekdays", "us-settlement", "nyse", "target")
_YEARS_AROUND = 12  # a horizon is at most 3,650 days


def event_times(columns: Columns) -> NDArray[np.datetime64] | None:
    """Event times datetime64[us] (n,) from the field that holds them; None where the contract names none."""
    name = columns.contract.event_time
    if not name:
        return None
    unit = "D" if columns.contract.by_name[name].type is FieldType.DATE else "us"
    return columns.column(name).astype(f"datetime64[{unit}]").astype("datetime64[us]")


def due_days(label: Label | None, event_days: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """Due day (n,) as datetime64[D] of events on ``event_days``; NaT where nothing is due by date.

    Business days roll forward: an event on a holiday counts from the next business day.
    Raises ContractError for an unknown calendar.
    """
    days = event_days.astype("datetime64[D]")
    if label is None or label.horizon.kind is HorizonKind.PUBLISHED:
        return np.full(days.shape, np.datetime64("NaT"), "datetime64[D]")
    if label.horizon.kind is HorizonKind.DAYS:
        later: NDArray[np.datetime64] = np.add(days, np.timedelta64(label.horizon.length, "D"))
        return later
    if not days.size:
        return days
    first, last = (int(str(d)[:4]) for d in (days.min(), days.max()))
    closed = holidays_of(label.horizon.calendar, first, last + _YEARS_AROUND)
    due: NDArray[np.datetime64] = np.busday_offset(days, label.horizon.length, roll="forward", holidays=closed)
    return due


@lru_cache(maxsize=256)
def holidays_of(calendar: str, first_year: int, last_year: int) -> NDArray[np.datetime64]:
    """Weekday closures of the calendar in the years given, as datetime64[D]. Raises ContractError."""
    if calendar not in CALENDARS:
        raise ContractError(f"unknown calendar {calendar!r}", next_step=f"use one of {', '.join(CALENDARS)}")
    years = range(first_year, min(last_year, first_year + 200) + 1)
    return np.array(sorted(_closed(calendar, years)), "datetime64[D]")


def _closed(calendar: str, years: range) -> set[str]:
    if calendar == "weekdays":
        return set()
    import holidays

    if calendar == "target":
        return {str(day) for day in holidays.financial_holidays("ECB", years=years)}
    nyse = {str(day) for day in holidays.financial_holidays("NYSE", years=years)}
    if calendar == "nyse":
        return nyse
    # Settlement also rests on bank holidays on which the exchange trades (Columbus, Veterans Day).
    return nyse | {str(day) for day in holidays.country_holidays("US", years=years)}
