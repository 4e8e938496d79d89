"""Durations as Prometheus writes them, and the moments of a schedule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from croniter import croniter

from trueup.errors import InvalidFile

_DURATION = re.compile(r"(?:(\d{1,4})w)?(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?\Z")
_EVERY = re.compile(r"every (\d{1,5})([smh])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(text: object, what: str) -> timedelta:
    """``30s``, ``5m``, ``1h30m``, ``2d``, ``1w`` or 0. Raises InvalidFile, which names ``what``."""
    found = _DURATION.match(str(text)) if text not in ("", 0, "0") else None
    if found is None or not any(found.groups()):
        if text in (0, "0"):
            return timedelta()
        raise InvalidFile(f"{what}: not a duration", next_step="write 30s, 5m, 1h30m or 2d")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)


def check_schedule(text: object) -> str:
    """The schedule. Raises InvalidFile unless it is five cron fields or ``every 30s`` (``s``, ``m``, ``h``)."""
    if isinstance(text, str):
        if text.startswith("every "):
            found = _EVERY.match(text)
            if found and int(found[1]) > 0:
                return text
        elif len(text.split()) == 5 and croniter.is_valid(text):
            return text
    raise InvalidFile("schedule: not a schedule", next_step="write five cron fields (UTC), or `every 5m`")


def previous(schedule: str, moment: datetime) -> datetime:
    """The due moment before ``moment``. Every 30 s counts from 1970, so that it is the same for everybody."""
    every = _EVERY.match(schedule)
    if every is None:
        found: datetime = croniter(schedule, moment.astimezone(UTC)).get_prev(datetime)
        return found
    step = timedelta(**{_UNITS[every[2]]: int(every[1])})
    ago = (moment - _EPOCH) % step
    return moment - (ago or step)


def moments(schedule: str, first: datetime, last: datetime) -> Iterator[datetime]:
    """Due moments from ``first`` to ``last``, both included, oldest first."""
    every = _EVERY.match(schedule)
    if every is None:
        found = croniter(schedule, first.astimezone(UTC) - timedelta(seconds=1))
        moment: datetime = found.get_next(datetime)
        while moment <= last:
            yield moment
            moment = found.get_next(datetime)
        return
    step = timedelta(**{_UNITS[every[2]]: int(every[1])})
    moment = previous(schedule, first) + step if (first - _EPOCH) % step else first
    while moment <= last:
        yield moment
        moment += step
