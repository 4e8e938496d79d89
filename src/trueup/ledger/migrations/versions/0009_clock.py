"""Scheduled work: jobs and what became of each due moment.

The queue's own tables are no part of this: `trueup work` makes them in schema `clock` (docs/explanation/clock.md).

Revision 0009.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("now()")


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "clock_jobs",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("missed", sa.Text(), nullable=False),
        sa.Column("declared_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("holds_until", MOMENT, server_default=NOW, nullable=False),
        sa.Column("next_due", MOMENT, nullable=True),
        sa.Column("late_at", MOMENT, nullable=True),
        sa.Column("retired_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("name", "subject"),
        sa.CheckConstraint("missed IN ('skip', 'latest', 'all')", name="clock_jobs_missed"),
        sa.CheckConstraint("(next_due IS NULL) = (late_at IS NULL)", name="clock_jobs_late"),
        schema="ledger",
    )
    op.create_table(
        "clock_runs",
        sa.Column("run_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("due", MOMENT, nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("planned_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.Column("duration_s", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("said", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("overran", MOMENT, nullable=True),
        sa.Column("asked_by", sa.Text(), nullable=True),
        sa.Column("queue_entry", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("run_id"),
        sa.UniqueConstraint("name", "subject", "due", name="clock_runs_once"),
        sa.ForeignKeyConstraint(["name", "subject"], ["ledger.clock_jobs.name", "ledger.clock_jobs.subject"]),
        sa.CheckConstraint("outcome IN ('queued', 'running', 'ok', 'failed', 'missed')", name="clock_runs_outcome"),
        sa.CheckConstraint("(finished_at IS NULL) = (outcome IN ('queued', 'running'))", name="clock_runs_ended"),
        sa.CheckConstraint("outcome IN ('queued', 'missed') OR started_at IS NOT NULL", name="clock_runs_started"),
        sa.CheckConstraint("outcome <> 'failed' OR error IS NOT NULL", name="clock_runs_error"),
        schema="ledger",
    )
    op.create_index(
        "clock_runs_open",
        "clock_runs",
        ["name", "subject"],
        unique=True,
        schema="ledger",
        postgresql_where=sa.text("outcome IN ('queued', 'running')"),
    )
    op.create_index("clock_runs_finished", "clock_runs", ["finished_at"], schema="ledger")


def downgrade() -> None:
    """Takes them away, and the queue with them: it holds nothing that they do not say."""
    op.execute("DROP SCHEMA IF EXISTS clock CASCADE")
    op.execute("DROP FUNCTION IF EXISTS ledger.forget_runs(timestamptz, integer)")
    op.drop_table("clock_runs", schema="ledger")
    op.drop_table("clock_jobs", schema="ledger")
