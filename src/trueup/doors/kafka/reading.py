"""Records to instances: every record is read, or named with the reason why it cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Decoded, RefusalReason
from trueup.domain.stream import Stream
from trueup.doors.kafka.formats.installed import Formats
from trueup.doors.kafka.records import Record
from trueup.settings import Limits, Streaming


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record none of whose instances can be read: its place among those read, and why."""

    record: int
    reason: RefusalReason
    detail: str  # codes, paths and field names only


@dataclass(frozen=True, slots=True)
class Reading:
    """The instances of a batch of records; arrays are for all n of them, in the order of the records.

    ``decoded`` leaves out the instances that break the contract, and its errors name each of them.
    ``record_of`` (n,) is the instance's record, ``place_of`` (n,) its zero-based place in that record.
    ``event_us`` int64 (n,) microseconds UTC, and ``ids``: None where the stream declares none.
    """

    decoded: Decoded
    record_of: NDArray[np.intp]
    place_of: NDArray[np.intp]
    event_us: NDArray[np.int64] | None
    ids: list[str] | None
    bad: list[BadRecord]
    tombstones: int


class Reader:
    """Reads the records of one stream under one contract. Safe to use from several threads.

    Raises InvalidInput where the stream and the contract do not fit together, and MissingExtra.
    """

    def __init__(
        self, stream: Stream, decoder: Decoder, limits: Limits, bounds: Streaming, formats: Formats | None = None
    ) -> None:
        raise NotImplementedError

    def read(self, records: Sequence[Record]) -> Reading:
        """Never fails for what a record holds. Raises Unavailable when its schema cannot be fetched now."""
        raise NotImplementedError
