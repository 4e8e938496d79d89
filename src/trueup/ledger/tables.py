"""The ledger's tables. Migrations applied in order must equal this (tests/integration/test_migrations.py).

Each CHECK has a sentence that says which contradiction it makes impossible.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, REAL, TIMESTAMP, UUID

metadata = MetaData(schema="ledger")

Moment = TIMESTAMP(timezone=True)
_NOW = text("now()")
_CHANNELS = "'rest', 'grpc', 'kafka', 'batch', 'python'"

contracts = Table(
    "contracts",
    metadata,
    Column("contract_id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False, unique=True),
    # json, not jsonb: the order of fields is part of a contract.
    Column("body", JSON, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=_NOW),
    UniqueConstraint("name", "version"),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("model_version_id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("contract_id", Integer, ForeignKey(contracts.c.contract_id), nullable=False),
    Column("artifacts", JSONB, nullable=False),
    Column("libraries", JSONB, nullable=False),
    Column("parity", JSONB, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=_NOW),
    UniqueConstraint("name", "version"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("deployment_id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False, server_default=_NOW),
)

deployment_revisions = Table(
    "deployment_revisions",
    metadata,
    Column("deployment_id", Integer, ForeignKey(deployments.c.deployment_id), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("champion_id", Integer, ForeignKey(model_versions.c.model_version_id), nullable=False),
    Column("challenger_ids", ARRAY(Integer), nullable=False),
    Column("shadow_ids", ARRAY(Integer), nullable=False),
    Column("serving", JSONB, nullable=False),
    Column("deployed_at", Moment, nullable=False, server_default=_NOW),
    Column("deployed_by", Text, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("batch_id", BigInteger, Identity(always=True), primary_key=True),
    Column("deployment_id", Integer, ForeignKey(deployments.c.deployment_id), nullable=False),
    Column("contract_id", Integer, ForeignKey(contracts.c.contract_id), nullable=False),
    Column("channel", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("instances", Integer, nullable=False),
    Column("predictions", Integer, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("booked_at", Moment, nullable=False, server_default=_NOW),
    # A batch without predictions is no batch.
    CheckConstraint("instances > 0 AND predictions >= instances", name="batches_not_empty"),
)

predictions = Table(
    "predictions",
    metadata,
    Column("prediction_id", UUID, primary_key=True),
    Column("event_day", Date, primary_key=True),
    Column("event_time", Moment, nullable=False),
    Column("deployment_id", Integer, nullable=False),
    Column("model_version_id", Integer, nullable=False),
    Column("contract_id", Integer, nullable=False),
    Column("batch_id", BigInteger, nullable=False),
    Column("role", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("source_key", Text, nullable=False),
    Column("business_key", Text, nullable=False),
    Column("content_digest", LargeBinary, nullable=False),
    Column("floats", ARRAY(Double), nullable=False),
    Column("ints", ARRAY(BigInteger), nullable=False),
    Column("texts", ARRAY(Text), nullable=False),
    Column("score", Double),
    Column("outputs", ARRAY(Double)),
    Column("class", Text),
    Column("decision", Text),
    Column("expected_cost", Double),
    Column("reason_fields", ARRAY(SmallInteger)),
    Column("reason_values", ARRAY(REAL)),
    Column("due_day", Date),
    Column("received_at", Moment, nullable=False),
    Column("booked_at", Moment, nullable=False, server_default=_NOW),
    Column("steps_us", ARRAY(Integer), nullable=False),
    # The partition a row lies in follows from its event time alone.
    CheckConstraint("event_day = (event_time AT TIME ZONE 'UTC')::date", name="predictions_event_day"),
    CheckConstraint("role IN ('champion', 'challenger', 'shadow')", name="predictions_role"),
    CheckConstraint(f"channel IN ({_CHANNELS})", name="predictions_channel"),
    CheckConstraint("status IN ('scored', 'abstained', 'fallback')", name="predictions_status"),
    # An answer holds something: a number, a vector or a class.
    CheckConstraint(
        "score IS NOT NULL OR outputs IS NOT NULL OR class IS NOT NULL",
        name="predictions_answer",
    ),
    # Who abstains decides nothing.
    CheckConstraint("status <> 'abstained' OR decision IS NULL", name="predictions_abstained"),
    # Every reason has a field and a value.
    CheckConstraint(
        "(reason_fields IS NULL) = (reason_values IS NULL) AND cardinality(reason_fields) = cardinality(reason_values)",
        name="predictions_reasons",
    ),
    CheckConstraint("octet_length(content_digest) = 16", name="predictions_digest"),
    # A label is not due before the event.
    CheckConstraint("due_day >= event_day", name="predictions_due"),
    postgresql_partition_by="RANGE (event_day)",
)
# Rows of one batch lie together, so a block range index finds them at next to no cost.
Index("predictions_batch", predictions.c.batch_id, postgresql_using="brin")
Index("predictions_business_key", predictions.c.business_key, predictions.c.event_day)

request_days = Table(
    "request_days",
    metadata,
    Column("deployment_id", Integer, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("source_key", Text, primary_key=True),
    Column("event_time", Moment, nullable=False),
    Column("booked_at", Moment, nullable=False, server_default=_NOW),
)

refusals = Table(
    "refusals",
    metadata,
    Column("refusal_id", BigInteger, Identity(always=True), primary_key=True),
    Column("deployment_id", Integer, ForeignKey(deployments.c.deployment_id), nullable=False),
    Column("channel", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("source_key", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("content_digest", LargeBinary),
    Column("attempt", Integer, nullable=False),
    Column("event_day", Date, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("booked_at", Moment, nullable=False, server_default=_NOW),
    CheckConstraint(f"channel IN ({_CHANNELS})", name="refusals_channel"),
    CheckConstraint(
        "reason IN ('contract', 'failed', 'timed_out', 'overloaded', 'request', 'conflict', "
        "'undecodable', 'too_large')",
        name="refusals_reason",
    ),
    CheckConstraint("attempt >= 1", name="refusals_attempt"),
    # The same refusal of the same content is one fact, however often it is repeated.
    UniqueConstraint(
        "deployment_id",
        "source",
        "source_key",
        "reason",
        "detail",
        "content_digest",
        name="refusals_once",
        postgresql_nulls_not_distinct=True,
    ),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("contract_name", Text, primary_key=True),
    Column("label", Text, primary_key=True),
    Column("business_key", Text, primary_key=True),
    Column("event_day", Date, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("value_number", Double),
    Column("value_text", Text),
    Column("source", Text, nullable=False),
    Column("observed_at", Moment, nullable=False),
    Column("recorded_at", Moment, nullable=False, server_default=_NOW),
    # An outcome is one value, a number or a text.
    CheckConstraint("num_nonnulls(value_number, value_text) = 1", name="outcomes_one_value"),
    CheckConstraint("revision >= 1", name="outcomes_revision"),
)


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
    Column("moved_at", Moment, nullable=False, server_default=_NOW),
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
    Column("booked_at", Moment, nullable=False, server_default=_NOW),
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
    Column("booked_at", Moment, nullable=False, server_default=_NOW),
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
    Column("booked_at", Moment, nullable=False, server_default=_NOW),
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

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("key_hash", LargeBinary, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False, server_default=_NOW),
    Column("revoked_at", Moment),
    Column("deployments", ARRAY(Text)),  # null: all
    CheckConstraint("role IN ('reader', 'scorer', 'operator', 'admin')", name="api_keys_role"),
    CheckConstraint("octet_length(key_hash) = 32", name="api_keys_hash"),
    # A key that is limited is limited to something, and an admin could lift any limit.
    CheckConstraint(
        "deployments IS NULL OR (cardinality(deployments) > 0 AND role <> 'admin')", name="api_keys_deployments"
    ),
)

audit = Table(
    "audit",
    metadata,
    Column("audit_id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", Moment, nullable=False, server_default=_NOW),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", JSONB, nullable=False),
)
