"""Moments at which nobody is told: times of a local day, weekdays, and days on which a business calendar is closed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from zoneinfo import ZoneInfo

import numpy as np

from trueup.contracts.horizon import holidays_of
from trueup.domain.alert import MuteTime


def is_muted(names: Iterable[str], times: Mapping[str, MuteTime], now: datetime) -> bool:
    """Whether one of the named times is in force. A name that is no longer declared mutes nothing."""
    return any(name in times and is_in_force(times[name], now) for name in names)


def is_in_force(time: MuteTime, now: datetime) -> bool:
    """Whether everything the time says holds at ``now``, by the clock on the wall of its zone."""
    local = now.astimezone(ZoneInfo(time.zone))
    minute = local.hour * 60 + local.minute
    return (
        (time.weekdays is None or local.weekday() in time.weekdays)
        and (not time.minutes or any(first <= minute < last for first, last in time.minutes))
        and (time.business_days is None or is_business_day(local.date(), time.calendar) is time.business_days)
    )


def is_business_day(day: date, calendar: str) -> bool:
    """Whether the calendar is open. Raises ContractError for an unknown calendar."""
    closed = holidays_of(calendar, day.year - 1, day.year + 1)
    return bool(np.is_busday(np.datetime64(day), holidays=closed))
