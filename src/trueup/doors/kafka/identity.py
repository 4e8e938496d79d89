"""What a record says of its instances beside their fields: their own ids, and when they happened."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from typing import Any, Final
from uuid import UUID

import numpy as np

from trueup.contracts.each import ABSENT
from trueup.contracts.horizon import event_times
from trueup.contracts.values import microseconds
from trueup.domain.batch import Decoded
from trueup.domain.contract import FieldError
from trueup.domain.stream import Stream
from trueup.doors.kafka.formats.message import Message
from trueup.doors.kafka.paths import Path, Place
from trueup.errors import InvalidInput
from trueup.settings import Limits

CLOUD_EVENT: Final = "cloudevent"
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,30})?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_MS_MIN, _MS_MAX = -62_135_596_800_000, 253_402_300_799_999
_DAY_US = 86_400_000_000


class Wrong(Exception):
    """The path holds no such thing. ``detail`` has the path and a code."""

    def __init__(self, path: object, code: str) -> None:
        super().__init__(code)
        self.detail = f"{path}: {code}"


class Identity:
    """The events' own ids, unique within the stream. Raises InvalidInput when made of what is no path."""

    def __init__(self, stream: Stream, instances: Path, limits: Limits) -> None:
        self._most = limits.key_chars
        self._place: Place | None = None
        if stream.identity != CLOUD_EVENT:
            self._place = Place(stream.identity or "", instances)
        elif stream.format != "cloudevents":
            raise InvalidInput("only CloudEvents have that identity", next_step="give the path of the event's id")

    @property
    def path(self) -> Path | None:
        """Where it lies; None where it is made of a CloudEvent's source and id."""
        return None if self._place is None else self._place.path

    def of(self, message: Message, rows: Sequence[Any]) -> list[str]:
        """An id for each instance. Raises Wrong."""
        if self._place is None:
            return self._each([_cloud_event(message, self._most)], len(rows), of_message=True)
        return self._each(self._place.of(message, rows), len(rows), of_message=self._place.within is None)

    def of_values(self, values: Sequence[Any]) -> list[str]:
        """The ids of messages with one instance each, from what lies at the path. Raises Wrong."""
        if set(map(type, values)) <= {str} and all(map(str.isprintable, values)) and all(map(str.strip, values)):
            if max(map(len, values), default=0) > self._most:
                raise Wrong(self.path, "length")
            return list(values)
        return self._each(values, len(values), of_message=False)

    def _each(self, values: Sequence[Any], n: int, *, of_message: bool) -> list[str]:
        path = self.path or CLOUD_EVENT
        found = [_text(value, path) for value in values]
        if of_message and n != 1:
            found = [f"{found[0]}/{place}" for place in range(n)]
        if any(len(one) > self._most for one in found):
            raise Wrong(path, "length")
        return found


def _cloud_event(message: Message, most: int) -> str:
    """An event's source and id as a JSON list, or the digest of that where it is long."""
    pair = f"[{encode_basestring_ascii(message.headers['source'])},{encode_basestring_ascii(message.headers['id'])}]"
    return pair if len(pair) <= most - 8 else "sha256:" + hashlib.sha256(pair.encode()).hexdigest()


def _text(value: Any, path: object) -> str:
    if value is ABSENT or value is None:
        raise Wrong(path, "missing")
    if isinstance(value, bool) or not isinstance(value, (str, int, UUID)):
        raise Wrong(path, "type")
    if isinstance(value, int) and value.bit_length() > 2_000:
        raise Wrong(path, "length")
    text = str(value)
    if not text.strip():
        raise Wrong(path, "missing")
    if not text.isprintable():
        raise Wrong(path, "type")
    return text


class Calendar:
    """The days that the ledger keeps: an event on any other would fail the batch that it came with."""

    def __init__(self, limits: Limits, now_us: Callable[[], int]) -> None:
        self._past, self._future = limits.event_past_days, limits.event_future_days
        self._now_us = now_us

    def range_us(self) -> tuple[int, int]:
        """The first moment, and the first one after the last day."""
        today = self._now_us() // _DAY_US
        return (today - self._past) * _DAY_US, (today + self._future + 1) * _DAY_US

    def within(self, decoded: Decoded) -> Decoded:
        """Without the instances whose field of the event time lies outside; they are named like other errors."""
        when = event_times(decoded.columns)
        if when is None or not when.size:
            return decoded
        first, last = self.range_us()
        us = when.astype(np.int64)
        outside = (us < first) | (us >= last)
        if not outside.any():
            return decoded
        name = decoded.columns.contract.event_time
        errors = [
            FieldError(row, name, "range", "a day that the ledger keeps") for row in decoded.rows[outside].tolist()
        ]
        return Decoded(
            columns=decoded.columns.take(~outside),
            rows=decoded.rows[~outside],
            received=decoded.received,
            errors=tuple(sorted((*decoded.errors, *errors), key=lambda e: e.row)),
            errors_total=decoded.errors_total + len(errors),
        )


class EventTime:
    """When the instances happened. Raises InvalidInput when made of what is no path."""

    def __init__(self, text: str, instances: Path, calendar: Calendar) -> None:
        self._place = Place(text, instances)
        self._calendar = calendar

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self._place.path

    def of(self, message: Message, rows: Sequence[Any]) -> list[int]:
        """Microseconds UTC for each instance. Raises Wrong."""
        found = self.of_values(self._place.of(message, rows))
        return found if self._place.within is not None else found * len(rows)

    def of_values(self, values: Sequence[Any]) -> list[int]:
        """Microseconds UTC, from what lies at the path. Raises Wrong."""
        found = [_instant(value, self.path) for value in values]
        first, last = self._calendar.range_us()
        if found and not (first <= min(found) and max(found) < last):
            raise Wrong(self.path, "range")
        return found


def _instant(value: Any, path: Path) -> int:
    if value is ABSENT or value is None:
        raise Wrong(path, "missing")
    if isinstance(value, bytes):
        raise Wrong(path, "type")
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        if isinstance(value, Decimal) and not value.is_finite():
            raise Wrong(path, "range")
        if not _MS_MIN <= value <= _MS_MAX:  # false for a NaN
            raise Wrong(path, "range")
        return value * 1000 if isinstance(value, int) else round(value * 1000)
    if isinstance(value, str) and _RFC3339.match(value):
        try:
            value = dt.datetime.fromisoformat(value.upper())
        except ValueError:
            raise Wrong(path, "range") from None
    if not isinstance(value, dt.datetime) or value.tzinfo is None:
        raise Wrong(path, "type")
    try:
        return microseconds(value)
    except OverflowError:
        raise Wrong(path, "range") from None
