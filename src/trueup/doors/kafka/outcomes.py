"""Outcomes from a topic: recorded in the transaction that moves the positions, so a revision is added once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC

import numpy as np

from trueup.domain.batch import Channel, OutcomeBatch, Source
from trueup.domain.contract import Contract
from trueup.domain.stream import Place, Read
from trueup.doors.kafka.reading import Reader, Reading
from trueup.doors.kafka.reads import LettersOf, portions_of, refusals_of
from trueup.doors.kafka.records import Record
from trueup.outcomes.decoding import fitting, outcome_batches
from trueup.ports import Clock, OutcomeStore, StreamLedger
from trueup.scoring.service import contract_refusals
from trueup.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class OutcomeRead:
    """Records read and not recorded yet."""

    records: Sequence[Record]
    outcomes: Sequence[OutcomeBatch]
    read: Read
    positions: Mapping[int, int]
    took_s: float


class OutcomeHandlers:
    """What one deployment does with the records of its topic of outcomes."""

    def __init__(
        self,
        outcomes: OutcomeStore,
        streams: StreamLedger,
        metrics: Metrics,
        clock: Clock,
        contract: Contract,
        reader: Reader,
        place: Place,
    ) -> None:
        self._outcomes = outcomes
        self._streams = streams
        self._metrics = metrics
        self._clock = clock
        self._contract = contract
        self._reader = reader
        self._place = place
        self._source = f"kafka:{place.cluster}/{place.topic}"

    def scored(self, records: Sequence[Record], expected: Mapping[int, int | None]) -> Iterator[OutcomeRead]:
        """The records as one batch of outcomes. Raises Unavailable where a schema cannot be had now."""
        began = time.perf_counter()
        reading = self._reader.read(records)
        reading = replace(reading, decoded=fitting(reading.decoded, self._contract))
        read = self._read(records, expected, reading)
        positions = {portion.partition: portion.next_offset for portion in read.portions}
        yield OutcomeRead(records, self._batches(records, reading), read, positions, time.perf_counter() - began)

    def book(self, batch: OutcomeRead) -> None:
        """Raises Fenced, LedgerUnavailable: then nothing is recorded, or nobody knows."""
        with self._streams.moving(batch.read) as transaction:
            self._outcomes.record_all(batch.outcomes, transaction)
        number = batch.read.place.deployment_id
        self._metrics.refused(number, (row.reason for refusals in batch.read.refused for row in refusals.rows))
        appended = np.fromiter((record.timestamp_us for record in batch.records), np.int64, len(batch.records))
        ages = time.time_ns() // 1000 - appended[appended >= 0]
        self._metrics.stream_booked(number, ages, received=0, letters=len(batch.read.letters(())))

    def _batches(self, records: Sequence[Record], reading: Reading) -> list[OutcomeBatch]:
        """An outcome that does not say when it was observed was so when its record was appended."""
        now = self._clock().astimezone(UTC).replace(tzinfo=None)
        appended = np.fromiter((record.timestamp_us for record in records), np.int64, len(records))
        appended = appended[reading.record_of[reading.decoded.rows]]
        moments = np.where(appended >= 0, appended.view("datetime64[us]"), np.datetime64(now, "us"))
        return outcome_batches(self._contract, reading.decoded.columns, source=self._source, now=moments)

    def _read(self, records: Sequence[Record], expected: Mapping[int, int | None], reading: Reading) -> Read:
        partitions = np.fromiter((record.partition for record in records), np.int64, len(records))
        of_instances = partitions[reading.record_of]
        recorded = of_instances[reading.decoded.rows]
        refused = contract_refusals(reading.decoded)
        keys = [
            f"{records[record].partition}/{records[record].offset}/{place}"
            for record, place in zip(reading.record_of.tolist(), reading.place_of.tolist(), strict=True)
        ]
        now = self._clock()
        source = Source(Channel.KAFKA, self._source, keys)
        portions = portions_of(records, expected, of_instances, reading.bad)
        return Read(
            place=self._place,
            portions=[replace(p, recorded=int((recorded == p.partition).sum())) for p in portions],
            received_at=now,
            partitions=recorded,
            refused=refusals_of(self._place, self._source, records, reading.bad, refused, source, now),
            letters=LettersOf(records, reading, refused, reading.decoded.rows),
        )
