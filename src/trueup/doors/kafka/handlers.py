"""One batch of records: translated into instances, scored, booked with its positions, translated back.

Steps 2 and 3 of ``docs/explanation/streams.md``; ``server.py`` says when they are taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import (
    EVENT_SOURCE,
    Booked,
    Booking,
    Channel,
    Decoded,
    Receipt,
    RefusalReason,
    Source,
)
from trueup.domain.contract import Storage
from trueup.domain.stream import Place, Read, Stream, Unanswered
from trueup.doors.kafka.formats.installed import Formats
from trueup.doors.kafka.reading import BadRecord, Reader, Reading
from trueup.doors.kafka.reads import LettersOf, only, portions_of, refusals_of
from trueup.doors.kafka.records import Record
from trueup.errors import InvalidQuery, Unavailable
from trueup.ports import Clock, StreamLedger
from trueup.scoring.service import Instances, Predicted, Resolved, Scoring
from trueup.settings import Limits, Streaming
from trueup.telemetry import log
from trueup.telemetry.metrics import Metrics

Wanted = Mapping[tuple[int, int], Sequence[int] | None]
"""Places of instances by partition and offset; None: all of the record."""

_DAY_US = 86_400_000_000
_MOST_US = 2**31 - 1  # of a step, as the ledger stores it


@dataclass(frozen=True, slots=True)
class Batch:
    """Records scored and not booked yet. ``positions`` are where their partitions stand once they are."""

    records: Sequence[Record]
    resolved: Resolved
    booking: Booking | None
    read: Read
    roles: Sequence[Any]
    positions: Mapping[int, int]
    took_s: float


class Handlers:
    """What one deployment does with the records of its topic. Safe to use from two threads: one scores, one books."""

    def __init__(
        self,
        scoring: Scoring,
        streams: StreamLedger,
        metrics: Metrics,
        clock: Clock,
        limits: Limits,
        bounds: Streaming,
        name: str,
        stream: Stream,
        place: Place,
        formats: Formats | None = None,
    ) -> None:
        self._scoring = scoring
        self._streams = streams
        self._metrics = metrics
        self._clock = clock
        self._limits = limits
        self._bounds = bounds
        self._name = name
        self._stream = stream
        self._place = place
        self._formats = formats or Formats()
        where = f"{place.cluster}/{place.topic}"
        self._by_place, self._by_id = f"kafka:{where}", f"{EVENT_SOURCE}{where}"
        self._reader_of = lru_cache(2)(self._made_reader)  # the deployed contract, and the one before it

    def check(self) -> None:
        """Raises InvalidInput where the stream does not fit its contract, and MissingExtra."""
        self._reader_of(self._scoring.resolve(self._name).decoder)

    def scored(
        self, records: Sequence[Record], expected: Mapping[int, int | None], wanted: Wanted | None = None
    ) -> Iterator[Batch]:
        """The records as one batch; in halves where the model fails on them together, so that none fails for others.

        ``expected``: where each partition stands. ``wanted``: of a record that stands here only these places.
        Raises Unavailable where a schema or a model cannot be had now.
        """
        resolved = self._scoring.resolve(self._name)
        reader = self._reader_of(resolved.decoder)
        try:
            batch = self._worked(resolved, reader, records, expected, wanted)
        except Unavailable:
            raise
        except Exception as error:  # of a model's library, say: whoever is at fault, the others are answered
            log("stream").error("not_scored", kind=type(error).__name__, records=len(records))
            batch = None if len(records) > 1 else self._set_aside(resolved, records, expected)
        if batch is not None:
            yield batch
            return
        half = len(records) // 2
        for batch in self.scored(records[:half], expected, wanted):
            expected = {**expected, **batch.positions}
            yield batch
        yield from self.scored(records[half:], expected, wanted)

    def _worked(
        self,
        resolved: Resolved,
        reader: Reader,
        records: Sequence[Record],
        expected: Mapping[int, int | None],
        wanted: Wanted | None,
    ) -> Batch | None:
        """Read and scored; None where the model fails on several records together."""
        began = time.perf_counter()
        reading = reader.read(records)
        if wanted is not None:
            reading = reading.only([wanted.get((record.partition, record.offset)) for record in records])
        predicted, source = self._predicted(resolved, records, reading, began)
        if len(records) > 1 and any(r.reason is RefusalReason.FAILED for r in predicted.refused):
            return None
        booking = self._scoring.booking(predicted) if predicted.scored else None
        read = self._read(records, expected, reading, predicted, source)
        roles = [scored.role for scored in predicted.scored]
        return Batch(records, resolved, booking, read, roles, _positions(read), time.perf_counter() - began)

    def _set_aside(self, resolved: Resolved, records: Sequence[Record], expected: Mapping[int, int | None]) -> Batch:
        """One record that cannot be worked on, as a refusal and a dead letter."""
        nothing, now = np.empty(0, np.int64), self._clock()
        bad = [BadRecord(0, RefusalReason.FAILED, "the record could not be scored or booked")]
        reading = Reading(resolved.decoder.records([]), nothing, nothing, None, None, bad, 0)
        nobody = Source(Channel.KAFKA, self._by_place, [])
        read = Read(
            place=self._place,
            portions=portions_of(records, expected, nothing, bad),
            received_at=now,
            partitions=nothing,
            refused=refusals_of(self._place, self._by_place, records, bad, [], nobody, now),
            letters=LettersOf(records, reading, [], nothing),
        )
        return Batch(records, resolved, None, read, [], _positions(read), 0.0)

    def book(self, batch: Batch) -> Receipt | None:
        """Raises Fenced, LedgerUnavailable: then nothing is booked, or nobody knows.

        What the ledger will never take is told apart record by record; the replies to the others are owed.
        """
        try:
            return self._booked(batch)
        except InvalidQuery:
            if not batch.read.portions:  # a replay, which moves no position: its letters stay
                raise
            log("stream").error("not_booked", records=len(batch.records))
        expected: dict[int, int | None] = {p.partition: p.expected for p in batch.read.portions}
        if len(batch.records) == 1:
            self._booked(self._set_aside(batch.resolved, batch.records, expected))
            return None
        for record in batch.records:
            for alone in self.scored([record], expected):
                self.book(alone)
                expected.update(alone.positions)
        return None

    def _booked(self, batch: Batch) -> Receipt | None:
        receipt = self._streams.book_read(batch.booking, batch.read)
        now_us = time.time_ns() // 1000
        number = batch.read.place.deployment_id
        if receipt is not None and batch.booking is not None:
            self._metrics.booked(number, batch.booking.steps_us, receipt.book_us, receipt.booked, batch.roles)
        self._metrics.refused(number, (row.reason for refusals in batch.read.refused for row in refusals.rows))
        appended = np.fromiter((record.timestamp_us for record in batch.records), np.int64, len(batch.records))
        ages = now_us - appended[appended >= 0]
        received = sum(portion.instances for portion in batch.read.portions)
        letters = batch.read.letters(_unbooked(receipt))
        self._metrics.stream_booked(number, ages, received=received, letters=len(letters))
        return receipt

    def _made_reader(self, decoder: Decoder) -> Reader:
        return Reader(self._stream, decoder, self._limits, self._bounds, self._formats)

    def _predicted(
        self, resolved: Resolved, records: Sequence[Record], reading: Reading, began: float
    ) -> tuple[Predicted, Source]:
        decoded = reading.decoded
        source = self._source(records, reading)
        when = self._when(resolved, records, reading)
        received = np.full(decoded.received, _naive(self._clock()), "datetime64[us]")
        steps = np.zeros((decoded.received, 4), np.int32)
        steps[:, 0] = min(int((time.perf_counter() - began) * 1e6), _MOST_US)
        if reading.event_us is None and when is not None:
            decoded = self._in_bounds(decoded, when)
        decoded = self._with_short_keys(decoded)
        instances = Instances(decoded, source, received, steps, when)
        return self._scoring.predict(resolved, instances), source

    def _source(self, records: Sequence[Record], reading: Reading) -> Source:
        if reading.ids is not None:
            return Source(Channel.KAFKA, self._by_id, reading.ids)
        if len(reading.record_of) == len(records) and not reading.place_of.any():  # one of each
            return Source(Channel.KAFKA, self._by_place, [f"{r.partition}/{r.offset}" for r in records])
        keys = []
        for record, place in zip(reading.record_of.tolist(), reading.place_of.tolist(), strict=True):
            of = f"{records[record].partition}/{records[record].offset}"
            keys.append(f"{of}/{place}" if place else of)
        return Source(Channel.KAFKA, self._by_place, keys)

    def _when(self, resolved: Resolved, records: Sequence[Record], reading: Reading) -> NDArray[np.datetime64] | None:
        """Event times of all instances: as declared, else the contract's own (None), else when appended."""
        if reading.event_us is not None:
            return reading.event_us.view("datetime64[us]")
        if resolved.contract.event_time:
            return None
        appended = np.fromiter((record.timestamp_us for record in records), np.int64, len(records))
        return appended[reading.record_of].view("datetime64[us]")

    def _in_bounds(self, decoded: Decoded, appended: NDArray[np.datetime64]) -> Decoded:
        """Without the instances that were appended too long ago to be booked, or nobody knows when."""
        own_us = appended[decoded.rows].view(np.int64)
        days = own_us // _DAY_US
        today = int(self._clock().timestamp() // 86_400)
        good = (days >= today - self._limits.event_past_days) & (days <= today + self._limits.event_future_days)
        good &= own_us >= 0
        return only(decoded, good, "", "range", "appended within the days that the ledger keeps")

    def _with_short_keys(self, decoded: Decoded) -> Decoded:
        """Without the instances whose business key is too long for the ledger's indexes."""
        most = self._limits.key_chars
        for name in decoded.columns.contract.business_key:
            if decoded.columns.contract.slots[name][0] is Storage.TEXTS:
                texts = decoded.columns.column(name).tolist()
                if len(max(texts, key=_length, default="") or "") > most:
                    good = np.fromiter((_length(text) <= most for text in texts), bool, len(texts))
                    decoded = only(decoded, good, name, "length", f"a key of at most {most} characters")
        return decoded

    def _read(
        self,
        records: Sequence[Record],
        expected: Mapping[int, int | None],
        reading: Reading,
        predicted: Predicted,
        source: Source,
    ) -> Read:
        partitions = np.fromiter((record.partition for record in records), np.int64, len(records))
        of_instances = partitions[reading.record_of]
        now = self._clock()
        return Read(
            place=self._place,
            portions=portions_of(records, expected, of_instances, reading.bad),
            received_at=now,
            partitions=of_instances[predicted.rows],
            refused=refusals_of(self._place, self._by_place, records, reading.bad, predicted.refused, source, now),
            letters=LettersOf(records, reading, predicted.refused, predicted.rows),
            owes_replies=self._stream.replies is not None,
        )


def _unbooked(receipt: Receipt | None) -> list[Unanswered]:
    places = [] if receipt is None else np.flatnonzero(receipt.booked >= Booked.CONFLICT).tolist()
    return [(place, RefusalReason.CONFLICT, "") for place in places]


def _positions(read: Read) -> dict[int, int]:
    return {portion.partition: portion.next_offset for portion in read.portions}


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _length(text: str | None) -> int:
    return len(text or "")
