"""Small bookings that follow one another in a spool, made one: the ledger commits once for many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from trueup.domain.batch import Answers, Booking, Columns, Reasons, Scored
from trueup.ledger.spool_frames import Frame

ROWS = 1_024  # of one joined booking


@dataclass(frozen=True, slots=True)
class Record:
    """One booking of a spool; ``finished`` says that it is drained."""

    frame: Frame
    booking: Booking
    finished: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Run:
    """Bookings that one may hold: alike in all but their rows, no key twice, not too long."""

    records: list[Record] = field(default_factory=list)
    _keys: set[str] = field(default_factory=set)
    _form: tuple[object, ...] = ()

    def takes(self, record: Record) -> bool:
        """Whether the record goes with those before; then it is one of them."""
        keys, form = record.booking.source.keys, _form(record.booking)
        alike = form == self._form and self._keys.isdisjoint(keys) and len(self._keys) + len(keys) <= ROWS
        if self.records and not alike:
            return False
        self.records.append(record)
        self._keys.update(keys)
        self._form = form
        return True


def joined(bookings: Sequence[Booking]) -> Booking:
    """The rows of all, in order; all of them go with one another."""
    first = bookings[0]
    if len(bookings) == 1:
        return first
    return replace(
        first,
        source=replace(first.source, keys=[key for b in bookings for key in b.source.keys]),
        columns=Columns.joined([b.columns for b in bookings]),
        digests=[digest for b in bookings for digest in b.digests],
        business_keys=[key for b in bookings for key in b.business_keys],
        event_time=np.concatenate([b.event_time for b in bookings]),
        due_day=np.concatenate([b.due_day for b in bookings]),
        received_at=np.concatenate([b.received_at for b in bookings]),
        steps_us=np.concatenate([b.steps_us for b in bookings]),
        scored=[
            Scored(s.role, s.model_version_id, Answers.joined([b.scored[place].answers for b in bookings]))
            for place, s in enumerate(first.scored)
        ],
    )


def _form(booking: Booking) -> tuple[object, ...]:
    source = booking.source
    return (
        booking.deployment_id,
        booking.contract_id,
        source.channel,
        source.name,
        booking.claims,
        tuple((s.role, s.model_version_id, *_answered(s.answers)) for s in booking.scored),
    )


def _answered(answers: Answers) -> list[tuple[int, ...] | None]:
    """Which of an answer's arrays there are, and how wide."""
    found: list[tuple[int, ...] | None] = []
    for column in fields(answers):
        value = getattr(answers, column.name)
        if isinstance(value, Reasons):
            value = value.fields
        found.append(None if value is None else value.shape[1:])
    return found
