"""Records in a file that only grows: framed so that a torn end and a changed byte are noticed.

A frame is a head and a payload, little-endian:

=====  =================================================
bytes  content
=====  =================================================
4      ``TUSP``
4      kind of the payload, :class:`Kind`
4      rows in it
4      bytes of the payload
8      microseconds since 1970 at which it was written
4      CRC-32 of the payload
4      CRC-32 of the 28 bytes before
=====  =================================================

The head has a checksum of its own: a length that can be trusted tells a record whose end is
missing (it was being written when the process stopped, so nobody was answered for it) from one
whose bytes were changed later, which is never dropped silently.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_MAGIC = b"TUSP"
_HEAD = struct.Struct("<4sIIIQI")
_CHECK = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CHECK.size


class Kind(IntEnum):
    """What a payload holds."""

    CONTRACT = 1
    BOOKING = 2
    UNREPEATABLE = 3  # a booking whose keys nobody else can have: no identity to remember
    REFUSALS = 4
    CLAIMS = 5
    DEAD = 6  # set aside, with the reason


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole record: ``start`` and ``end`` are its places in what was scanned."""

    kind: Kind
    rows: int
    payload: bytes
    at_us: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no record. ``torn``: the end of one that was being written."""

    start: int
    end: int
    torn: bool
    payload: bytes = b""


def framed(kind: Kind, rows: int, payload: bytes, at_us: int | None = None) -> bytes:
    """The record as bytes."""
    moment = time.time_ns() // 1000 if at_us is None else at_us
    head = _HEAD.pack(_MAGIC, kind, rows, len(payload), moment, zlib.crc32(payload))
    return b"".join((head, _CHECK.pack(zlib.crc32(head)), payload))


def written_at(head: bytes) -> int | None:
    """When the record with this head was written, in microseconds since 1970; None where it is no head."""
    found = _head_at(head, 0)
    return None if found is None else found[3]


def scan(data: bytes) -> Iterator[Frame | Damage]:
    """Every record in ``data``, in order, and what is none; together they cover all of it."""
    at = 0
    while at < len(data):
        found = _at(data, at)
        if isinstance(found, Frame):
            yield found
            at = found.end
            continue
        if found is None and _is_torn(data, at):
            yield Damage(at, len(data), torn=True)
            return
        end = _next_start(data, at + 1) if found is None else found
        yield Damage(at, end, torn=False, payload=data[at:end])
        at = end


def _at(data: bytes, at: int) -> Frame | int | None:
    """The record that starts here; where it ends if only its payload was changed; None without a head."""
    head = _head_at(data, at)
    if head is None:
        return None
    kind, rows, length, moment, check = head
    end = at + HEAD_BYTES + length
    if end > len(data):
        return None
    payload = data[at + HEAD_BYTES : end]
    if zlib.crc32(payload) != check or kind not in list(Kind):
        return end
    return Frame(Kind(kind), rows, payload, moment, at, end)


def _head_at(data: bytes, at: int) -> tuple[int, int, int, int, int] | None:
    raw = data[at : at + _HEAD.size]
    check = data[at + _HEAD.size : at + HEAD_BYTES]
    if len(check) < _CHECK.size or raw[:4] != _MAGIC or _CHECK.unpack(check)[0] != zlib.crc32(raw):
        return None
    _, kind, rows, length, moment, payload_check = _HEAD.unpack(raw)
    return kind, rows, length, moment, payload_check


def _is_torn(data: bytes, at: int) -> bool:
    """Whether what follows is the beginning of one record, or the zeros of a file that grew before it was written."""
    return len(data) - at < HEAD_BYTES or _head_at(data, at) is not None or not data[at:].strip(b"\0")


def _next_start(data: bytes, at: int) -> int:
    """Where the next head is; the end where there is none."""
    while (at := data.find(_MAGIC, at)) >= 0:
        if _head_at(data, at) is not None:
            return at
        at += 1
    return len(data)
