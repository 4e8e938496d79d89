"""Dead letters scored again, under the identity that they had.

A letter holds its record as it was received, so a replay needs no broker and moves no position. It takes the stream's
own path: what is answered now is booked, its reply is owed and the letter is marked, in one commit. An instance that
was answered meanwhile, by whomever, is found in the ledger and stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trueup.bootstrap import Services, utc_now
from trueup.domain.batch import Booked, RefusalReason
from trueup.domain.stream import Letter, Place, Read, Replay, Unanswered
from trueup.doors.kafka.files import CLUSTER as FILES
from trueup.doors.kafka.handlers import Handlers
from trueup.doors.kafka.opening import declared, formats_of
from trueup.doors.kafka.records import Record
from trueup.errors import InvalidInput

AT_ONCE = 100  # letters of one commit, each of which may be as large as a record


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a letter: the first reason and detail for which it stays, None where it is answered."""

    letter_id: int
    reason: str | None = None
    detail: str | None = None


class Replaying:
    """Scores the letters of one deployment again. Raises NotFound, InvalidInput, Unavailable, ModelRefused."""

    def __init__(self, services: Services, name: str, by: str) -> None:
        number, self._stream = declared(services, name)
        services.scoring.resolve(name, fresh=True)
        self._services, self._name, self._number, self._by = services, name, number, by
        self._handlers: dict[Place, Handlers] = {}

    def replay(self, letters: Sequence[int]) -> Iterator[Replayed]:
        """One after another, as each commit ends; after a fault those told are done, and all may be replayed again."""
        for start in range(0, len(letters), AT_ONCE):
            by_place: dict[Place, list[Letter]] = {}
            for number in letters[start : start + AT_ONCE]:
                place, letter = self._services.ledger.letter(number)
                if place.topic != self._stream.topic and place.cluster != FILES:
                    raise InvalidInput(f"dead letter {number} is of another topic than the stream's")
                by_place.setdefault(place, []).append(letter)
            for place, found in by_place.items():
                yield from self._of_place(place, found)

    def _of_place(self, place: Place, letters: Sequence[Letter]) -> Iterator[Replayed]:
        handlers = self._handlers.get(place) or self._handlers.setdefault(place, self._made(place))
        records = [record_of(place.topic, letter) for letter in letters]
        numbers = {(one.partition, one.offset): one.letter_id or 0 for one in letters}
        wanted = {(one.partition, one.offset): one.places for one in letters}
        for batch in handlers.scored(records, {}, wanted):
            again = replace(batch, read=replay_of(batch.read, batch.records, numbers, self._name, self._by))
            receipt = handlers.book(again)
            conflicts = [] if receipt is None else np.flatnonzero(receipt.booked >= Booked.CONFLICT).tolist()
            unanswered = [(place, RefusalReason.CONFLICT, "the identity holds other content") for place in conflicts]
            left = {numbers[x.partition, x.offset]: x for x in batch.read.letters(unanswered)}
            for record in batch.records:
                number = numbers[record.partition, record.offset]
                why = left.get(number)
                yield Replayed(number) if why is None else Replayed(number, why.reason, why.detail)

    def _made(self, place: Place) -> Handlers:
        services = self._services
        settings, metrics = services.settings, services.telemetry.metrics
        return Handlers(
            services.scoring,
            services.ledger,
            metrics,
            utc_now,
            settings.limits,
            settings.stream,
            self._name,
            self._stream,
            place,
            formats_of(settings.stream),
        )


def record_of(topic: str, letter: Letter) -> Record:
    """The record as it was received."""
    return Record(
        topic, letter.partition, letter.offset, letter.appended_us, letter.key, letter.value, list(letter.headers)
    )


def replay_of(
    read: Read, records: Sequence[Record], numbers: Mapping[tuple[int, int], int], name: str, by: str
) -> Read:
    """The read of these records' letters as a replay, which moves no position and makes no letters anew.

    ``numbers`` are the letters by partition and offset.
    """
    mine = [numbers[record.partition, record.offset] for record in records]

    def answered(unanswered: Sequence[Unanswered]) -> list[int]:
        left = {numbers[letter.partition, letter.offset] for letter in read.letters(unanswered)}
        return [number for number in mine if number not in left]

    return replace(read, portions=(), letters=lambda _: (), replay=Replay(name, by, mine, answered))
