"""What a deployment says of the stream it answers: where its records lie and how they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
