"""What is to be told to somebody outside, and what came of it."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from trueup.ledger.tables.common import NOW, Moment, metadata

messages = Table(
    "messages",
    metadata,
    Column("message_id", BigInteger, Identity(always=True), primary_key=True),
    Column("key", Text, nullable=False),
    Column("receiver", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("ordering", Text, nullable=False),  # '': none
    Column("subject", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("html", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("added_at", Moment, nullable=False, server_default=NOW),
    Column("state", Text, nullable=False, server_default=text("'waiting'")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("due_at", Moment, nullable=False, server_default=NOW),
    Column("lease", Uuid),  # of whoever took it last
    Column("leased_until", Moment),
    Column("ended_at", Moment),
    Column("last_error", Text),
    # A message is added once, however often its sender says it.
    UniqueConstraint("key", name="messages_once"),
    CheckConstraint("state IN ('waiting', 'sent', 'given_up')", name="messages_state"),
    # What waits has not ended, and what does not has.
    CheckConstraint("(state = 'waiting') = (ended_at IS NULL)", name="messages_ended"),
    # Nobody holds what has ended, and a lease has an end.
    CheckConstraint(
        "(lease IS NULL) = (leased_until IS NULL) AND (lease IS NULL OR state = 'waiting')", name="messages_lease"
    ),
    CheckConstraint("attempts >= 0", name="messages_attempts"),
)
Index(
    "messages_waiting",
    messages.c.receiver,
    messages.c.due_at,
    messages.c.message_id,
    postgresql_where=text("state = 'waiting'"),
)
# Those whose sender may have died.
Index("messages_leased", messages.c.receiver, messages.c.leased_until, postgresql_where=text("lease IS NOT NULL"))
# Whether an earlier one of the same order still waits.
Index(
    "messages_in_order",
    messages.c.receiver,
    messages.c.ordering,
    messages.c.message_id,
    postgresql_where=text("state = 'waiting' AND ordering <> ''"),
)
Index("messages_ended_at", messages.c.ended_at, postgresql_where=text("state <> 'waiting'"))

message_attachments = Table(
    "message_attachments",
    metadata,
    Column("message_id", BigInteger, ForeignKey(messages.c.message_id, ondelete="CASCADE"), nullable=False),
    Column("place", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("message_id", "place"),
)
