"""Outcomes of several labels, retracted and censored ones, and what was done about an item.

Revision 0004.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("now()")


def upgrade() -> None:
    """Makes the tables, and lets an outcome say that there is none."""
    op.execute("DROP VIEW IF EXISTS ledger.contract_labels")  # schema trueup has it, with more in it
    _states()
    _pulls()
    op.create_table(
        "actions",
        sa.Column("action_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("deployment_id", sa.Integer(), sa.ForeignKey("ledger.deployments.deployment_id"), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("contract_name", sa.Text(), nullable=False),
        sa.Column("business_key", sa.Text(), nullable=False),
        sa.Column("event_day", sa.Date(), nullable=False),
        sa.Column("prediction_id", postgresql.UUID(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("is_treatment", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("recorded_by", sa.Text(), nullable=False),
        sa.Column("acted_at", MOMENT, nullable=False),
        sa.Column("recorded_at", MOMENT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("action_id"),
        sa.UniqueConstraint("deployment_id", "key", name="actions_once"),
        sa.CheckConstraint("key <> '' AND action <> '' AND actor <> ''", name="actions_said"),
        schema="ledger",
    )
    op.create_index("actions_of_item", "actions", ["business_key", "event_day", "contract_name"], schema="ledger")
    op.create_table(
        "closed_days",
        sa.Column("calendar", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("calendar", "day"),
        schema="ledger",
    )


def _states() -> None:
    op.add_column(
        "outcomes", sa.Column("state", sa.Text(), server_default=sa.text("'known'"), nullable=False), schema="ledger"
    )
    op.create_check_constraint(
        "outcomes_state", "outcomes", "state IN ('known', 'retracted', 'censored')", schema="ledger"
    )
    op.drop_constraint("outcomes_one_value", "outcomes", schema="ledger")
    op.create_check_constraint(
        "outcomes_one_value",
        "outcomes",
        "num_nonnulls(value_number, value_text) = CASE state WHEN 'known' THEN 1 ELSE 0 END",
        schema="ledger",
    )


def _pulls() -> None:
    op.create_table(
        "outcome_pulls",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("since", MOMENT, nullable=True),
        sa.Column("rows_read", sa.BigInteger(), nullable=False),
        sa.Column("rows_refused", sa.BigInteger(), nullable=False),
        sa.Column("moved_at", MOMENT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sa.CheckConstraint("turn >= 1", name="outcome_pulls_turn"),
        sa.CheckConstraint("rows_refused >= 0 AND rows_refused <= rows_read", name="outcome_pulls_rows"),
        schema="ledger",
    )
    op.create_table(
        "outcome_refusals",
        sa.Column("refusal_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("contract_name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("content_digest", sa.LargeBinary(), nullable=False),
        sa.Column("refused_at", MOMENT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("refusal_id"),
        sa.UniqueConstraint("contract_name", "source", "detail", "content_digest", name="outcome_refusals_once"),
        sa.CheckConstraint("octet_length(content_digest) = 16", name="outcome_refusals_digest"),
        schema="ledger",
    )


def downgrade() -> None:
    """Takes them away. Outcomes that were retracted or censored are lost, with what they took back."""
    for table in ("closed_days", "actions", "outcome_refusals", "outcome_pulls"):
        op.drop_table(table, schema="ledger")
    op.execute(
        "DELETE FROM ledger.outcomes o USING ledger.outcomes n WHERE n.state <> 'known'"
        " AND (n.contract_name, n.label, n.business_key, n.event_day)"
        " = (o.contract_name, o.label, o.business_key, o.event_day)"
    )
    op.drop_constraint("outcomes_one_value", "outcomes", schema="ledger")
    op.drop_constraint("outcomes_state", "outcomes", schema="ledger")
    op.drop_column("outcomes", "state", schema="ledger")
    op.create_check_constraint(
        "outcomes_one_value", "outcomes", "num_nonnulls(value_number, value_text) = 1", schema="ledger"
    )
