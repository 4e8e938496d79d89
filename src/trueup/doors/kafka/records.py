"""A record as the door reads it. Nothing here knows the client that fetched it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Record:
    """One record of a topic's partition.

    ``timestamp_us``: when it was appended or made, microseconds UTC since 1970, -1 where unknown.
    ``value`` None: a tombstone, which says that its key is deleted.
    """

    topic: str
    partition: int
    offset: int
    timestamp_us: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
