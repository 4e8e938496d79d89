"""Runs of reports.

Revision 0008.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"

MOMENT = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "report_runs",
        sa.Column("run_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("file_digest", sa.Text(), nullable=False),
        sa.Column("query_digests", postgresql.JSONB(), nullable=False),
        sa.Column("parameters", postgresql.JSONB(), nullable=False),
        sa.Column("as_known_at", MOMENT, nullable=False),
        sa.Column("known_by", sa.Text(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("due_at", MOMENT, nullable=True),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("row_counts", postgresql.JSONB(), nullable=False),
        sa.Column("is_cut", sa.Boolean(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("recorded_at", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("run_id"),
        sa.CheckConstraint("(error IS NULL) = (body IS NOT NULL)", name="report_runs_ended"),
        sa.CheckConstraint("known_by IN ('recorded', 'observed')", name="report_runs_known_by"),
        sa.CheckConstraint("duration_ms >= 0", name="report_runs_duration"),
        sa.CheckConstraint("file_digest ~ '^[0-9a-f]{64}$'", name="report_runs_digest"),
        schema="ledger",
    )
    op.create_index(
        "report_runs_once",
        "report_runs",
        ["name", "due_at"],
        unique=True,
        schema="ledger",
        postgresql_where=sa.text("due_at IS NOT NULL AND error IS NULL"),
    )
    op.create_index("report_runs_of_report", "report_runs", ["name", "run_id"], schema="ledger")


def downgrade() -> None:
    """Takes it away."""
    op.drop_table("report_runs", schema="ledger")
