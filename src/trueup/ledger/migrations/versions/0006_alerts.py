"""Alert rules, instances, transitions, groups, silences.

Revision 0006.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("now()")


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "alert_rules",
        sa.Column("rule", sa.Text(), primary_key=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("front", postgresql.JSONB(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("evaluated_due", MOMENT),
        sa.Column("changed_at", MOMENT, nullable=False, server_default=NOW),
        sa.CheckConstraint("state IN ('active', 'quarantined', 'retired')", name="alert_rules_state"),
        sa.CheckConstraint("(state = 'quarantined') = (reason IS NOT NULL)", name="alert_rules_reason"),
        schema="ledger",
    )
    op.create_table(
        "alert_instances",
        sa.Column("fingerprint", sa.Text(), primary_key=True),
        sa.Column("rule", sa.Text(), sa.ForeignKey("ledger.alert_rules.rule"), nullable=False),
        sa.Column("labels", postgresql.JSONB(), nullable=False),
        sa.Column("annotations", postgresql.JSONB(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("active_at", MOMENT, nullable=False),
        sa.Column("fired_at", MOMENT),
        sa.Column("keep_firing_since", MOMENT),
        sa.Column("resolved_at", MOMENT),
        sa.Column("acknowledged_at", MOMENT),
        sa.Column("acknowledged_by", sa.Text()),
        sa.Column("assigned_to", sa.Text()),
        sa.Column("escalate_at", MOMENT),
        sa.CheckConstraint("state IN ('inactive', 'pending', 'firing')", name="alert_instances_state"),
        sa.CheckConstraint("(state = 'pending') = (fired_at IS NULL)", name="alert_instances_fired"),
        sa.CheckConstraint("(state = 'inactive') = (resolved_at IS NOT NULL)", name="alert_instances_resolved"),
        sa.CheckConstraint(
            "(acknowledged_at IS NULL) = (acknowledged_by IS NULL)", name="alert_instances_acknowledged"
        ),
        schema="ledger",
    )
    op.create_index("alert_instances_rule", "alert_instances", ["rule"], schema="ledger")
    op.create_index(
        "alert_instances_escalate",
        "alert_instances",
        ["escalate_at"],
        schema="ledger",
        postgresql_where=sa.text("escalate_at IS NOT NULL"),
    )
    op.create_table(
        "alert_evaluations",
        sa.Column("evaluation_id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("rule", sa.Text(), sa.ForeignKey("ledger.alert_rules.rule"), nullable=False),
        sa.Column("due", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("rows", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.UniqueConstraint("rule", "due", name="alert_evaluations_once"),
        sa.CheckConstraint("(rows IS NULL) = (error IS NOT NULL)", name="alert_evaluations_outcome"),
        schema="ledger",
    )
    op.create_index("alert_evaluations_due", "alert_evaluations", ["due"], schema="ledger")
    op.create_table(
        "alert_transitions",
        sa.Column("transition_id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("rule", sa.Text(), sa.ForeignKey("ledger.alert_rules.rule"), nullable=False),
        sa.Column("evaluation_id", sa.BigInteger(), sa.ForeignKey("ledger.alert_evaluations.evaluation_id")),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("labels", postgresql.JSONB(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "before IN ('inactive', 'pending', 'firing') AND after IN ('inactive', 'pending', 'firing')",
            name="alert_transitions_states",
        ),
        sa.CheckConstraint("before <> after", name="alert_transitions_moved"),
        schema="ledger",
    )
    op.create_index("alert_transitions_of", "alert_transitions", ["fingerprint", "transition_id"], schema="ledger")
    op.create_index("alert_transitions_evaluation", "alert_transitions", ["evaluation_id"], schema="ledger")
    op.create_table(
        "alert_groups",
        sa.Column("group_key", sa.Text(), primary_key=True),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("labels", postgresql.JSONB(), nullable=False),
        sa.Column("next_at", MOMENT),
        sa.Column("has_looked", sa.Boolean(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("told_at", MOMENT),
        sa.Column("firing", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("resolved", sa.ARRAY(sa.Text()), nullable=False),
        sa.CheckConstraint("(sequence = 0) = (told_at IS NULL)", name="alert_groups_told"),
        schema="ledger",
    )
    op.create_index(
        "alert_groups_next",
        "alert_groups",
        ["next_at"],
        schema="ledger",
        postgresql_where=sa.text("next_at IS NOT NULL"),
    )
    op.create_table(
        "alert_group_members",
        sa.Column("group_key", sa.Text(), sa.ForeignKey("ledger.alert_groups.group_key"), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("labels", postgresql.JSONB(), nullable=False),
        sa.Column("annotations", postgresql.JSONB(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("starts_at", MOMENT, nullable=False),
        sa.Column("ends_at", MOMENT),
        sa.Column("mute", sa.ARRAY(sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("group_key", "fingerprint"),
        sa.CheckConstraint("ends_at >= starts_at", name="alert_group_members_end"),
        schema="ledger",
    )
    op.create_index("alert_group_members_of", "alert_group_members", ["fingerprint"], schema="ledger")
    op.create_table(
        "silences",
        sa.Column("silence_id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("matchers", postgresql.JSONB(), nullable=False),
        sa.Column("starts_at", MOMENT, nullable=False),
        sa.Column("ends_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.CheckConstraint("ends_at >= starts_at", name="silences_end"),
        sa.CheckConstraint("comment <> ''", name="silences_comment"),
        schema="ledger",
    )
    op.create_index("silences_ends", "silences", ["ends_at"], schema="ledger")
    for table in ("batches", "refusals"):
        op.create_index(f"{table}_booked", table, ["booked_at"], schema="ledger", postgresql_using="brin")


def downgrade() -> None:
    """Takes them away."""
    for table in ("batches", "refusals"):
        op.drop_index(f"{table}_booked", table, schema="ledger")
    for table in (
        "silences",
        "alert_group_members",
        "alert_groups",
        "alert_transitions",
        "alert_evaluations",
        "alert_instances",
        "alert_rules",
    ):
        op.drop_table(table, schema="ledger")
