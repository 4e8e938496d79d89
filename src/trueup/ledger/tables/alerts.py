"""Alert rules, their instances and every transition; groups that are told of, and silences."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from trueup.ledger.tables.common import NOW, Moment, metadata

alert_rules = Table(
    "alert_rules",
    metadata,
    Column("rule", Text, primary_key=True),  # the file's name
    Column("digest", Text, nullable=False),
    Column("front", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("evaluated_due", Moment),
    Column("changed_at", Moment, nullable=False, server_default=NOW),
    CheckConstraint("state IN ('active', 'quarantined', 'retired')", name="alert_rules_state"),
    # Who is quarantined is told why, and nobody else is accused.
    CheckConstraint("(state = 'quarantined') = (reason IS NOT NULL)", name="alert_rules_reason"),
)

alert_instances = Table(
    "alert_instances",
    metadata,
    Column("fingerprint", Text, primary_key=True),
    Column("rule", Text, ForeignKey(alert_rules.c.rule), nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("annotations", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("value", Double),
    Column("active_at", Moment, nullable=False),
    Column("fired_at", Moment),
    Column("keep_firing_since", Moment),
    Column("resolved_at", Moment),
    Column("acknowledged_at", Moment),
    Column("acknowledged_by", Text),
    Column("assigned_to", Text),
    Column("escalate_at", Moment),
    CheckConstraint("state IN ('inactive', 'pending', 'firing')", name="alert_instances_state"),
    # What waits has not fired, and what fires or has fired did so at a moment.
    CheckConstraint("(state = 'pending') = (fired_at IS NULL)", name="alert_instances_fired"),
    # Only what has ended has an end.
    CheckConstraint("(state = 'inactive') = (resolved_at IS NOT NULL)", name="alert_instances_resolved"),
    # An acknowledgement is somebody's.
    CheckConstraint("(acknowledged_at IS NULL) = (acknowledged_by IS NULL)", name="alert_instances_acknowledged"),
)
Index("alert_instances_rule", alert_instances.c.rule)
Index(
    "alert_instances_escalate",
    alert_instances.c.escalate_at,
    postgresql_where=text("escalate_at IS NOT NULL"),
)

alert_evaluations = Table(
    "alert_evaluations",
    metadata,
    Column("evaluation_id", BigInteger, Identity(always=True), primary_key=True),
    Column("rule", Text, ForeignKey(alert_rules.c.rule), nullable=False),
    Column("due", Moment, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("rows", Integer),
    Column("error", Text),
    # A moment is evaluated once, whoever is asked to.
    UniqueConstraint("rule", "due", name="alert_evaluations_once"),
    # An evaluation has rows or an error, never both.
    CheckConstraint("(rows IS NULL) = (error IS NOT NULL)", name="alert_evaluations_outcome"),
)
Index("alert_evaluations_due", alert_evaluations.c.due)

alert_transitions = Table(
    "alert_transitions",
    metadata,
    Column("transition_id", BigInteger, Identity(always=True), primary_key=True),
    Column("rule", Text, ForeignKey(alert_rules.c.rule), nullable=False),
    Column("evaluation_id", BigInteger, ForeignKey(alert_evaluations.c.evaluation_id)),  # null: the rule is gone
    Column("fingerprint", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("value", Double),
    Column("reason", Text, nullable=False),
    CheckConstraint(
        "before IN ('inactive', 'pending', 'firing') AND after IN ('inactive', 'pending', 'firing')",
        name="alert_transitions_states",
    ),
    # What stays where it is has made no transition.
    CheckConstraint("before <> after", name="alert_transitions_moved"),
)
Index("alert_transitions_of", alert_transitions.c.fingerprint, alert_transitions.c.transition_id)
Index("alert_transitions_evaluation", alert_transitions.c.evaluation_id)

alert_groups = Table(
    "alert_groups",
    metadata,
    Column("group_key", Text, primary_key=True),
    Column("receiver", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("next_at", Moment),  # null: it rests
    Column("has_looked", Boolean, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("told_at", Moment),
    Column("firing", ARRAY(Text), nullable=False),
    Column("resolved", ARRAY(Text), nullable=False),
    # Who has told something did so at a moment.
    CheckConstraint("(sequence = 0) = (told_at IS NULL)", name="alert_groups_told"),
)
Index("alert_groups_next", alert_groups.c.next_at, postgresql_where=text("next_at IS NOT NULL"))

alert_group_members = Table(
    "alert_group_members",
    metadata,
    Column("group_key", Text, ForeignKey(alert_groups.c.group_key), nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("annotations", JSONB, nullable=False),
    Column("value", Double),
    Column("starts_at", Moment, nullable=False),
    Column("ends_at", Moment),
    Column("mute", ARRAY(Text), nullable=False),
    PrimaryKeyConstraint("group_key", "fingerprint"),
    # Nothing ends before it starts.
    CheckConstraint("ends_at >= starts_at", name="alert_group_members_end"),
)
Index("alert_group_members_of", alert_group_members.c.fingerprint)

silences = Table(
    "silences",
    metadata,
    Column("silence_id", BigInteger, Identity(always=True), primary_key=True),
    Column("matchers", JSONB, nullable=False),
    Column("starts_at", Moment, nullable=False),
    Column("ends_at", Moment, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    # A silence ends; one that was lifted before it began ends where it begins.
    CheckConstraint("ends_at >= starts_at", name="silences_end"),
    # Somebody is told why.
    CheckConstraint("comment <> ''", name="silences_comment"),
)
Index("silences_ends", silences.c.ends_at)
