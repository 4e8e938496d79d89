"""When work is due: five cron fields read in UTC, or ``every 30s`` (``s``, ``m``, ``h``, ``d``).

UTC has no summer time, so no moment is left out or comes twice. Moments of ``every`` are whole multiples of its
interval since 1970, so that every worker, whenever it was started, means the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

from croniter import croniter
from croniter.croniter import CroniterError

from trueup.errors import InvalidFile, InvalidInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHORTEST = timedelta(seconds=1)
LONGEST = timedelta(days=31)
CHARS = 200
_TICK = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)
_EVERY = re.compile(r"every ([1-9][0-9]{0,8})([smhd])")
_UNIT = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_NAMES = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat"
_CRON = re.compile(rf"(?:[0-9*/,\-]|{_NAMES})+", re.IGNORECASE)  # without the extensions of one library


class Schedule(Protocol):
    """Moments at which work is due, without end."""

    def after(self, moment: datetime) -> datetime:
        """The first one strictly later than ``moment``, both in UTC with zone."""
        ...

    def back(self, moment: datetime) -> Iterator[datetime]:
        """Those at or before ``moment``, the latest first."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """At whole multiples of ``interval`` since 1970-01-01 00:00 UTC."""

    interval: timedelta

    def after(self, moment: datetime) -> datetime:
        """As in Schedule."""
        return EPOCH + ((moment - EPOCH) // self.interval + 1) * self.interval

    def back(self, moment: datetime) -> Iterator[datetime]:
        """As in Schedule."""
        due = EPOCH + (moment - EPOCH) // self.interval * self.interval
        while True:
            yield due
            due -= self.interval


@dataclass(frozen=True, slots=True)
class Cron:
    """At the minutes that five fields name: minute, hour, day of month, month, day of week."""

    fields: str

    def after(self, moment: datetime) -> datetime:
        """As in Schedule."""
        found: datetime = croniter(self.fields, moment.astimezone(UTC)).get_next(datetime)
        return found

    def back(self, moment: datetime) -> Iterator[datetime]:
        """As in Schedule."""
        steps = croniter(self.fields, moment.astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE)
        while True:
            yield steps.get_prev(datetime)


@lru_cache(10_000)
def schedule(text: str) -> Schedule:
    """Raises InvalidInput for what is neither form, or names no moment at all, such as 30 February."""
    words = " ".join(text.split())
    every = _EVERY.fullmatch(words)
    if every is not None:
        interval = int(every[1]) * _UNIT[every[2]]
        if not SHORTEST <= interval <= LONGEST:
            raise _refused("the interval of a schedule is between 1 second and 31 days")
        return Every(interval)
    fields = words.split(" ")
    if len(words) > CHARS or len(fields) != 5 or not all(_CRON.fullmatch(field) for field in fields):
        raise _refused("a schedule is five cron fields or `every 30s`")
    found = Cron(words)
    try:
        found.after(EPOCH)
    except (CroniterError, ValueError):
        raise _refused("no such moment as this schedule names ever comes") from None
    return found


def _refused(why: str) -> InvalidInput:
    return InvalidInput(why, next_step="write `every 30s` (s, m, h, d), or as in cron `0 6 * * 1-5`, read in UTC")


def declared(value: object) -> str:
    """The schedule that a file's front matter names. Raises InvalidFile."""
    if not isinstance(value, str):
        raise InvalidFile("schedule: not text", next_step="write five cron fields (UTC), or `every 5m`")
    try:
        schedule(value)
    except InvalidInput as error:
        raise InvalidFile(f"schedule: {error.message}", next_step=error.next_step) from None
    return value


def every(interval: timedelta) -> str:
    """The schedule of an interval of whole seconds."""
    return f"every {interval // timedelta(seconds=1)}s"


def before(of: Schedule, moment: datetime) -> datetime:
    """The last moment strictly earlier than ``moment``."""
    return next(of.back(moment - _TICK))


def between(of: Schedule, first: datetime, last: datetime) -> Iterator[datetime]:
    """Those from ``first`` to ``last``, both included, oldest first."""
    due = of.after(first - _TICK)
    while due <= last:
        yield due
        due = of.after(due)


def later_by(of: Schedule, moment: datetime, periods: int) -> datetime:
    """The ``periods``-th moment after ``moment``."""
    for _ in range(periods):
        moment = of.after(moment)
    return moment
