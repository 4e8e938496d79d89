"""The ledger in PostgreSQL: booking, refusing, finding.

Booking a batch, step by step (``docs/explanation/booking.md`` has the same numbers):

1. *ids* are derived from the source; of instances with one identity the first counts.
2. *partitions* of event days not seen before are made.
3. *book*: the batch row and one binary COPY of all rows of all versions, in one message.
4. *commit*, where the COPY ends. A stop before this leaves nothing, a stop after it leaves all.
5. *yield*, when an identity was there already (the COPY failed and rolled back): read
   the rows that are there; theirs is the first answer. Other content under the same
   contract is a conflict. What is left goes back to 3.

A repeated instance books nothing again for any role: the rows of its challengers and
shadows were committed together with its champion's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from trueup.contracts.horizon import due_days
from trueup.domain.batch import (
    UNBOOKED,
    Answers,
    Booked,
    Booking,
    Channel,
    Receipt,
    Refusal,
    Refusals,
    Role,
    Source,
    Status,
    claims_each_key,
)
from trueup.errors import InvalidQuery, LedgerUnavailable
from trueup.ledger.copying import Conversation, copying, run
from trueup.ledger.finding import Finder
from trueup.ledger.identity import prediction_ids
from trueup.ledger.rows import COLUMNS, framed, packed, part_of
from trueup.ports import PredictionFilter
from trueup.postgres import Connection, Pool, translated
from trueup.settings import Limits

_BATCH = """
    INSERT INTO ledger.batches
        (batch_id, deployment_id, contract_id, channel, source, instances, predictions, received_at)
    OVERRIDING SYSTEM VALUE VALUES ("""
_COPY = f"COPY ledger.predictions ({', '.join(COLUMNS)}) FROM STDIN (FORMAT binary)"
TAKEN = (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected)
_NUMBERS = "SELECT nextval('ledger.batches_batch_id_seq') FROM generate_series(1, %s)"
_NUMBERS_AHEAD = 1_024  # fetched at once: a batch then needs no answer before its rows are packed
_FIRST = """
    SELECT prediction_id, content_digest, contract_id, status, score, outputs, class, decision, expected_cost
    FROM ledger.predictions WHERE prediction_id = ANY(%s) AND event_day = ANY(%s)
"""
REFUSE = """
    INSERT INTO ledger.refusals
        (deployment_id, channel, source, source_key, reason, detail, content_digest, attempt, event_day, received_at)
    SELECT %(deployment)s, %(channel)s, %(source)s, n.key, n.reason, n.detail, n.digest,
           1 + (SELECT count(*) FROM ledger.refusals o
                WHERE o.deployment_id = %(deployment)s AND o.source = %(source)s AND o.source_key = n.key),
           %(day)s, %(received)s
    FROM unnest(%(keys)s::text[], %(reasons)s::text[], %(details)s::text[], %(digests)s::bytea[])
        AS n(key, reason, detail, digest)
    ON CONFLICT ON CONSTRAINT refusals_once DO NOTHING
"""
_CLAIM = """
    INSERT INTO ledger.request_days (deployment_id, source, source_key, event_time)
    SELECT %s, %s, n.key, n.moment FROM unnest(%s::text[], %s::timestamptz[]) AS n(key, moment) ON CONFLICT DO NOTHING
"""
_CLAIMED = """
    SELECT source_key, event_time FROM ledger.request_days
    WHERE deployment_id = %s AND source = %s AND source_key = ANY(%s)
"""


class PostgresLedger:
    """Books through the writer role, finds through the reader role."""

    def __init__(self, writer: Pool, reader: Pool, limits: Limits) -> None:
        self._writer = writer
        self._finder = Finder(reader, limits)
        self._limits = limits
        self._partitions: set[int] = set()
        self._numbering = threading.Lock()
        self._numbers: list[int] = []

    def book(self, booking: Booking) -> Receipt:
        """Books all rows in one commit (see the numbered steps above)."""
        work = work_of(booking)
        self._ensure_partitions(booking.event_time)
        self._book_new(work)
        return self._receipt(work)

    def begin(self, booking: Booking) -> UnderWay | None:
        """Steps 1 to 3 without ever waiting for the database; None where only :meth:`book` can do it."""
        if not self._numbers or not _days(booking.event_time) <= self._partitions:
            return None
        work = work_of(booking)
        if len(work.later):
            return None
        connection = self._writer.idle()
        if connection is None:
            return None
        try:
            work.batch_id = self._numbers.pop()
        except IndexError:  # another thread took the last one
            self._writer.give_back(connection)
            return None
        try:
            return UnderWay(self, work, self._writer, connection)
        except BaseException:
            self._writer.give_back(connection)
            raise

    def claim_event_times(
        self, deployment_id: int, source: Source, moments: NDArray[np.datetime64]
    ) -> NDArray[np.datetime64]:
        """The first moment claimed for each key of a request, or for the whole of another source."""
        told = moments.astype("datetime64[us]").tolist()
        claims = dict(zip(reversed(source.keys), reversed(told), strict=True))  # of a repeated key the first
        each = claims_each_key(source.name)
        if not each:
            claims = {"": next(iter(claims.values()))}
        keys = sorted(claims)  # two writers claim in one order, so they wait and do not deadlock
        wanted = [claims[key].replace(tzinfo=UTC) for key in keys]
        with self._writer.transaction() as connection:
            connection.execute(_CLAIM, (deployment_id, source.name, keys, wanted))
            first = dict(connection.execute(_CLAIMED, (deployment_id, source.name, keys)).fetchall())
        found = [first[key if each else ""].replace(tzinfo=None) for key in source.keys]
        return np.array(found, "datetime64[us]")

    def refuse(self, refusals: Refusals) -> int:
        """Books refusals in one commit; the same again adds nothing."""
        if not refusals.rows:
            return 0
        with self._writer.transaction() as connection:
            return _refuse(connection, refusals)

    def prediction(self, prediction_id: UUID) -> dict[str, Any]:
        """One prediction with named features, reasons and outcome."""
        return self._finder.prediction(prediction_id)

    def predictions(self, where: PredictionFilter) -> list[dict[str, Any]]:
        """Predictions, newest events first."""
        return self._finder.predictions(where)

    def _ensure_partitions(self, event_time: NDArray[np.datetime64]) -> None:
        new = sorted(_days(event_time) - self._partitions)
        if not new:
            return
        today = int(np.datetime64("now", "D").astype(np.int64))
        if new[0] < today - self._limits.event_past_days or new[-1] > today + self._limits.event_future_days:
            raise InvalidQuery("an event lies too far in the past or in the future")
        with self._writer.transaction() as connection:
            for start in range(0, len(new), 1000):
                wanted = np.array(new[start : start + 1000], "datetime64[D]").tolist()
                connection.execute("SELECT ledger.ensure_partitions(%s::date[])", (wanted,))
        self._partitions.update(new)

    def _book_new(self, work: Work) -> None:
        """Steps 3 to 5. Marks what was booked and notes the first answers of what was there."""
        for _ in range(self._limits.book_retries):
            if not (work.booked == Booked.NEW).any():
                return
            work.batch_id = self._next_batch_id()
            try:
                with self._writer.connection() as connection:
                    run(connection, self._copying(connection, work))
                return
            except TAKEN:
                self._yield(work)
        raise LedgerUnavailable("other writers keep booking the same instances", next_step="try again")

    def _yield(self, work: Work) -> None:
        """Step 5. A key that was claimed before keeps its moment, which says where its row lies."""
        work.batch_id = None
        if work.booking.claims:
            booking = work.booking
            when = self.claim_event_times(booking.deployment_id, booking.source, booking.event_time)
            work.booking = at_times(booking, when)
        self._read_first(work, np.flatnonzero(work.booked == Booked.NEW))
        withhold(work.booking, work.booked)
        self._ensure_partitions(work.booking.event_time[work.booked == Booked.NEW])

    def _copying(self, connection: Connection, work: Work, first: str = "") -> Conversation:
        """Step 3, of what is new. ``first`` are statements of the same transaction, each ended by a semicolon."""
        booking, scored, ids = work.booking, work.booking.scored, work.ids
        if work.booked.any():  # Booked.NEW is 0
            fresh = np.flatnonzero(work.booked == Booked.NEW)
            scored = [replace(s, answers=s.answers.take(fresh)) for s in scored]
            ids = {role: of_role[fresh] for role, of_role in ids.items()}
            booking = part_of(booking, fresh)
        assert work.batch_id is not None
        n = len(booking)
        origin = _origin(booking.deployment_id, booking.contract_id, booking.source.channel, booking.source.name)
        before = f"{first}{_BATCH}{work.batch_id}, {origin}, {n}, {n * len(scored)}, '{booking.received_at.min()}Z');"
        if booking.claims:
            before += _claims(booking)
        rows = chain.from_iterable(packed(booking, s, ids[s.role], work.batch_id) for s in scored)
        return copying(connection.pgconn, (before + _COPY).encode(), framed(rows))

    def _receipt(self, work: Work) -> Receipt:
        if work.later.size:
            self._read_first(work, work.later)
        answers = work.booking.scored[0].answers
        if work.found:
            answers = with_first(answers, work.found)
            self._refuse_conflicts(work.booking, work.booked)
        took = (time.perf_counter_ns() - work.began) // 1000
        return Receipt(work.batch_id, work.ids[Role.CHAMPION], work.booked, answers, book_us=took)

    def _next_batch_id(self) -> int:
        """A number nobody else has; the rest of a block is lost when the process ends."""
        while True:
            with suppress(IndexError):
                return self._numbers.pop()
            with self._numbering:
                if not self._numbers:
                    with self._writer.transaction() as connection:
                        fetched = connection.execute(_NUMBERS, (_NUMBERS_AHEAD,)).fetchall()
                    self._numbers = [int(row[0]) for row in reversed(fetched)]

    def _read_first(self, work: Work, places: NDArray[np.intp]) -> None:
        """Marks those of ``places`` that the ledger holds, and notes its answers."""
        booking, ids = work.booking, work.ids[Role.CHAMPION]
        places_of: dict[bytes, list[int]] = {}
        for place in places.tolist():
            places_of.setdefault(ids[place].tobytes(), []).append(place)
        days = np.unique(booking.event_time[places].astype("datetime64[D]")).tolist()
        with self._writer.transaction() as connection:
            cursor = connection.cursor(binary=True)
            for row in cursor.execute(_FIRST, ([UUID(bytes=key) for key in places_of], days)):
                for place in places_of[row[0].bytes]:
                    same = row[2] != booking.contract_id or bytes(row[1]) == booking.digests[place]
                    work.booked[place] = Booked.REPEATED if same else Booked.CONFLICT
                    work.found[place] = First(*row[3:]) if same else _NOTHING

    def _refuse_conflicts(self, booking: Booking, booked: NDArray[np.int8]) -> None:
        self.refuse(conflicting(booking, booked))


class UnderWay:
    """A booking whose message is sent. ``advance`` when ``fileno`` is ready, until it says 0; then ``receipt``."""

    def __init__(self, ledger: PostgresLedger, work: Work, pool: Pool, connection: Connection) -> None:
        self._ledger, self._work, self._pool, self._connection = ledger, work, pool, connection
        self._error: BaseException | None = None
        self._conversation = ledger._copying(connection, work)
        self.fileno = connection.pgconn.socket
        self.wanted = self.advance()

    def advance(self) -> int:
        """Goes on as far as it can without waiting; the poll events it then waits for, 0 when it has ended."""
        try:
            self.wanted = next(self._conversation)
            return self.wanted
        except StopIteration:
            pass
        except BaseException as error:  # told by receipt()
            self._error = error
        self.wanted = 0
        return 0

    @property
    def blocks(self) -> bool:
        """Whether ``receipt`` has to ask the database."""
        return self._error is not None

    def receipt(self) -> Receipt:
        """What booking did, as ``PostgresLedger.book`` says it. Raises as that does. Called once, at the end.

        The connection goes back here and not before: a closed one's file number may be another's at once, and
        whoever waited for it must have let go of it.
        """
        self._pool.give_back(self._connection)
        if isinstance(self._error, TAKEN):
            self._ledger._yield(self._work)
            self._ledger._book_new(self._work)
        elif self._error is not None:
            with translated():
                raise self._error
        return self._ledger._receipt(self._work)


def at_times(booking: Booking, when: NDArray[np.datetime64]) -> Booking:
    """The booking with the moments that were claimed, each with its due day."""
    due = due_days(booking.columns.contract.label, when.astype("datetime64[D]"))
    return replace(booking, event_time=when, due_day=due, claims=False)


def _claims(booking: Booking) -> str:
    """The statement that claims every key's moment; it fails where one was claimed before."""
    moments = booking.event_time.astype("datetime64[us]").tolist()
    rows = sorted(zip(booking.source.keys, moments, strict=True))  # two writers claim in one order
    values = ", ".join(f"({booking.deployment_id}, {quoted(booking.source.name)}, {sql.quote(key)}, '{moment}Z')"
                       for key, moment in rows)  # fmt: skip
    return f"INSERT INTO ledger.request_days (deployment_id, source, source_key, event_time) VALUES {values};"  # noqa: S608 - quoted


def withhold(booking: Booking, booked: NDArray[np.int8]) -> None:
    """Marks what is new in a group that has a conflict: it is booked whole or not at all."""
    if booking.groups is not None:
        broken = np.unique(booking.groups[booked == Booked.CONFLICT])
        booked[np.isin(booking.groups, broken) & (booked == Booked.NEW)] = Booked.WITHHELD


def conflicts(booking: Booking, booked: NDArray[np.int8]) -> list[Refusal]:
    """A refusal for every row whose identity holds other content, and for those withheld with it."""
    places = np.flatnonzero(booked >= Booked.CONFLICT).tolist()
    return [Refusal(booking.source.keys[i], *UNBOOKED[Booked(booked[i])], booking.digests[i]) for i in places]


def conflicting(booking: Booking, booked: NDArray[np.int8]) -> Refusals:
    """The same as it is booked."""
    when, received = _moment(booking.event_time.min()), _moment(booking.received_at.min())
    return Refusals(booking.deployment_id, booking.source, when, received, conflicts(booking, booked))


def _moment(value: np.datetime64) -> datetime:
    moment: datetime = value.astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)


@dataclass(slots=True)
class Work:
    """One booking on its way: ids by role, what became of each row, and first answers of what was there."""

    booking: Booking
    ids: dict[Role, NDArray[np.uint8]]
    booked: NDArray[np.int8]
    later: NDArray[np.intp]  # rows whose identity an earlier row of the batch has
    began: int = field(default_factory=time.perf_counter_ns)
    found: dict[int, First] = field(default_factory=dict)
    batch_id: int | None = None


def work_of(booking: Booking) -> Work:
    """Step 1."""
    source = booking.source
    ids = {s.role: prediction_ids(booking.deployment_id, s.role, source.name, source.keys) for s in booking.scored}
    booked = np.zeros(len(booking), np.int8)  # Booked.NEW
    later = _repeats(source.keys)
    if later.size:
        booked[later] = Booked.REPEATED  # a repeat lies where its first row does
        first = {key: place for place, key in reversed(list(enumerate(source.keys)))}
        when = booking.event_time.copy()
        when[later] = when[[first[source.keys[place]] for place in later.tolist()]]
        booking = replace(booking, event_time=when)
    return Work(booking, ids, booked, later)


def _days(event_time: NDArray[np.datetime64]) -> set[int]:
    return set(event_time.astype("datetime64[D]").astype(np.int64).tolist())


@lru_cache(256)
def quoted(text: str) -> str:
    """The text as an SQL literal."""
    return sql.quote(text)


@lru_cache(256)
def _origin(deployment_id: int, contract_id: int, channel: Channel, source: str) -> str:
    """What of a batch's row is the same in every batch of a source, as SQL."""
    return f"{deployment_id}, {contract_id}, {quoted(str(channel))}, {quoted(source)}"


@dataclass(frozen=True, slots=True)
class First:
    """The answer the ledger holds."""

    status: str
    score: float | None
    outputs: list[float] | None
    class_: str | None
    decision: str | None
    expected_cost: float | None


_NO_ROWS = np.empty(0, np.intp)
_NOTHING = First(Status.SCORED, None, None, None, None, None)


def _repeats(keys: Sequence[str]) -> NDArray[np.intp]:
    """Rows whose identity an earlier row of the batch has."""
    if len(set(keys)) == len(keys):
        return _NO_ROWS
    first: dict[str, int] = {}
    return np.array([i for i, key in enumerate(keys) if first.setdefault(key, i) != i], np.intp)


def with_first(answers: Answers, found: dict[int, First]) -> Answers:
    """The answers with the ledger's own in the rows it had already."""
    n = len(answers)
    status, score = answers.status.copy(), answers.score.copy()
    decision = np.full(n, None, object) if answers.decision is None else answers.decision.copy()
    cost = np.full(n, np.nan) if answers.expected_cost is None else answers.expected_cost.copy()
    classes = np.full(n, None, object) if answers.classes is None else answers.classes.copy()
    outputs = None if answers.outputs is None else answers.outputs.copy()
    for i, first in found.items():
        status[i] = Status(first.status)
        score[i] = np.nan if first.score is None else first.score
        decision[i], classes[i] = first.decision, first.class_
        cost[i] = np.nan if first.expected_cost is None else first.expected_cost
        if outputs is not None:  # another version may have had none, or more
            same = first.outputs is not None and len(first.outputs) == outputs.shape[1]
            outputs[i] = first.outputs if same else np.nan
    return Answers(status, score, outputs, classes, decision, cost, answers.reasons)


def _refuse(connection: Connection, refusals: Refusals) -> int:
    return connection.execute(REFUSE, refuse_parameters(refusals)).rowcount


def refuse_parameters(refusals: Refusals) -> dict[str, Any]:
    """What the statement ``REFUSE`` is told."""
    rows = refusals.rows
    return {
        "deployment": refusals.deployment_id,
        "channel": str(refusals.source.channel),
        "source": refusals.source.name,
        "day": refusals.event_time.date(),
        "received": refusals.received_at,
        "keys": [r.key for r in rows],
        "reasons": [str(r.reason) for r in rows],
        "details": [r.detail for r in rows],
        "digests": [r.content_digest for r in rows],
    }
