"""Streams in the ledger: what is read of a topic is booked together with its position, or not at all.

Step 3 of ``docs/explanation/streams.md``: one message to the server, and so one transaction, holds

1. the *fence*: each partition's position moves from where the reader believes it to be
2. the *read*: how many records and instances, and what became of them
3. refusals and dead letters
4. the replies that are owed
5. the rows, as ``postgres.py`` books them

Another owner of a partition, or a stop at any point, leaves all of it or nothing. A replay of dead letters is the same
message without 1 and 2: instead it marks what is answered now, and says in the audit who asked for it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from trueup.domain.batch import UNBOOKED, Booked, Booking, Receipt
from trueup.domain.stream import Letter, OwedReplies, Place, Read, Replay, Unanswered
from trueup.errors import Fenced, InvalidQuery, LedgerUnavailable, no_letter
from trueup.ledger.copying import run
from trueup.ledger.postgres import (
    REFUSE,
    TAKEN,
    PostgresLedger,
    Work,
    conflicting,
    quoted,
    refuse_parameters,
    work_of,
)
from trueup.postgres import Connection

_POSITIONS = (
    "SELECT partition, next_offset FROM ledger.positions WHERE deployment_id = %s AND cluster = %s AND topic = %s"
)
_BEGIN = "SELECT ledger.move_position(%s, %s, %s, %s, NULL, %s)"
_READS = """
    INSERT INTO ledger.reads (deployment_id, cluster, topic, partition, first_offset, next_offset, records, tombstones,
                              instances, answered, repeated, refused, batch_id, received_at) VALUES """
_OWED = """
    INSERT INTO ledger.owed_replies (batch_id, deployment_id, cluster, topic, partition, first_day, last_day)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
_LETTER = """
    INSERT INTO ledger.dead_letters (deployment_id, cluster, topic, partition, record_offset, places, reason, detail,
                                     key, value, headers, appended_at, received_at)
    VALUES (%s, %s, %s, %s, %s, %s::int[], %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT ON CONSTRAINT dead_letters_once DO NOTHING
"""
_REPLAYED = "SELECT ledger.letters_replayed(%s::bigint[])"
_AUDIT = "INSERT INTO ledger.audit (actor, action, subject, detail) VALUES (%s, 'replay dead letters', %s, %s)"
_OWED_OF = """
    SELECT batch_id, first_day, last_day FROM ledger.owed_replies
    WHERE deployment_id = %s AND cluster = %s AND topic = %s AND partition = ANY (%s)
      AND batch_id <> ALL (%s::bigint[])
    ORDER BY batch_id LIMIT %s
"""
_REPLIES = """
    SELECT p.batch_id, p.prediction_id, p.business_key, p.source, p.source_key, p.event_time, p.status, p.score,
           p.outputs, p.class, p.decision, p.expected_cost, v.version AS model_version
    FROM ledger.predictions p JOIN ledger.model_versions v USING (model_version_id)
    WHERE p.batch_id = ANY (%s) AND p.event_day BETWEEN %s AND %s AND p.role = 'champion' AND p.deployment_id = %s
    ORDER BY p.batch_id, CASE WHEN starts_with(p.source, 'kafka:') THEN split_part(p.source_key, '/', 2)::bigint END,
             CASE WHEN starts_with(p.source, 'kafka:') THEN ('0' || split_part(p.source_key, '/', 3))::bigint END,
             p.event_day, p.ctid
"""
# Of records known by their place the offset says the order; of others, the rows lie as they were copied.
_LETTERS = """
    SELECT letter_id, partition, record_offset, places, reason, detail, key, value, headers, appended_at
    FROM ledger.dead_letters
"""
_UNSENT = """
    WHERE relayed_at IS NULL AND deployment_id = %s AND cluster = %s AND topic = %s AND partition = ANY (%s)
      AND letter_id <> ALL (%s::bigint[])
    ORDER BY letter_id LIMIT %s
"""
_NEVER = (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.errors.ProgramLimitExceeded)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_US = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


@contextmanager
def _passing() -> Iterator[None]:
    """A stream is not at fault for what its database does not do now: it looks anew and tries again."""
    try:
        yield
    except TAKEN:
        raise
    except psycopg.Error as error:
        if isinstance(error, _NEVER):
            raise
        raise LedgerUnavailable("the ledger's database does not do it now", next_step="try again") from None
    except InvalidQuery as error:
        if isinstance(error.__context__, psycopg.errors.QueryCanceled):
            raise LedgerUnavailable("the ledger's database took too long", next_step="try again") from None
        raise


class PostgresStreams(PostgresLedger):
    """A ledger that books what streams read, through the writer role."""

    @_passing()
    def positions(self, place: Place) -> dict[int, int]:
        """The next offset of each partition that was ever read."""
        with self._writer.transaction() as connection:
            return dict(connection.execute(_POSITIONS, (place.deployment_id, place.cluster, place.topic)).fetchall())

    @_passing()
    def begin_at(self, place: Place, offsets: Mapping[int, int]) -> None:
        """Gives partitions that were never read the position from which they will be; others keep theirs."""
        for partition, offset in sorted(offsets.items()):
            with self._writer.connection() as connection, suppress(psycopg.errors.ObjectNotInPrerequisiteState):
                connection.execute(_BEGIN, (place.deployment_id, place.cluster, place.topic, partition, offset))

    @_passing()
    def book_read(self, booking: Booking | None, read: Read) -> Receipt | None:
        """Books rows, refusals and dead letters and moves the positions, in one commit. Raises Fenced."""
        work = None if booking is None else work_of(booking)
        if work is not None:
            _tell_repeats_apart(work)
            self._ensure_partitions(work.booking.event_time)
        for _ in range(self._limits.book_retries):
            try:
                self._commit(work, read)
                return None if work is None else self._receipt(work)
            except TAKEN:
                if work is not None:
                    self._yield(work)
                    if work.later.size:
                        self._read_first(work, work.later)
        raise LedgerUnavailable("other writers keep booking the same instances", next_step="try again")

    @_passing()
    def _commit(self, work: Work | None, read: Read) -> None:
        new = work is not None and bool((work.booked == Booked.NEW).any())
        if work is not None:
            work.batch_id = self._next_batch_id() if new else None
        with self._writer.connection() as connection:
            first = _statements(connection, work, read)
            try:
                if work is not None and new:
                    run(connection, self._copying(connection, work, first))
                else:
                    connection.execute(first.encode())
            except psycopg.errors.ObjectNotInPrerequisiteState:
                raise Fenced("another owner has moved on") from None

    @contextmanager
    def moving(self, read: Read) -> Iterator[Connection]:
        """A transaction in which the positions have moved. Raises Fenced."""
        with _passing(), self._writer.transaction() as connection:
            try:
                connection.execute(_statements(connection, None, read).encode())
            except psycopg.errors.ObjectNotInPrerequisiteState:
                raise Fenced("another owner has moved on") from None
            yield connection

    @_passing()
    def owed(
        self, place: Place, partitions: Sequence[int], most: int, but: Sequence[int] = ()
    ) -> Sequence[OwedReplies]:
        """Batches ``but`` these whose replies are owed by whoever reads these partitions, oldest first."""
        wanted = (place.deployment_id, place.cluster, place.topic, list(partitions), list(but), most)
        with self._writer.transaction() as connection:
            return [OwedReplies(*row) for row in connection.execute(_OWED_OF, wanted)]

    def replies(self, place: Place, owed: Sequence[OwedReplies]) -> Iterator[dict[str, Any]]:
        """The champion's answers of these batches, in the order they were booked, in bounded memory."""
        if not owed:
            return
        days = min(o.first_day for o in owed), max(o.last_day for o in owed)
        with self._writer.transaction() as connection, connection.cursor("replies", row_factory=dict_row) as cursor:
            cursor.itersize = 2_000
            yield from cursor.execute(_REPLIES, ([o.batch_id for o in owed], *days, place.deployment_id))

    @_passing()
    def replies_sent(self, batches: Sequence[int]) -> None:
        """Their delivery was confirmed."""
        with self._writer.transaction() as connection:
            connection.execute("SELECT ledger.replies_sent(%s::bigint[])", (list(batches),))

    @_passing()
    def letters(self, place: Place, partitions: Sequence[int], most: int, but: Sequence[int] = ()) -> Sequence[Letter]:
        """Dead letters ``but`` these that were not sent to their topic yet, oldest first."""
        wanted = (place.deployment_id, place.cluster, place.topic, list(partitions), list(but), most)
        with self._writer.transaction() as connection:
            return [_letter_of(row) for row in connection.execute(_LETTERS + _UNSENT, wanted)]

    @_passing()
    def letters_sent(self, letters: Sequence[int]) -> None:
        """Their delivery was confirmed."""
        with self._writer.transaction() as connection:
            connection.execute("SELECT ledger.letters_sent(%s::bigint[])", (list(letters),))

    @_passing()
    def letter(self, letter_id: int) -> tuple[Place, Letter]:
        """One dead letter with its content. Raises NotFound."""
        query = _LETTERS.replace("appended_at", "appended_at, deployment_id, cluster, topic") + "WHERE letter_id = %s"
        with self._writer.transaction() as connection:
            row = connection.execute(query.encode(), (letter_id,)).fetchone()
        if row is None:
            raise no_letter()
        return Place(*row[-3:]), _letter_of(row[:-3])


def _statements(connection: Connection, work: Work | None, read: Read) -> str:
    """Parts 1 to 4 of the module's docstring, as SQL."""
    cursor = psycopg.ClientCursor(connection)
    parts = [_fence(read), _reads(work, read)] if read.portions else []
    unanswered = _unanswered(work)
    refused = [*read.refused]
    if work is not None and unanswered:
        refused.append(conflicting(work.booking, work.booked))
    parts += [cursor.mogrify(REFUSE, refuse_parameters(refusals)) for refusals in refused]
    parts += [cursor.mogrify(_LETTER, _letter_row(read, letter)) for letter in read.letters(unanswered)]
    if work is not None and work.batch_id is not None and read.owes_replies:
        days = work.booking.event_time[work.booked == Booked.NEW].astype("datetime64[D]")
        place = read.place
        row = (
            work.batch_id,
            place.deployment_id,
            place.cluster,
            place.topic,
            read.owner,
            days.min().item(),
            days.max().item(),
        )
        parts.append(cursor.mogrify(_OWED, row))
    if read.replay is not None:
        parts += _replay(cursor, read.replay, unanswered)
    return ";\n".join(parts) + ";\n"


def _replay(cursor: psycopg.ClientCursor[Any], replay: Replay, unanswered: Sequence[Unanswered]) -> Iterator[str]:
    answered = sorted(replay.answered(unanswered))
    yield cursor.mogrify(_REPLAYED, (answered,))
    detail = json.dumps({"letters": sorted(replay.letters), "answered": answered})
    yield cursor.mogrify(_AUDIT, (replay.by, replay.deployment, detail))


def _fence(read: Read) -> str:
    """In the order of partitions, so that two readers wait for each other and do not deadlock."""
    place = read.place
    of = f"{place.deployment_id}, {quoted(place.cluster)}, {quoted(place.topic)}"
    moves = [
        f"ledger.move_position({of}, {p.partition}, {'NULL' if p.expected is None else p.expected}, {p.next_offset})"
        for p in sorted(read.portions, key=lambda portion: portion.partition)
    ]
    return "SELECT " + ", ".join(moves)


def _reads(work: Work | None, read: Read) -> str:
    place = read.place
    of = f"{place.deployment_id}, {quoted(place.cluster)}, {quoted(place.topic)}"
    batch = "NULL" if work is None or work.batch_id is None else str(work.batch_id)
    received = quoted(read.received_at.astimezone(UTC).isoformat())
    rows = []
    for p in read.portions:
        new, repeated = p.recorded, 0
        if work is not None:
            here = work.booked[read.partitions == p.partition]
            new, repeated = int((here == Booked.NEW).sum()), int((here == Booked.REPEATED).sum())
        rows.append(
            f"({of}, {p.partition}, {p.first_offset}, {p.next_offset}, {p.records}, {p.tombstones}, {p.instances}, "
            f"{new}, {repeated}, {p.instances - new - repeated}, {batch}, {received})"
        )
    return _READS + ", ".join(rows)


def _unanswered(work: Work | None) -> list[Unanswered]:
    """What the ledger cannot book, by what is known of it."""
    if work is None:
        return []
    places = np.flatnonzero(work.booked >= Booked.CONFLICT).tolist()
    return [(place, *UNBOOKED[Booked(work.booked[place])]) for place in places]


def _tell_repeats_apart(work: Work) -> None:
    """Rows of one identity in one read: the first counts, and one with other content is a conflict."""
    keys, digests = work.booking.source.keys, work.booking.digests
    first: dict[str, int] = {}
    if work.later.size:
        for place, key in enumerate(keys):
            before = first.setdefault(key, place)
            if digests[before] != digests[place]:
                work.booked[place] = Booked.CONFLICT


def _letter_row(read: Read, letter: Letter) -> tuple[Any, ...]:
    place = read.place
    headers = [[name, None if value is None else base64.b64encode(value).decode()] for name, value in letter.headers]
    known = 0 <= letter.appended_us <= _LAST_US
    appended = _EPOCH + timedelta(microseconds=letter.appended_us) if known else None
    return (
        *(place.deployment_id, place.cluster, place.topic, letter.partition, letter.offset),
        *(None if letter.places is None else list(letter.places), letter.reason, letter.detail),
        *(letter.key, letter.value, Jsonb(headers), appended, read.received_at),
    )


def _letter_of(row: Sequence[Any]) -> Letter:
    letter_id, partition, offset, places, reason, detail, key, value, headers, appended = row
    return Letter(
        partition,
        offset,
        None if places is None else tuple(places),
        reason,
        detail,
        key,
        value,
        [(name, None if text is None else base64.b64decode(text)) for name, text in headers],
        -1 if appended is None else (appended - _EPOCH) // timedelta(microseconds=1),
        letter_id,
    )
