"""What a commit says of the records that it read: portions, refusals, dead letters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Channel, Decoded, Refusal, Refusals, Source
from trueup.domain.contract import FieldError
from trueup.domain.stream import Letter, Place, Portion, Unanswered
from trueup.doors.kafka.reading import BadRecord, Reading
from trueup.doors.kafka.records import Record
from trueup.scoring.service import RowRefusal


def only(decoded: Decoded, good: NDArray[np.bool_], field: str, code: str, expected: str) -> Decoded:
    """The good ones of the instances that were decoded; of each other it is said what is expected."""
    if good.all():
        return decoded
    errors = [FieldError(row, field, code, expected) for row in decoded.rows[~good].tolist()]
    return Decoded(
        decoded.columns.take(good),
        decoded.rows[good],
        decoded.received,
        (*decoded.errors, *errors),
        decoded.errors_total + len(errors),
    )


def portions_of(
    records: Sequence[Record],
    expected: Mapping[int, int | None],
    of_instances: NDArray[np.int64],
    bad: Sequence[BadRecord],
) -> list[Portion]:
    """What is read of each partition; ``of_instances`` (n,) are the partitions of the instances."""
    own: dict[int, list[Record]] = {}
    for record in records:
        own.setdefault(record.partition, []).append(record)
    unread = [records[one.record].partition for one in bad]
    return [
        Portion(
            partition=partition,
            expected=expected.get(partition),
            first_offset=held[0].offset,
            next_offset=held[-1].offset + 1,
            records=len(held),
            tombstones=sum(1 for record in held if record.value is None),
            instances=int((of_instances == partition).sum()) + unread.count(partition),
        )
        for partition, held in own.items()
    ]


def refusals_of(
    place: Place,
    by_place: str,
    records: Sequence[Record],
    bad: Sequence[BadRecord],
    refused: Sequence[RowRefusal],
    source: Source,
    now: datetime,
) -> list[Refusals]:
    """Records that cannot be read, under the name ``by_place`` and their place, and instances under their own key."""
    found = []
    if bad:
        rows = []
        for one in bad:
            record = records[one.record]
            digest = None if record.value is None else hashlib.blake2b(record.value, digest_size=16).digest()
            rows.append(Refusal(f"{record.partition}/{record.offset}", one.reason, one.detail, digest))
        found.append(Refusals(place.deployment_id, Source(Channel.KAFKA, by_place, []), now, now, rows))
    if refused:
        rows = [Refusal(source.keys[r.row], r.reason, r.detail) for r in refused]
        found.append(Refusals(place.deployment_id, replace(source, keys=[]), now, now, rows))
    return found


@dataclass(frozen=True, slots=True)
class LettersOf:
    """Makes a dead letter of every record that has an instance without an answer."""

    records: Sequence[Record]
    reading: Reading
    refused: Sequence[RowRefusal]
    rows: NDArray[np.intp]  # of the booking, among those received

    def __call__(self, unanswered: Sequence[Unanswered]) -> list[Letter]:
        """In the order of the records, those of which the ledger could not book an instance among them."""
        found: dict[int, Letter] = {}
        for one in self.reading.bad:
            found[one.record] = self._letter(one.record, None, str(one.reason), one.detail)
        refused = [(r.row, r.reason, r.detail) for r in self.refused]
        refused += [(int(self.rows[row]), reason, detail) for row, reason, detail in unanswered]
        for row, reason, detail in sorted(refused):
            record, place = int(self.reading.record_of[row]), int(self.reading.place_of[row])
            before = found.get(record)
            if before is None:
                found[record] = self._letter(record, (place,), str(reason), detail)
            elif before.places is not None and place not in before.places:
                found[record] = replace(before, places=(*before.places, place))
        return [found[record] for record in sorted(found)]

    def _letter(self, place: int, places: tuple[int, ...] | None, reason: str, detail: str) -> Letter:
        record = self.records[place]
        return Letter(
            record.partition,
            record.offset,
            places,
            reason,
            detail,
            record.key,
            record.value,
            record.headers,
            record.timestamp_us,
        )
