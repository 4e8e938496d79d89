"""What every format makes of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trueup.doors.kafka.records import Record


class Undecodable(Exception):
    """The record is not in its format. ``detail`` says why in fixed words, and holds nothing of the record."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


@dataclass(slots=True)
class Message:
    """One message of a record: its value as plain Python, the key's bytes, and its headers or attributes."""

    value: Any
    key: bytes | None
    headers: Mapping[str, Any]


class Format(Protocol):
    """Reads records whose value is not None."""

    def read(self, record: Record) -> Sequence[Message]:
        """The record's messages: one, but for formats that carry several. Raises Undecodable, Unavailable."""
        ...


def message_of(record: Record, value: Any) -> Message:
    """The one message of a record; of headers that come twice, the last counts."""
    return Message(value, record.key, dict(record.headers))
