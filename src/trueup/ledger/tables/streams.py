"""How far streams were read, and what they owe."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from trueup.ledger.tables.common import NOW, Moment, metadata
from trueup.ledger.tables.predictions import deployments


def _place() -> list[Column[Any]]:
    """A partition of a topic, as one deployment reads it."""
    return [
        Column("deployment_id", Integer, ForeignKey(deployments.c.deployment_id), nullable=False),
        Column("cluster", Text, nullable=False),
        Column("topic", Text, nullable=False),
        Column("partition", Integer, nullable=False),
    ]


positions = Table(
    "positions",
    metadata,
    *_place(),
    Column("next_offset", BigInteger, nullable=False),
    Column("moved_at", Moment, nullable=False, server_default=NOW),
    PrimaryKeyConstraint("deployment_id", "cluster", "topic", "partition"),
    CheckConstraint("next_offset >= 0", name="positions_offset"),
)

reads = Table(
    "reads",
    metadata,
    Column("read_id", BigInteger, Identity(always=True), primary_key=True),
    *_place(),
    Column("first_offset", BigInteger, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("records", Integer, nullable=False),
    Column("tombstones", Integer, nullable=False),
    Column("instances", Integer, nullable=False),
    Column("answered", Integer, nullable=False),
    Column("repeated", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("batch_id", BigInteger),
    Column("received_at", Moment, nullable=False),
    Column("booked_at", Moment, nullable=False, server_default=NOW),
    # Who reads nothing moves no position.
    CheckConstraint("next_offset > first_offset AND records > 0", name="reads_not_empty"),
    # Nothing that was received is without an end.
    CheckConstraint("instances = answered + repeated + refused", name="reads_reconcile"),
)
Index("reads_received", reads.c.received_at, postgresql_using="brin")
# What was read of a partition before.
Index(
    "reads_of_partition",
    reads.c.deployment_id,
    reads.c.cluster,
    reads.c.topic,
    reads.c.partition,
    reads.c.read_id,
)

owed_replies = Table(
    "owed_replies",
    metadata,
    Column("batch_id", BigInteger, primary_key=True, autoincrement=False),
    *_place(),
    Column("first_day", Date, nullable=False),
    Column("last_day", Date, nullable=False),
    Column("booked_at", Moment, nullable=False, server_default=NOW),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("letter_id", BigInteger, Identity(always=True), primary_key=True),
    *_place(),
    Column("record_offset", BigInteger, nullable=False),
    Column("places", ARRAY(Integer)),  # of the instances that were refused; null: the record as a whole
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSONB, nullable=False),
    Column("appended_at", Moment),
    Column("received_at", Moment, nullable=False),
    Column("booked_at", Moment, nullable=False, server_default=NOW),
    Column("relayed_at", Moment),
    Column("replayed_at", Moment),
    # A record is one letter, however often it is read.
    UniqueConstraint("deployment_id", "cluster", "topic", "partition", "record_offset", name="dead_letters_once"),
)
Index(
    "dead_letters_unrelayed",
    dead_letters.c.deployment_id,
    dead_letters.c.letter_id,
    postgresql_where=text("relayed_at IS NULL"),
)
