"""What sending needs of an outbox, beside adding to it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID, uuid5

from trueup.domain.message import Message
from trueup.errors import NotFound
from trueup.ports import Outbox
from trueup.settings import Notifying

_NAMESPACE = UUID("6d1b5e0e-8a0c-5f43-9f0a-2c7d6c7a4d11")
LOST_SENDERS = "every sender that took it ended before it could tell"


def identity_of(message: Message) -> UUID:
    """The id that every attempt to send a message carries (a UUIDv5 of its key), so that a receiver knows it again."""
    return uuid5(_NAMESPACE, message.key)


def wait_s(attempt: int, bounds: Notifying, asked_s: float | None = None, chance: float | None = None) -> float:
    """Seconds before the next attempt: doubled each time up to the bound, of which the later half is left to chance so
    that what failed together does not come together. What the receiver asked for is the least, within the bound."""
    doubled = min(bounds.retry_s * 2.0 ** min(attempt - 1, 60), bounds.retry_most_s)
    waited = doubled * (0.5 + 0.5 * (random.random() if chance is None else chance))  # noqa: S311
    return max(waited, min(asked_s or 0.0, bounds.retry_most_s))


def no_message() -> NotFound:
    """No message of that id."""
    return NotFound("no such message", next_step="`trueup message list` lists what there is")


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that nobody else sends until the lease ends. ``attempt`` counts from 1."""

    message_id: int
    message: Message
    attempt: int
    lease: UUID


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it stands."""

    message_id: int
    message: Message
    state: str  # waiting, sent, given_up
    attempts: int
    added_at: datetime
    ended_at: datetime | None
    last_error: str | None


class SendingOutbox(Outbox, Protocol):
    """An outbox from which messages are sent. All raise LedgerUnavailable."""

    def due(self) -> Mapping[str, int]:
        """How many messages of each receiver could be claimed, those behind an earlier one included."""
        ...

    def claim(self, receiver: str) -> Claimed | None:
        """The message that has been due for longest and has no earlier one of its ordering waiting.

        Nobody else gets it before the lease ends; then anybody does: whoever held it is taken for dead. One whose
        attempts have all ended so is given up here."""
        ...

    def sent(self, claimed: Claimed) -> bool:
        """The receiver has it, whoever holds the lease by now. False where it had ended before."""
        ...

    def failed(self, claimed: Claimed, why: str, retry_in_s: float | None) -> bool:
        """It is due again after so many seconds; None: it is given up. False where the lease was lost meanwhile."""
        ...

    def find(self, message_id: int) -> Stored:
        """Raises NotFound."""
        ...

    def retry(self, message_ids: Sequence[int], by: str) -> int:
        """Makes messages that wait or were given up due now, with all attempts before them; returns how many. One that
        was sent, or that a later one of its ordering has overtaken, stays as it is."""
        ...

    def forget(self, sent_before: datetime, given_up_before: datetime) -> int:
        """Removes what ended before, a bounded number of messages; returns how many."""
        ...
