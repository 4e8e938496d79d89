"""The outbox in PostgreSQL: rows that are added in the transaction of what they tell of, and taken by lease.

Order: within one receiver and ordering a message waits for every earlier one, by their numbers. Who adds messages of
one ordering takes turns anyway, by the lock of the state that they tell of: numbers are in the order of the commits.

Time is the database's, so that workers whose clocks differ agree on leases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from trueup.domain.message import Attachment, Message
from trueup.notifying.bounding import bounded
from trueup.notifying.outbox import LOST_SENDERS, Claimed, Stored, no_message
from trueup.postgres import Connection, Pool
from trueup.settings import Notifying

if TYPE_CHECKING:
    from trueup.notifying.rendering import Rendering

_ADD = """
    INSERT INTO ledger.messages (key, receiver, kind, ordering, subject, text, html, payload)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (key) DO NOTHING RETURNING message_id
"""
_ATTACH = """
    INSERT INTO ledger.message_attachments (message_id, place, name, media_type, content) VALUES (%s, %s, %s, %s, %s)
"""
_DUE = """
    SELECT receiver, count(*) FROM ledger.messages
    WHERE state = 'waiting' AND due_at <= now() AND (leased_until IS NULL OR leased_until <= now()) GROUP BY receiver
"""
# A sender that died cannot tell; a message that kills its senders must not be taken for ever. What is leased waits (a
# CHECK), and that is not said here so that only the index of leases fits.
_GIVE_UP_LOST = """
    UPDATE ledger.messages
    SET state = 'given_up', ended_at = now(), lease = NULL, leased_until = NULL, last_error = %(why)s
    WHERE receiver = %(receiver)s AND lease IS NOT NULL AND leased_until <= now() AND attempts >= %(attempts)s
"""
_CLAIM = """
    WITH next AS (
        SELECT m.message_id FROM ledger.messages m
        WHERE m.receiver = %(receiver)s AND m.state = 'waiting' AND m.due_at <= now()
          AND (m.leased_until IS NULL OR m.leased_until <= now())
          AND (m.ordering = '' OR NOT EXISTS (
              SELECT 1 FROM ledger.messages e
              WHERE e.receiver = m.receiver AND e.ordering = m.ordering AND e.ordering <> ''
                AND e.state = 'waiting' AND e.message_id < m.message_id))
        ORDER BY m.due_at, m.message_id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE ledger.messages m
    SET attempts = attempts + 1, lease = %(lease)s, leased_until = now() + make_interval(secs => %(lease_s)s)
    FROM next WHERE m.message_id = next.message_id
    RETURNING m.message_id, attempts, key, receiver, kind, ordering, subject, text, html, payload
"""
_FILES = "SELECT name, media_type, content FROM ledger.message_attachments WHERE message_id = %s ORDER BY place"
_SENT = """
    UPDATE ledger.messages SET state = 'sent', ended_at = now(), lease = NULL, leased_until = NULL
    WHERE message_id = %s AND state = 'waiting'
"""
_FAILED = """
    UPDATE ledger.messages
    SET state = CASE WHEN %(again)s::float8 IS NULL THEN 'given_up' ELSE state END,
        ended_at = CASE WHEN %(again)s::float8 IS NULL THEN now() END,
        due_at = now() + make_interval(secs => coalesce(%(again)s::float8, 0)),
        lease = NULL, leased_until = NULL, last_error = %(why)s
    WHERE message_id = %(message)s AND lease = %(lease)s AND state = 'waiting'
"""
_FIND = """
    SELECT state, attempts, added_at, ended_at, last_error, key, receiver, kind, ordering, subject, text, html, payload
    FROM ledger.messages WHERE message_id = %s
"""
_RETRY = """
    WITH again AS (
        UPDATE ledger.messages m
        SET state = 'waiting', ended_at = NULL, attempts = 0, due_at = now(), lease = NULL, leased_until = NULL
        WHERE m.message_id = ANY (%(messages)s) AND m.state <> 'sent'
          AND (m.leased_until IS NULL OR m.leased_until <= now())
          AND NOT EXISTS (
              SELECT 1 FROM ledger.messages l
              WHERE m.ordering <> '' AND l.receiver = m.receiver AND l.ordering = m.ordering AND l.state = 'sent'
                AND l.message_id > m.message_id)
        RETURNING m.message_id, m.receiver
    )
    INSERT INTO ledger.audit (actor, action, subject, detail)
    SELECT %(by)s, 'retry message', receiver, jsonb_build_object('message_id', message_id) FROM again
"""
_FORGET = "SELECT ledger.forget_messages(%s, %s, %s)"


class PostgresOutbox:
    """Adds within the caller's transaction, and sends through the writer role."""

    def __init__(self, writer: Pool, bounds: Notifying) -> None:
        self._writer = writer
        self._bounds = bounds

    def add(self, messages: Sequence[Message], within: Any) -> int:
        """One row each, in the order given; commits with the transaction of the connection ``within``."""
        return sum(self._added(bounded(self._worded(message), self._bounds), within) for message in messages)

    def _worded(self, message: Message) -> Message:
        return self._rendering.worded(message) if message.kind == "alert" else message

    @cached_property
    def _rendering(self) -> Rendering:
        from trueup.notifying.rendering import lenient  # which only who tells of alerts needs

        return lenient(self._bounds)

    def _added(self, message: Message, connection: Connection) -> bool:
        row = connection.execute(
            _ADD,
            (
                *(message.key, message.receiver, message.kind, message.ordering),
                *(message.subject, message.text, message.html, json.dumps(dict(message.payload))),
            ),
        ).fetchone()
        if row is None:
            return False
        for place, file in enumerate(message.attachments):
            connection.execute(_ATTACH, (row[0], place, file.name, file.media_type, file.content))
        return True

    def due(self) -> Mapping[str, int]:
        """By receiver."""
        with self._writer.connection() as connection:
            return dict(connection.execute(_DUE).fetchall())

    def claim(self, receiver: str) -> Claimed | None:
        """One message, committed as taken before it is returned."""
        lease = uuid4()
        wanted = {
            "receiver": receiver,
            "lease": lease,
            "lease_s": self._bounds.lease_s,
            "attempts": self._bounds.attempts,
            "why": LOST_SENDERS,
        }
        with self._writer.transaction() as connection:
            connection.execute(_GIVE_UP_LOST, wanted)
            row = connection.execute(_CLAIM, wanted).fetchone()
            if row is None:
                return None
            message_id, attempt, *content = row
            message = _message(connection, message_id, content)
        return Claimed(message_id, message, attempt, lease)

    def sent(self, claimed: Claimed) -> bool:
        """Whoever holds the lease: the receiver has it."""
        return self._changed(_SENT, (claimed.message_id,))

    def failed(self, claimed: Claimed, why: str, retry_in_s: float | None) -> bool:
        """Only by whoever holds the lease."""
        told = {"message": claimed.message_id, "lease": claimed.lease, "why": why, "again": retry_in_s}
        return self._changed(_FAILED, told)

    def find(self, message_id: int) -> Stored:
        """With its content."""
        with self._writer.transaction() as connection:
            row = connection.execute(_FIND, (message_id,)).fetchone()
            if row is None:
                raise no_message()
            state, attempts, added_at, ended_at, last_error, *content = row
            message = _message(connection, message_id, content)
        return Stored(message_id, message, state, attempts, added_at, ended_at, last_error)

    def retry(self, message_ids: Sequence[int], by: str) -> int:
        """With a row of the audit each, in the same commit."""
        with self._writer.connection() as connection:
            return connection.execute(_RETRY, {"messages": list(message_ids), "by": by}).rowcount

    def forget(self, sent_before: datetime, given_up_before: datetime) -> int:
        """One bounded commit."""
        with self._writer.connection() as connection:
            row = connection.execute(_FORGET, (sent_before, given_up_before, self._bounds.forgotten_rows)).fetchone()
        assert row is not None
        return int(row[0])

    def _changed(self, statement: str, parameters: Any) -> bool:
        with self._writer.connection() as connection:
            return connection.execute(statement, parameters).rowcount == 1


def _message(connection: Connection, message_id: int, content: Sequence[Any]) -> Message:
    key, receiver, kind, ordering, subject, text, html, payload = content
    files = tuple(Attachment(*row) for row in connection.execute(_FILES, (message_id,)).fetchall())
    return Message(key, receiver, kind, subject, text, html, payload, files, ordering)
