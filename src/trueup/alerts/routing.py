"""The file that says what inhibits what, and at which times nobody is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from trueup.alerts.matching import LABEL, parse_matchers
from trueup.contracts.horizon import CALENDARS
from trueup.domain.alert import Inhibition, MuteTime
from trueup.errors import InvalidFile, InvalidInput

MOST_BYTES = 256 * 1024
MOST = 200
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIMES = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)\Z")
_OPEN = {"business": True, "closed": False, None: None}


@dataclass(frozen=True, slots=True)
class Routing:
    """Inhibitions, and mute times by name."""

    inhibitions: tuple[Inhibition, ...] = ()
    mute_times: Mapping[str, MuteTime] = field(default_factory=dict)


class RoutingFile:
    """The file, read again where it has changed. One that cannot be read any more is what it was before."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._routing = read_routing(path)
        self._seen = self._signature()

    def read(self) -> Routing:
        """What it says now."""
        seen = self._signature()
        if seen != self._seen:
            with suppress(InvalidFile):  # to tell nobody of anything would be worse than an old inhibition
                self._routing = read_routing(self._path)
            self._seen = seen
        return self._routing

    def _signature(self) -> tuple[int, int]:
        try:
            known = self._path.stat() if self._path else None
        except OSError:
            known = None
        return (0, 0) if known is None else (known.st_mtime_ns, known.st_size)


def read_routing(path: Path | None) -> Routing:
    """The file's content; nothing without a file. Raises InvalidFile, which names the key."""
    if path is None:
        return Routing()
    try:
        with path.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InvalidFile("the routing file is too large")
        body = yaml.safe_load(content)
    except (OSError, yaml.YAMLError, RecursionError, ValueError):
        raise InvalidFile("the routing file cannot be read as YAML", next_step="check TRUEUP_ALERTS__ROUTING") from None
    body = _object(body or {}, "routing", {"inhibit", "mute_times"})
    inhibit, times = body.get("inhibit", []), body.get("mute_times", {})
    if not isinstance(inhibit, list) or not isinstance(times, dict) or len(inhibit) + len(times) > MOST:
        raise InvalidFile(f"routing: inhibit is a list and mute_times are named, {MOST} in all at most")
    return Routing(
        tuple(_inhibition(one) for one in inhibit),
        {str(name): _mute_time(str(name), one) for name, one in times.items()},
    )


def _object(value: object, what: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(value) <= keys:
        raise InvalidFile(f"{what}: {', '.join(sorted(keys))} may be said")
    return value


def _inhibition(value: object) -> Inhibition:
    body = _object(value, "inhibit", {"source", "target", "equal"})
    equal = body.get("equal", [])
    if not isinstance(equal, list) or not all(isinstance(name, str) and LABEL.match(name) for name in equal):
        raise InvalidFile("inhibit: equal is a list of labels")
    try:
        source, target = (parse_matchers([str(text) for text in body[side]]) for side in ("source", "target"))
    except (KeyError, TypeError):
        raise InvalidFile("inhibit: source and target are lists of matchers") from None
    except InvalidInput as error:
        raise InvalidFile(f"inhibit: {error.message}", next_step=error.next_step) from None
    return Inhibition(source, target, tuple(equal))


def _mute_time(name: str, value: object) -> MuteTime:
    what = f"mute_times.{name}"
    body = _object(value, what, {"zone", "weekdays", "times", "calendar", "days"})
    calendar, named, days = body.get("calendar", "weekdays"), body.get("weekdays"), body.get("days")
    if calendar not in CALENDARS or days not in _OPEN or ("calendar" in body and days is None):
        raise InvalidFile(f"{what}: calendar is one of {', '.join(CALENDARS)}, with days: business or closed")
    if named is not None and (not isinstance(named, list) or not set(named) <= set(_DAYS) or not named):
        raise InvalidFile(f"{what}: weekdays are {', '.join(_DAYS)}")
    minutes = tuple(_minutes(text, what) for text in body.get("times") or [])
    if not minutes and named is None and days is None:
        raise InvalidFile(f"{what}: times, weekdays or days is needed, for nothing else would ever be told")
    weekdays = None if named is None else frozenset(_DAYS.index(day) for day in named)
    return MuteTime(name, _zone(body.get("zone", "UTC"), what), weekdays, minutes, calendar, _OPEN[days])


def _zone(name: object, what: str) -> str:
    try:
        return ZoneInfo(str(name)).key
    except (OSError, ValueError, KeyError):
        raise InvalidFile(f"{what}: zone is a name like Europe/Vienna") from None


def _minutes(text: object, what: str) -> tuple[int, int]:
    found = _TIMES.match(str(text))
    first, last = (0, 0) if found is None else (
        int(found[1]) * 60 + int(found[2]),
        int(found[3]) * 60 + int(found[4]),
    )  # fmt: skip
    if not first < last <= 24 * 60:
        raise InvalidFile(
            f"{what}: times are like 08:00-17:30; over midnight there are two, 22:00-24:00 and 00:00-06:00"
        )
    return first, last
