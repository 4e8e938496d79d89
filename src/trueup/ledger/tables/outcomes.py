"""What really happened, how far sources were read for it, and what was done about an item."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import UUID

from trueup.ledger.tables.common import NOW, Moment, metadata
from trueup.ledger.tables.predictions import deployments

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
    Column("recorded_at", Moment, nullable=False, server_default=NOW),
    Column("state", Text, nullable=False, server_default=text("'known'")),
    CheckConstraint("state IN ('known', 'retracted', 'censored')", name="outcomes_state"),
    # A known outcome is one value, a number or a text; of what was taken back or will never come there is none.
    CheckConstraint(
        "num_nonnulls(value_number, value_text) = CASE state WHEN 'known' THEN 1 ELSE 0 END", name="outcomes_one_value"
    ),
    CheckConstraint("revision >= 1", name="outcomes_revision"),
)
# The newest outcome of an event day, for who asks of which days something new is known. Over an expression, so that the
# planner cannot take it for the primary key where a day has no statistics yet: an item would be looked for among all of
# its day.
Index("outcomes_changed", text("(event_day + 0)"), outcomes.c.contract_name, outcomes.c.recorded_at)

# Where each pull goes on. ``turn`` is the fence: it moves with every commit, also where ``since`` does not.
outcome_pulls = Table(
    "outcome_pulls",
    metadata,
    Column("name", Text, primary_key=True),
    Column("turn", BigInteger, nullable=False),
    Column("since", Moment),
    Column("rows_read", BigInteger, nullable=False),
    Column("rows_refused", BigInteger, nullable=False),
    Column("moved_at", Moment, nullable=False, server_default=NOW),
    # A pull that has moved has a turn, and refuses no more than it reads.
    CheckConstraint("turn >= 1", name="outcome_pulls_turn"),
    CheckConstraint("rows_refused >= 0 AND rows_refused <= rows_read", name="outcome_pulls_rows"),
)

outcome_refusals = Table(
    "outcome_refusals",
    metadata,
    Column("refusal_id", BigInteger, Identity(always=True), primary_key=True),
    Column("contract_name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("detail", Text, nullable=False),  # field names and codes, never values
    Column("content_digest", LargeBinary, nullable=False),
    Column("refused_at", Moment, nullable=False, server_default=NOW),
    CheckConstraint("octet_length(content_digest) = 16", name="outcome_refusals_digest"),
    # The same row of a source, refused for the same faults, is one fact, however often it is read.
    UniqueConstraint("contract_name", "source", "detail", "content_digest", name="outcome_refusals_once"),
)

actions = Table(
    "actions",
    metadata,
    Column("action_id", BigInteger, Identity(always=True), primary_key=True),
    Column("deployment_id", Integer, ForeignKey(deployments.c.deployment_id), nullable=False),
    Column("key", Text, nullable=False),
    Column("contract_name", Text, nullable=False),
    Column("business_key", Text, nullable=False),
    Column("event_day", Date, nullable=False),
    Column("prediction_id", UUID),  # where one was named
    Column("action", Text, nullable=False),
    Column("is_treatment", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("recorded_by", Text, nullable=False),
    Column("acted_at", Moment, nullable=False),
    Column("recorded_at", Moment, nullable=False, server_default=NOW),
    # Somebody did something.
    CheckConstraint("key <> '' AND action <> '' AND actor <> ''", name="actions_said"),
    UniqueConstraint("deployment_id", "key", name="actions_once"),
)
Index("actions_of_item", actions.c.business_key, actions.c.event_day, actions.c.contract_name)

# Weekdays on which a calendar is closed, for due days that the database finds. Derived, like the views.
closed_days = Table(
    "closed_days",
    metadata,
    Column("calendar", Text, primary_key=True),
    Column("day", Date, primary_key=True),
)
