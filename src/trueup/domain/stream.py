"""What a deployment says of the stream it answers: where its records lie and how they are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import RefusalReason, Refusals

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}\Z")


@dataclass(frozen=True, slots=True)
class Stream:
    """A topic of instances, or of outcomes, and the topics that answer it.

    A path names a part of a record: ``value.trade.legs``, ``key``, ``key.account``, ``headers.ce_type``.
    Its first word is ``value``, ``key`` or ``headers``; the others lead into objects, and a whole number
    into a list. Of a CloudEvents record ``value`` is the event's data, and ``headers`` are its attributes.
    """

    topic: str
    format: str = "json"  # json, cloudevents, avro, protobuf, or the name of an installed format
    message: str = ""  # protobuf: the full name of the message, where the schema has several
    instances: str = "value"  # path of what is one instance, or a list of them
    fields: tuple[tuple[str, str], ...] = ()  # (contract field, path); none: the instance's own names
    identity: str | None = None  # path of the event's own id; None: cluster, topic, partition and offset
    event_time: str | None = None  # path; None: as the contract says, else when the record was appended
    replies: str | None = None  # topic of the answers
    dead_letters: str | None = None  # topic of what cannot be answered; it is kept in the ledger in any case

    def __post_init__(self) -> None:
        for topic in (self.topic, self.replies, self.dead_letters):
            if topic is not None and (not _TOPIC.match(topic) or topic in (".", "..")):
                raise ValueError("a topic's name is 1 to 249 letters, digits, dots, dashes and underscores")
        if self.topic in (self.replies, self.dead_letters):
            raise ValueError("a stream cannot answer into the topic that it reads")


@dataclass(frozen=True, slots=True)
class Place:
    """What is read: a topic of a cluster, for one deployment."""

    deployment_id: int
    cluster: str
    topic: str


@dataclass(frozen=True, slots=True)
class Portion:
    """What one commit reads of a partition: ``records`` from ``first_offset`` to before ``next_offset``.

    ``expected`` is the position from which its reader started, None where there was none; the commit fails where it
    is another by now. ``instances`` are all that was received, answered or not.
    """

    partition: int
    expected: int | None
    first_offset: int
    next_offset: int
    records: int
    tombstones: int
    instances: int
    recorded: int = 0  # of them: outcomes, which are no predictions


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that got no answer, or not for all of its instances, as it was received.

    ``places`` are the zero-based instances that were refused, None for the record as a whole. ``appended_us``
    microseconds since 1970 in UTC, -1 where nobody knows.
    """

    partition: int
    offset: int
    places: tuple[int, ...] | None
    reason: str
    detail: str  # codes and field names only
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    appended_us: int = -1
    letter_id: int | None = None

    @property
    def instances(self) -> int:
        """How many instances it stands for."""
        return 1 if self.places is None else len(self.places)


Unanswered = tuple[int, RefusalReason, str]
"""A row of the booking that the ledger could not book, why, and in words: codes and field names only."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Dead letters that are scored again. ``answered`` names those that have no refused instance any more, told what
    the ledger could not book; ``by`` whom, for the audit.
    """

    deployment: str
    by: str
    letters: Sequence[int]
    answered: Callable[[Sequence[Unanswered]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Read:
    """All that a stream's commit holds beside its booking.

    ``partitions`` int64 (n,) says where each row of the booking was read. ``letters`` makes the dead letters of the
    read, told what the ledger could not book. ``owes_replies``: what is booked is to be answered in a topic.
    A replay has no portions: it moves no position.
    """

    place: Place
    portions: Sequence[Portion]
    received_at: datetime
    partitions: NDArray[np.int64]
    refused: Sequence[Refusals]
    letters: Callable[[Sequence[Unanswered]], Sequence[Letter]]
    owes_replies: bool = False
    replay: Replay | None = None

    @property
    def owner(self) -> int:
        """The partition whose reader sends the replies."""
        return min(p.partition for p in self.portions) if self.portions else int(self.partitions.min())


@dataclass(frozen=True, slots=True)
class OwedReplies:
    """A batch whose replies were not confirmed by the broker yet, and the event days of its rows."""

    batch_id: int
    first_day: date
    last_day: date
