"""Parameters of SQL files: their types, and values of these types from what people and programs give."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

from trueup.errors import InvalidQuery

MAX_TEXT = 10_000
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\Z")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_RELATIVE = re.compile(r"(today|now)(?: *([+-]) *([0-9]{1,5}) *(minute|hour|day|week)s?)?\Z")


class ParameterType(StrEnum):
    """What a parameter may be."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that whoever runs the file gives, or may leave to ``default``.

    A date may be given as ``today`` or ``today - 30 days``, a timestamp as ``now - 2 hours``: both of the moment
    for which the file is run, in UTC.
    """

    name: str
    type: ParameterType
    default: object | None = None
    description: str = ""
    required: bool = True

    def value(self, given: object, now: datetime) -> object:
        """The given value in the parameter's type: str, int, float, bool, date, or datetime in UTC. None stays None
        where the parameter is not required. Raises InvalidQuery, whose words do not repeat the value."""
        if given is None and not self.required:
            return None
        found = _READERS[self.type](_placed(given, self.type, now))
        if found is None:
            raise InvalidQuery(f"parameter {self.name}: {_EXPECTED[self.type]} is needed")
        return found


def _placed(given: object, kind: ParameterType, now: datetime) -> object:
    """``today - 7 days`` and the like as the day or moment they are; anything else as it was."""
    if not isinstance(given, str) or kind not in (ParameterType.DATE, ParameterType.TIMESTAMP):
        return given
    found = _RELATIVE.match(given.strip())
    if found is None or (found[1] == "today") != (kind is ParameterType.DATE):
        return given
    step = timedelta()
    if found[4] is not None:
        if kind is ParameterType.DATE and found[4] in ("minute", "hour"):
            return given
        step = timedelta(**{f"{found[4]}s": int(found[2] + found[3])})
    try:
        moved = now.astimezone(UTC) + step
    except OverflowError:
        return None
    return moved.date() if kind is ParameterType.DATE else moved


def _text(given: object) -> str | None:
    return given if isinstance(given, str) and "\0" not in given and len(given) <= MAX_TEXT else None


def _integer(given: object) -> int | None:
    if isinstance(given, str) and _INTEGER.match(given):
        given = int(given)
    is_whole = isinstance(given, int) and not isinstance(given, bool)
    return given if is_whole and isinstance(given, int) and -(2**63) <= given < 2**63 else None


def _number(given: object) -> float | None:
    if isinstance(given, str) and _NUMBER.match(given):
        given = float(given)
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        return None
    try:
        return float(given) if math.isfinite(given) else None
    except OverflowError:
        return None


def _boolean(given: object) -> bool | None:
    if isinstance(given, str):
        return {"true": True, "false": False}.get(given)
    return given if isinstance(given, bool) else None


def _date(given: object) -> date | None:
    if isinstance(given, str) and _DAY.match(given):
        try:
            return date.fromisoformat(given)
        except ValueError:
            return None
    return given if isinstance(given, date) and not isinstance(given, datetime) else None


def _timestamp(given: object) -> datetime | None:
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            return None
    if not isinstance(given, datetime) or given.tzinfo is None:
        return None
    try:
        return given.astimezone(UTC)
    except OverflowError:
        return None


_READERS: dict[ParameterType, Any] = {
    ParameterType.TEXT: _text,
    ParameterType.INTEGER: _integer,
    ParameterType.NUMBER: _number,
    ParameterType.BOOLEAN: _boolean,
    ParameterType.DATE: _date,
    ParameterType.TIMESTAMP: _timestamp,
}
_EXPECTED = {
    ParameterType.TEXT: f"a text of at most {MAX_TEXT} characters",
    ParameterType.INTEGER: "a whole number",
    ParameterType.NUMBER: "a finite number",
    ParameterType.BOOLEAN: "true or false",
    ParameterType.DATE: "a day (YYYY-MM-DD, or such as `today - 7 days`)",
    ParameterType.TIMESTAMP: "a moment with its zone (2021-02-15T00:00:00Z, or such as `now - 2 hours`)",
}
