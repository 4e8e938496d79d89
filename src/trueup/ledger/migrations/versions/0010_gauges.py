"""What processes say of themselves; the latest batch of a deployment.

Revision 0010.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Makes the table, and an index by which a deployment's latest batch is found at once."""
    op.create_table(
        "gauges",
        sa.Column("gauge_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", postgresql.JSONB(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("reported_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("gauge_id"),
        sa.CheckConstraint("value = value AND abs(value) < 'Infinity'", name="gauges_number"),
        schema="ledger",
    )
    op.create_index("gauges_reported", "gauges", ["name", "reported_at"], schema="ledger")
    op.create_index("batches_of_deployment", "batches", ["deployment_id", "batch_id"], schema="ledger")


def downgrade() -> None:
    """Takes them away."""
    op.drop_index("batches_of_deployment", "batches", schema="ledger")
    op.drop_table("gauges", schema="ledger")
