"""The outbox of messages.

Revision 0007.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("now()")


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "messages",
        sa.Column("message_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("ordering", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("html", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("added_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'waiting'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("lease", sa.Uuid(), nullable=True),
        sa.Column("leased_until", MOMENT, nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("message_id"),
        sa.UniqueConstraint("key", name="messages_once"),
        sa.CheckConstraint("state IN ('waiting', 'sent', 'given_up')", name="messages_state"),
        sa.CheckConstraint("(state = 'waiting') = (ended_at IS NULL)", name="messages_ended"),
        sa.CheckConstraint(
            "(lease IS NULL) = (leased_until IS NULL) AND (lease IS NULL OR state = 'waiting')", name="messages_lease"
        ),
        sa.CheckConstraint("attempts >= 0", name="messages_attempts"),
        schema="ledger",
    )
    for name, columns, where in (
        ("messages_waiting", ["receiver", "due_at", "message_id"], "state = 'waiting'"),
        ("messages_leased", ["receiver", "leased_until"], "lease IS NOT NULL"),
        ("messages_in_order", ["receiver", "ordering", "message_id"], "state = 'waiting' AND ordering <> ''"),
        ("messages_ended_at", ["ended_at"], "state <> 'waiting'"),
    ):
        op.create_index(name, "messages", columns, schema="ledger", postgresql_where=sa.text(where))
    op.create_table(
        "message_attachments",
        sa.Column(
            "message_id",
            sa.BigInteger(),
            sa.ForeignKey("ledger.messages.message_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "place"),
        schema="ledger",
    )


def downgrade() -> None:
    """Takes them away."""
    op.drop_table("message_attachments", schema="ledger")
    op.drop_table("messages", schema="ledger")
