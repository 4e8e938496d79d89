"""The newest outcome of an event day is found without reading the day's others.

Revision 0012.
"""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Makes the index. A block range index would not do: whoever asks what is known now asks for all blocks."""
    op.create_index("outcomes_changed", "outcomes", ["contract_name", "event_day", "recorded_at"], schema="ledger")


def downgrade() -> None:
    """Takes it away."""
    op.drop_index("outcomes_changed", "outcomes", schema="ledger")
