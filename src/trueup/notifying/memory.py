"""Fakes: an outbox and a receiver in memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from trueup.domain.message import Message
from trueup.notifying.bounding import bounded
from trueup.notifying.outbox import LOST_SENDERS, Claimed, Stored, identity_of, no_message
from trueup.notifying.rendering import lenient
from trueup.settings import Notifying


@dataclass(slots=True)
class _Row:
    message_id: int
    message: Message
    added_at: datetime
    due_at: datetime
    state: str = "waiting"
    attempts: int = 0
    lease: UUID | None = None
    leased_until: datetime | None = None
    ended_at: datetime | None = None
    last_error: str | None = None

    def free_at(self, now: datetime) -> bool:
        return self.leased_until is None or self.leased_until <= now

    def end(self, state: str, now: datetime) -> None:
        self.state, self.ended_at, self.lease, self.leased_until = state, now, None, None


class MemoryOutbox:
    """Messages that end with the process. ``within`` is not looked at: what is added is there at once."""

    def __init__(self, bounds: Notifying | None = None) -> None:
        self._bounds = bounds or Notifying()
        self._rendering = lenient(self._bounds)
        self._rows: dict[int, _Row] = {}
        self._lock = threading.Lock()
        self._numbered = 0

    def add(self, messages: Sequence[Message], within: Any = None) -> int:
        """Those whose key is new."""
        with self._lock:
            known = {row.message.key for row in self._rows.values()}
            before = len(self._rows)
            for message in (bounded(self._rendering.worded(message), self._bounds) for message in messages):
                if message.key not in known:
                    known.add(message.key)
                    self._numbered += 1
                    now = _now()
                    self._rows[self._numbered] = _Row(self._numbered, message, now, now)
            return len(self._rows) - before

    def due(self) -> Mapping[str, int]:
        """By receiver."""
        now = _now()
        with self._lock:
            return Counter(
                row.message.receiver
                for row in self._rows.values()
                if row.state == "waiting" and row.due_at <= now and row.free_at(now)
            )

    def claim(self, receiver: str) -> Claimed | None:
        """The one that has been due for longest."""
        now, lease = _now(), uuid4()
        with self._lock:
            waiting = [r for r in self._rows.values() if r.message.receiver == receiver and r.state == "waiting"]
            for row in waiting:
                if row.lease is not None and row.free_at(now) and row.attempts >= self._bounds.attempts:
                    row.end("given_up", now)
                    row.last_error = LOST_SENDERS
            waiting = [row for row in waiting if row.state == "waiting"]
            first: dict[str, int] = {}
            for row in waiting:
                first.setdefault(row.message.ordering, row.message_id)
            able = [
                row
                for row in waiting
                if row.due_at <= now
                and row.free_at(now)
                and row.message.ordering in ("", *(o for o, i in first.items() if i == row.message_id))
            ]
            if not able:
                return None
            row = min(able, key=lambda row: (row.due_at, row.message_id))
            row.attempts += 1
            row.lease, row.leased_until = lease, now + timedelta(seconds=self._bounds.lease_s)
            return Claimed(row.message_id, row.message, row.attempts, lease)

    def sent(self, claimed: Claimed) -> bool:
        """Whoever holds the lease."""
        with self._lock:
            row = self._rows.get(claimed.message_id)
            if row is None or row.state != "waiting":
                return False
            row.end("sent", _now())
            return True

    def failed(self, claimed: Claimed, why: str, retry_in_s: float | None) -> bool:
        """Only by whoever holds the lease."""
        now = _now()
        with self._lock:
            row = self._rows.get(claimed.message_id)
            if row is None or row.state != "waiting" or row.lease != claimed.lease:
                return False
            row.last_error, row.lease, row.leased_until = why, None, None
            if retry_in_s is None:
                row.end("given_up", now)
            else:
                row.due_at = now + timedelta(seconds=retry_in_s)
            return True

    def find(self, message_id: int) -> Stored:
        """Raises NotFound."""
        with self._lock:
            row = self._rows.get(message_id)
            if row is None:
                raise no_message()
            return Stored(message_id, row.message, row.state, row.attempts, row.added_at, row.ended_at, row.last_error)

    def retry(self, message_ids: Sequence[int], by: str) -> int:
        """Nobody audits a fake."""
        now, done = _now(), 0
        with self._lock:
            for row in [self._rows[number] for number in message_ids if number in self._rows]:
                if row.state == "sent" or not row.free_at(now) or self._is_overtaken(row):
                    continue
                row.state, row.ended_at, row.attempts, row.due_at = "waiting", None, 0, now
                row.lease, row.leased_until = None, None
                done += 1
        return done

    def forget(self, sent_before: datetime, given_up_before: datetime) -> int:
        """What ended before."""
        until = {"sent": sent_before, "given_up": given_up_before}
        with self._lock:
            old = [r for r in self._rows.values() if r.ended_at is not None and r.ended_at < until[r.state]]
            old = sorted(old, key=lambda row: row.ended_at or row.added_at)[: self._bounds.forgotten_rows]
            for row in old:
                del self._rows[row.message_id]
            return len(old)

    def _is_overtaken(self, row: _Row) -> bool:
        about = (row.message.receiver, row.message.ordering)
        return row.message.ordering != "" and any(
            other.state == "sent"
            and (other.message.receiver, other.message.ordering) == about
            and other.message_id > row.message_id
            for other in self._rows.values()
        )


class MemoryNotifier:
    """A receiver that keeps what it is sent, and fails as it is told to."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.failures: list[Exception] = []

    def send(self, message: Message) -> None:
        """Raises the next failure there is."""
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append(message)

    @property
    def ids(self) -> list[UUID]:
        """What each message was known by."""
        return [identity_of(message) for message in self.taken]


def _now() -> datetime:
    return datetime.now(UTC)
