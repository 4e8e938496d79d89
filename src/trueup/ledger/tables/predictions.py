"""Contracts, versions, deployments, and what they answered or refused."""

from __future__ import annotations

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
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB, REAL, UUID

from trueup.ledger.tables.common import NOW, Moment, metadata

CHANNELS = "'rest', 'grpc', 'kafka', 'batch', 'python'"

contracts = Table(
    "contracts",
    metadata,
    Column("contract_id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False, unique=True),
    # json, not jsonb: the order of fields is part of a contract.
    Column("body", JSON, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=NOW),
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
    Column("created_at", Moment, nullable=False, server_default=NOW),
    UniqueConstraint("name", "version"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("deployment_id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False, server_default=NOW),
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
    Column("deployed_at", Moment, nullable=False, server_default=NOW),
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
    Column("booked_at", Moment, nullable=False, server_default=NOW),
    # A batch without predictions is no batch.
    CheckConstraint("instances > 0 AND predictions >= instances", name="batches_not_empty"),
)
# The latest of one deployment.
Index("batches_of_deployment", batches.c.deployment_id, batches.c.batch_id)
# What was booked of late, at next to no cost, because rows lie in the order of booking.
Index("batches_booked", batches.c.booked_at, postgresql_using="brin")

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
    Column("booked_at", Moment, nullable=False, server_default=NOW),
    Column("steps_us", ARRAY(Integer), nullable=False),
    # The partition a row lies in follows from its event time alone.
    CheckConstraint("event_day = (event_time AT TIME ZONE 'UTC')::date", name="predictions_event_day"),
    CheckConstraint("role IN ('champion', 'challenger', 'shadow')", name="predictions_role"),
    CheckConstraint(f"channel IN ({CHANNELS})", name="predictions_channel"),
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
# The newest events of a day, where they came in the order of their events; a full range is summarised without waiting
# for the next vacuum, as what is asked for lies at the end.
Index(
    "predictions_event_time", predictions.c.event_time, postgresql_using="brin", postgresql_with={"autosummarize": "on"}
)
Index("predictions_business_key", predictions.c.business_key, predictions.c.event_day)

request_days = Table(
    "request_days",
    metadata,
    Column("deployment_id", Integer, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("source_key", Text, primary_key=True),
    Column("event_time", Moment, nullable=False),
    Column("booked_at", Moment, nullable=False, server_default=NOW),
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
    Column("booked_at", Moment, nullable=False, server_default=NOW),
    CheckConstraint(f"channel IN ({CHANNELS})", name="refusals_channel"),
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
Index("refusals_booked", refusals.c.booked_at, postgresql_using="brin")
