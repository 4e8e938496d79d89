"""Records to instances: every record is read, or named with the reason why it cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.contracts.decoding import Decoder, beyond_exact
from trueup.contracts.each import ABSENT
from trueup.domain.batch import Columns, Decoded, RefusalReason
from trueup.domain.contract import Contract, FieldError, FieldType
from trueup.domain.stream import Stream
from trueup.doors.kafka.formats.installed import Formats
from trueup.doors.kafka.formats.message import Message, Undecodable, message_of
from trueup.doors.kafka.formats.plain import Json
from trueup.doors.kafka.identity import Calendar, EventTime, Identity, Wrong
from trueup.doors.kafka.mapping import FieldMap
from trueup.doors.kafka.paths import VALUE, Path, parsed
from trueup.doors.kafka.records import Record
from trueup.doors.kafka.typed import ID, TIME, Typed, typed
from trueup.errors import InvalidInput
from trueup.settings import Limits, Streaming

_PIECE = 512  # records whose values stay in the processor's cache between two steps
_PIECE_BYTES = 2**20
_SMALL_PIECE = 64  # records that are read one by one when something is wrong with one of them


def _now_us() -> int:
    return time.time_ns() // 1000


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

    def only(self, wanted: Sequence[Sequence[int] | None]) -> Reading:
        """Without the instances of a record that are not among its wanted places; None: all of them."""
        kept = np.array(
            [
                (of := wanted[record]) is None or place in of
                for record, place in zip(self.record_of.tolist(), self.place_of.tolist(), strict=True)
            ],
            bool,
        )
        if kept.all():
            return self
        old, at = self.decoded, np.cumsum(kept) - 1
        good = kept[old.rows]
        errors = tuple(replace(e, row=int(at[e.row])) for e in old.errors if kept[e.row])
        return replace(
            self,
            decoded=Decoded(old.columns.take(good), at[old.rows[good]], int(kept.sum()), errors, len(errors)),
            record_of=self.record_of[kept],
            place_of=self.place_of[kept],
            event_us=None if self.event_us is None else self.event_us[kept],
            ids=None if self.ids is None else [one for one, keep in zip(self.ids, kept, strict=True) if keep],
        )


class Reader:
    """Reads the records of one stream under one contract. Safe to use from several threads.

    Raises InvalidInput where the stream and the contract do not fit together, and MissingExtra.
    ``now_us`` tells the time, against which event times are bounded.
    """

    def __init__(
        self,
        stream: Stream,
        decoder: Decoder,
        limits: Limits,
        bounds: Streaming,
        formats: Formats | None = None,
        now_us: Callable[[], int] = _now_us,
    ) -> None:
        contract = decoder.contract
        self._decoder, self._bounds = decoder, bounds
        self._instances = parsed(stream.instances)
        self._fields = FieldMap(stream, contract, self._instances) if stream.fields else None
        self._identity = None if stream.identity is None else Identity(stream, self._instances, limits)
        self._calendar = Calendar(limits, now_us)
        self._event_time = None
        if stream.event_time is not None:
            self._event_time = EventTime(stream.event_time, self._instances, self._calendar)
        if self._event_time is not None and contract.event_time:
            raise InvalidInput(
                f"the contract takes the event time from the field {contract.event_time}",
                next_step="leave event_time out of the stream",
            )
        exact = any(f.type is FieldType.DECIMAL for f in contract.fields)
        self._beside: dict[str, Path] = {}
        self._format = (formats or Formats()).of(stream, exact=exact)
        self._typed = self._typed_reading(contract) if isinstance(self._format, Json) else None
        self._whole = self._typed is not None and self._instances == VALUE and not self._fields

    def read(self, records: Sequence[Record]) -> Reading:
        """Never fails for what a record holds. Raises Unavailable when its schema cannot be fetched now."""
        reading = _joined([part for piece in _pieces(records, _PIECE) for part in self._read_piece(piece)])
        return replace(reading, decoded=self._calendar.within(reading.decoded))

    def _read_piece(self, records: Sequence[Record]) -> list[tuple[int, Reading]]:
        """At once where nothing is wrong with any, else in smaller pieces, each with the number of its records."""
        at_once = None if self._typed is None else self._read_at_once(records)
        if at_once is not None:
            return [(len(records), at_once)]
        if self._typed is None or len(records) <= _SMALL_PIECE:
            return [(len(records), self._read_each(records))]
        return [part for piece in _pieces(records, _SMALL_PIECE) for part in self._read_piece(piece)]

    def _typed_reading(self, contract: Contract) -> Typed | None:
        """How values of one instance each are read in one pass, where that is possible."""
        if self._fields is None:
            root, words = self._instances.root, self._instances.words
            paths = {f.name: Path(root, (*words, f.name)) for f in contract.fields}
        else:
            paths = {name: place.path for name, place in self._fields.places.items()}
        kept = (FieldType.STRING, FieldType.CATEGORY, FieldType.INT64)  # other types are no text any more once read
        if self._identity and any(
            path == self._identity.path and contract.by_name[name].type not in kept for name, path in paths.items()
        ):
            return None
        for name, declared in ((ID, self._identity), (TIME, self._event_time)):
            path = None if declared is None else declared.path
            if path is not None and path.root == "value":
                self._beside[name] = path
        return typed(contract, paths | self._beside, self._instances if self._fields is None else None)

    def _read_at_once(self, records: Sequence[Record]) -> Reading | None:
        """Where every value is one instance and nothing is wrong: None where anything is."""
        held = [r for r in records if r.value is not None]
        most = self._bounds.record_bytes
        if any(_size(r) > most for r in held):
            return None
        try:
            return self._at_once(records, held)
        except Wrong:
            return None

    def _at_once(self, records: Sequence[Record], held: Sequence[Record]) -> Reading | None:
        values = [r.value for r in held if r.value is not None]
        columns: Mapping[str, Sequence[Any]] | None = {}
        if self._whole and not self._beside:
            decoded = self._decoder.json_each(values)
        else:
            assert self._typed is not None
            columns = self._typed.columns(values)
            decoded = None if columns is None else self._decoder.each_of(columns, len(values))
        if decoded is None or columns is None or beyond_exact(decoded.columns.floats):
            return None
        record_of = np.arange(len(records))
        if len(held) != len(records):
            record_of = np.array([i for i, r in enumerate(records) if r.value is not None], np.intp)
        return Reading(
            decoded=decoded,
            record_of=record_of,
            place_of=np.zeros(len(values), np.intp),
            event_us=self._times_of(held, columns),
            ids=self._ids_of(held, columns),
            bad=[],
            tombstones=len(records) - len(held),
        )

    def _ids_of(self, held: Sequence[Record], columns: Mapping[str, Sequence[Any]]) -> list[str] | None:
        if self._identity is None or self._identity.path is None:
            return None
        return self._identity.of_values(columns[ID] if ID in columns else _beside(self._identity.path, held))

    def _times_of(self, held: Sequence[Record], columns: Mapping[str, Sequence[Any]]) -> NDArray[np.int64] | None:
        if self._event_time is None:
            return None
        values = columns[TIME] if TIME in columns else _beside(self._event_time.path, held)
        return np.array(self._event_time.of_values(values), np.int64)

    def _read_each(self, records: Sequence[Record]) -> Reading:
        """Record by record, and then all instances at once."""
        found = _Found()
        tombstones = 0
        for i, record in enumerate(records):
            if record.value is None:
                tombstones += 1
                continue
            try:
                self._add(i, record, found)
            except Undecodable as error:
                found.bad.append(BadRecord(i, RefusalReason.UNDECODABLE, error.detail))
            except Wrong as error:
                found.bad.append(BadRecord(i, RefusalReason.CONTRACT, error.detail))
            except _TooLarge as error:
                found.bad.append(BadRecord(i, RefusalReason.TOO_LARGE, error.detail))
        return Reading(
            decoded=self._decoder.each(found.rows),
            record_of=np.array(found.record_of, np.intp),
            place_of=np.array(found.place_of, np.intp),
            event_us=None if self._event_time is None else np.array(found.event_us, np.int64),
            ids=None if self._identity is None else found.ids,
            bad=found.bad,
            tombstones=tombstones,
        )

    def _add(self, i: int, record: Record, found: _Found) -> None:
        """Adds all instances of the record, or none. Raises Undecodable, Wrong, _TooLarge."""
        if _size(record) > self._bounds.record_bytes:
            raise _TooLarge("bytes")
        assert record.value is not None
        row = None if self._typed is None else self._typed.row(record.value)
        if row is not None:
            self._add_typed(i, record, row, found)
            return
        listed = [(message, self._rows(message)) for message in self._format.read(record)]
        n = len(listed[0][1]) if len(listed) == 1 else sum(len(rows) for _, rows in listed)
        if n > self._bounds.record_instances:
            raise _TooLarge("instances")
        ids = [] if self._identity is None else [one for m, rows in listed for one in self._identity.of(m, rows)]
        event_us = [] if self._event_time is None else [us for m, rows in listed for us in self._event_time.of(m, rows)]
        fields = self._fields
        for message, rows in listed:
            found.rows += rows if fields is None else [fields.row(row, message) for row in rows]
        found.add(i, n, ids, event_us)

    def _add_typed(self, i: int, record: Record, row: dict[str, Any], found: _Found) -> None:
        columns = {name: [row.pop(name)] for name in self._beside}
        ids, times = self._ids_of([record], columns), self._times_of([record], columns)
        found.rows.append(row)
        found.add(i, 1, ids or [], [] if times is None else times.tolist())

    def _rows(self, message: Message) -> Sequence[Any]:
        rows = self._instances.of(message)
        if rows is ABSENT:
            raise Wrong(self._instances, "missing")
        return rows if isinstance(rows, (list, tuple)) else [rows]


@dataclass(slots=True)
class _Found:
    """What the records so far hold."""

    rows: list[Any] = field(default_factory=list)
    record_of: list[int] = field(default_factory=list)
    place_of: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    event_us: list[int] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)

    def add(self, record: int, n: int, ids: list[str], event_us: list[int]) -> None:
        """What lies beside the rows of one record."""
        self.record_of += [record] * n
        self.place_of += range(n)
        self.ids += ids
        self.event_us += event_us


def _pieces(records: Sequence[Record], most: int) -> list[Sequence[Record]]:
    """The records in pieces, bounded by their bytes too, because what a piece holds is in memory at once."""
    found, start, size = [], 0, 0
    for i, record in enumerate(records):
        size += len(record.value or b"")
        if i - start >= most or (size > _PIECE_BYTES and i > start):
            found.append(records[start:i])
            start, size = i, len(record.value or b"")
    return [*found, records[start:]]


def _joined(pieces: Sequence[tuple[int, Reading]]) -> Reading:
    """The readings of the pieces of one batch, each with the number of its records, as one."""
    readings = [reading for _, reading in pieces]
    if len(readings) == 1:
        return readings[0]
    records = np.cumsum([0] + [n for n, _ in pieces]).tolist()
    rows = np.cumsum([0] + [reading.decoded.received for reading in readings]).tolist()
    decoded = Decoded(
        columns=Columns.joined([r.decoded.columns for r in readings]),
        rows=np.concatenate([r.decoded.rows + row for r, row in zip(readings, rows, strict=False)]),
        received=rows[-1],
        errors=tuple(
            FieldError(e.row + row, e.field, e.code, e.expected)
            for r, row in zip(readings, rows, strict=False)
            for e in r.decoded.errors
        ),
        errors_total=sum(r.decoded.errors_total for r in readings),
    )
    times = [r.event_us for r in readings if r.event_us is not None]
    ids = [r.ids for r in readings if r.ids is not None]
    return Reading(
        decoded=decoded,
        record_of=np.concatenate([r.record_of + start for r, start in zip(readings, records, strict=False)]),
        place_of=np.concatenate([r.place_of for r in readings]),
        event_us=np.concatenate(times) if times else None,
        ids=list(chain.from_iterable(ids)) if ids else None,
        bad=[replace(b, record=b.record + start) for r, start in zip(readings, records, strict=False) for b in r.bad],
        tombstones=sum(r.tombstones for r in readings),
    )


class _TooLarge(Exception):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.detail = f"more {what} than a record may have"


def _size(record: Record) -> int:
    size = len(record.value or b"") + len(record.key or b"")
    return size + sum(len(name) + len(value or b"") for name, value in record.headers) if record.headers else size


def _beside(path: Path, records: Sequence[Record]) -> list[Any]:
    """What lies at a path of the key or the headers."""
    return [path.of(message_of(record, ABSENT)) for record in records]
