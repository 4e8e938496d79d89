"""Streams: positions, what each commit read, replies that are owed, and dead letters.

Revision 0003.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("now()")
REASONS = "'contract', 'failed', 'timed_out', 'overloaded', 'request', 'conflict'"


def _place() -> list[sa.Column[Any]]:
    return [
        sa.Column("deployment_id", sa.Integer(), sa.ForeignKey("ledger.deployments.deployment_id"), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
    ]


def upgrade() -> None:
    """Makes the tables, and lets refusals say what only streams meet."""
    op.create_table(
        "positions",
        *_place(),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("moved_at", MOMENT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("deployment_id", "cluster", "topic", "partition"),
        sa.CheckConstraint("next_offset >= 0", name="positions_offset"),
        schema="ledger",
    )
    op.create_table(
        "reads",
        sa.Column("read_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        *_place(),
        sa.Column("first_offset", sa.BigInteger(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("tombstones", sa.Integer(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("answered", sa.Integer(), nullable=False),
        sa.Column("repeated", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=True),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("booked_at", MOMENT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("read_id"),
        sa.CheckConstraint("next_offset > first_offset AND records > 0", name="reads_not_empty"),
        sa.CheckConstraint("instances = answered + repeated + refused", name="reads_reconcile"),
        schema="ledger",
    )
    op.create_index("reads_received", "reads", ["received_at"], schema="ledger", postgresql_using="brin")
    op.create_index(
        "reads_of_partition",
        "reads",
        ["deployment_id", "cluster", "topic", "partition", "read_id"],
        schema="ledger",
    )
    op.create_table(
        "owed_replies",
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        *_place(),
        sa.Column("first_day", sa.Date(), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False),
        sa.Column("booked_at", MOMENT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("batch_id"),
        schema="ledger",
    )
    op.create_table(
        "dead_letters",
        sa.Column("letter_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        *_place(),
        sa.Column("record_offset", sa.BigInteger(), nullable=False),
        sa.Column("places", postgresql.ARRAY(sa.Integer()), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("headers", postgresql.JSONB(), nullable=False),
        sa.Column("appended_at", MOMENT, nullable=True),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("booked_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("relayed_at", MOMENT, nullable=True),
        sa.Column("replayed_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("letter_id"),
        sa.UniqueConstraint(
            "deployment_id", "cluster", "topic", "partition", "record_offset", name="dead_letters_once"
        ),
        schema="ledger",
    )
    op.create_index(
        "dead_letters_unrelayed",
        "dead_letters",
        ["deployment_id", "letter_id"],
        schema="ledger",
        postgresql_where=sa.text("relayed_at IS NULL"),
    )
    op.create_index("predictions_batch", "predictions", ["batch_id"], schema="ledger", postgresql_using="brin")
    op.drop_constraint("refusals_reason", "refusals", schema="ledger")
    op.create_check_constraint(
        "refusals_reason", "refusals", f"reason IN ({REASONS}, 'undecodable', 'too_large')", schema="ledger"
    )


def downgrade() -> None:
    """Takes them away. Refusals of undecodable and too large records become refusals by the contract."""
    op.execute("UPDATE ledger.refusals SET reason = 'contract' WHERE reason IN ('undecodable', 'too_large')")
    op.drop_constraint("refusals_reason", "refusals", schema="ledger")
    op.create_check_constraint("refusals_reason", "refusals", f"reason IN ({REASONS})", schema="ledger")
    op.drop_index("predictions_batch", "predictions", schema="ledger")
    for table in ("dead_letters", "owed_replies", "reads", "positions"):
        op.drop_table(table, schema="ledger")
