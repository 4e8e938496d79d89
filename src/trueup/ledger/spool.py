"""The mode ``spooled``: a ledger that answers after a local fsync and books later, exactly once.

Booking a batch into the spool, step by step (``docs/explanation/spooled.md`` has the same numbers):

1. *ids* are derived as in the ledger, and events out of bounds refused, so that the ledger will take the rows.
2. *ask* the ledger, where it answers in time, for first answers to keys that may be repeats.
3. *index*: what this process answered before and has not drained; of one identity the first answer counts.
4. *write* what is new to the spool's file, behind what others wrote.
5. *fsync*; one serves all that was written until then. A stop before this leaves nobody answered.
6. *answer*.

The drainer (``draining.py``) goes on with

7. *book* in the ledger what was written, oldest first; the identity makes it once, however often it is tried.
8. *compare* with the answers that were given; a difference is a row of refusals, a dead letter and a count.
9. *position*: the record is done, and its file goes when all of its records are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import (
    REQUEST_SOURCE,
    UNKEYED_SOURCE,
    Booked,
    Booking,
    Receipt,
    Refusals,
    Role,
    Source,
)
from trueup.errors import InvalidQuery, LedgerUnavailable, Unavailable
from trueup.ledger.identity import prediction_ids
from trueup.ledger.postgres import First, conflicts, with_first, withhold
from trueup.ledger.rows import part_of
from trueup.ledger.spool_files import SpoolFolder, Written
from trueup.ledger.spool_frames import Frame, Kind
from trueup.ledger.spool_index import Held, Identities, firsts_of
from trueup.ledger.spool_lookup import Lookup
from trueup.ledger.spool_records import Claims, booking_bytes, booking_of, claims_bytes, claims_of, refusals_bytes
from trueup.ports import Ledger, PredictionFilter
from trueup.settings import Limits

Moments = NDArray[np.datetime64]


@dataclass(slots=True)
class SpoolCounts:
    """What happened since the start; the drainer and the ledger count here."""

    spooled_rows: int = 0
    drained_rows: int = 0
    refused: int = 0  # batches refused because the spool was full or could not be written
    unasked_rows: int = 0  # keyed rows answered while the ledger could not be asked for a first answer
    conflicts: int = 0  # rows whose caller was answered otherwise than the ledger holds
    set_aside: int = 0  # records the ledger will never take, or whose bytes were damaged
    ledger_away: bool = False  # as the drainer last saw it


class SpooledLedger:
    """A ledger's port in front of a spool. Reads go to the ledger, which has not got what is undrained."""

    def __init__(self, ledger: Ledger, lookup: Lookup, root: Path, limits: Limits) -> None:
        self.ledger = ledger
        self.root = root
        self.limits = limits
        self.counts = SpoolCounts()
        self.arrived = threading.Event()
        self.identities = Identities(limits.spool_remembered)
        self.lock = threading.Lock()  # of identities and claims
        self._lookup = lookup
        self._claims: dict[tuple[int, str, str], np.datetime64] = {}
        self.folder = SpoolFolder.open(root, limits)
        self.adopted: list[SpoolFolder] = []
        self.recover(self.folder)

    def recover(self, folder: SpoolFolder) -> None:
        """Knows again what an earlier process answered and did not drain."""

        def remember(frame: Frame) -> None:
            if frame.kind is Kind.BOOKING:
                with suppress(KeyError, ValueError), self.lock:  # what cannot be read is set aside by the drainer
                    booking = booking_of(frame.payload, folder.contracts)
                    self.identities.add(booking, champion_ids(booking), None)
            elif frame.kind is Kind.CLAIMS:
                self._remember_claims(claims_of(frame.payload))

        folder.recover(remember)

    def book(self, booking: Booking) -> Receipt:
        """Answers once the rows are on the local disk (see the numbered steps above).

        Raises Overloaded when the spool is full, LedgerUnavailable when it cannot be written: then nothing is answered.
        """
        began = time.perf_counter_ns()
        check_days(booking.event_time, self.limits)  # 1
        ids = champion_ids(booking)
        marks = _Marks(np.full(len(booking), Booked.NEW, np.int8))
        repeatable = booking.source.name != UNKEYED_SOURCE
        asked = self._ask(booking, ids) if repeatable else {}  # 2
        with self.lock, self._counted():
            if repeatable:  # 3
                self._mark(booking, ids, asked, marks)
            fresh = np.flatnonzero(marks.booked == Booked.NEW)
            written = self._write(booking, ids, fresh) if len(fresh) else None  # 4
        self._sync(written, ids[fresh], marks.waits_for)  # 5
        answers = booking.scored[0].answers
        if marks.found:
            answers = with_first(answers, marks.found)
        self._refuse_conflicts(booking, marks.booked)
        took = (time.perf_counter_ns() - began) // 1000
        return Receipt(None, ids, marks.booked, answers, book_us=took)  # 6

    def begin(self, booking: Booking) -> None:
        """An fsync waits, so an event loop leaves it to a thread."""
        return

    def claim_event_times(self, deployment_id: int, source: Source, moments: Moments) -> Moments:
        """The first moments known; while the ledger is away they are only proposed, and settled by the drainer."""
        names = list(source.keys) if source.name == REQUEST_SOURCE else [""] * len(source.keys)
        with self.lock:
            known = [self._claims.get((deployment_id, source.name, name)) for name in names]
        if None not in known:
            return np.array(known, "datetime64[us]")
        try:
            return self.ledger.claim_event_times(deployment_id, source, moments)
        except LedgerUnavailable:
            claims = Claims(deployment_id, source, moments.astype("datetime64[us]"))
        with self._counted():
            self.folder.sync(self.folder.append(Kind.CLAIMS, 0, claims_bytes(claims)))
        self.arrived.set()
        return self._remember_claims(claims)

    def refuse(self, refusals: Refusals) -> int:
        """Refusals are spooled as answers are."""
        if not refusals.rows:
            return 0
        with self._counted():
            self.folder.sync(self.folder.append(Kind.REFUSALS, len(refusals.rows), refusals_bytes(refusals)))
        self.arrived.set()
        return len(refusals.rows)

    def prediction(self, prediction_id: UUID) -> dict[str, Any]:
        """As the ledger has it: not before it is drained."""
        return self.ledger.prediction(prediction_id)

    def predictions(self, where: PredictionFilter) -> list[dict[str, Any]]:
        """As the ledger has them."""
        return self.ledger.predictions(where)

    def drained(self, booking: Booking, firsts: Sequence[First | None]) -> None:
        """The booking is in the ledger, whose first answers count from now on."""
        with self.lock:
            self.identities.drained(champion_ids(booking), firsts)
        self.counts.drained_rows += len(booking)

    def settled(self, claims: Claims) -> None:
        """The ledger has decided about the claims; it is asked from now on."""
        with self.lock:
            for key in claims.source.keys:
                name = key if claims.source.name == REQUEST_SOURCE else ""
                self._claims.pop((claims.deployment_id, claims.source.name, name), None)

    def stats(self) -> dict[str, Any]:
        """Depth, age and counts as plain values; cheap enough to be asked often."""
        folders = [self.folder, *self.adopted]
        oldest = [at for folder in folders if (at := folder.oldest_us()) is not None]
        counts = self.counts
        return {
            "depth_rows": sum(f.rows for f in folders),
            "depth_bytes": sum(f.bytes for f in folders),
            "oldest_age_s": max(0.0, time.time() - min(oldest) / 1e6) if oldest else 0.0,
            "dead_letters": sum(f.dead for f in folders),
            "write_failures": sum(f.failures for f in folders),
            "has_room": self.folder.has_room,
            "remembered": len(self.identities),
            "spooled_rows": counts.spooled_rows,
            "drained_rows": counts.drained_rows,
            "refused": counts.refused,
            "unasked_rows": counts.unasked_rows,
            "conflicts": counts.conflicts,
            "set_aside": counts.set_aside,
            "ledger_away": counts.ledger_away,
        }

    def close(self) -> None:
        """Lets go of the folders; what is undrained stays and is drained by the next process."""
        for folder in (self.folder, *self.adopted):
            folder.close()

    def _ask(self, booking: Booking, ids: NDArray[np.uint8]) -> dict[bytes, Held]:
        """Step 2: what the ledger holds of those that are not known here."""
        with self.lock:
            unknown = np.array([self.identities.get(row.tobytes()) is None for row in ids], bool)
        places = np.flatnonzero(unknown)
        if not len(places):
            return {}
        found = self._lookup.first(part_of(booking, places), ids[places])
        if found is None:
            self.counts.unasked_rows += len(places)
        return found or {}

    def _mark(self, booking: Booking, ids: NDArray[np.uint8], asked: dict[bytes, Held], marks: _Marks) -> None:
        """Step 3. What this process said before counts before what the ledger says."""
        first_of: dict[bytes, int] = {}
        own: Sequence[First] | None = None
        for row in range(len(booking)):
            identity = ids[row].tobytes()
            held = self.identities.get(identity) or asked.get(identity)
            before = first_of.setdefault(identity, row)
            if held is None and before != row:
                own = own or firsts_of(booking.scored[0].answers)
                held = Held(booking.digests[before], booking.contract_id, own[before])
                marks.later.append((row, before))
            if held is None:
                continue
            same = held.same(booking, row)
            marks.booked[row] = Booked.REPEATED if same else Booked.CONFLICT
            marks.found[row] = held.first if same else _NOTHING
            if held.written is not None:
                marks.waits_for.append(held.written)
        withhold(booking, marks.booked)
        for row, before in marks.later:
            if marks.booked[before] == Booked.WITHHELD:
                marks.booked[row] = Booked.WITHHELD

    def _write(self, booking: Booking, ids: NDArray[np.uint8], fresh: NDArray[np.intp]) -> Written:
        """Step 4."""
        if len(fresh) < len(booking):
            scored = [replace(s, answers=s.answers.take(fresh)) for s in booking.scored]
            booking, ids = replace(part_of(booking, fresh), scored=scored), ids[fresh]
        source = booking.source.name
        if (booking.deployment_id, source, "") in self._claims:
            booking = replace(booking, claims=True)
        repeatable = source != UNKEYED_SOURCE
        written = self.folder.append(
            Kind.BOOKING if repeatable else Kind.UNREPEATABLE,
            len(booking),
            booking_bytes(booking),
            (booking.contract_id, booking.columns.contract),
        )
        if repeatable:
            self.identities.add(booking, ids, written)
        return written

    def _sync(self, written: Written | None, ids: NDArray[np.uint8], others: Sequence[Written]) -> None:
        """Step 5: what was written now, and what repeats were answered from and may still be on its way."""
        with self._counted():
            try:
                if written is not None:
                    self.folder.sync(written)
            except LedgerUnavailable:
                with self.lock:
                    self.identities.forget(ids, written)  # type: ignore[arg-type]
                raise
            for other in others:
                self.folder.sync(other)
        self.counts.spooled_rows += len(ids)
        self.arrived.set()

    def _refuse_conflicts(self, booking: Booking, booked: NDArray[np.int8]) -> None:
        rows = conflicts(booking, booked)
        if rows:
            when, received = first_moment(booking.event_time), first_moment(booking.received_at)
            self.refuse(Refusals(booking.deployment_id, booking.source, when, received, rows))

    def _remember_claims(self, claims: Claims) -> Moments:
        found = []
        with self.lock:
            for key, moment in zip(claims.source.keys, claims.moments, strict=True):
                name = key if claims.source.name == REQUEST_SOURCE else ""
                found.append(self._claims.setdefault((claims.deployment_id, claims.source.name, name), moment))
            while len(self._claims) > self.limits.spool_rows:
                del self._claims[next(iter(self._claims))]
        return np.array(found, "datetime64[us]")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts what the spool refuses."""
        try:
            yield
        except Unavailable:
            self.counts.refused += 1
            raise


@dataclass(slots=True)
class _Marks:
    """What becomes of each row of a batch."""

    booked: NDArray[np.int8]
    found: dict[int, First] = field(default_factory=dict)  # first answers of what was there
    waits_for: list[Written] = field(default_factory=list)  # records that repeats are answered from
    later: list[tuple[int, int]] = field(default_factory=list)  # rows with the identity of an earlier row


_NOTHING = First("scored", None, None, None, None, None)


def check_days(event_time: Moments, limits: Limits) -> None:
    """Raises InvalidQuery where the ledger would not take the event."""
    days = (event_time.astype("datetime64[D]") - np.datetime64("now", "D")).astype(int)
    if (days < -limits.event_past_days).any() or (days > limits.event_future_days).any():
        raise InvalidQuery("an event lies too far in the past or in the future")


def champion_ids(booking: Booking) -> NDArray[np.uint8]:
    """Each row's identity."""
    return prediction_ids(booking.deployment_id, Role.CHAMPION, booking.source.name, booking.source.keys)


def first_moment(moments: Moments) -> datetime:
    """The earliest of them, in UTC."""
    found: datetime = moments.min().astype("datetime64[us]").item()
    return found.replace(tzinfo=UTC)
