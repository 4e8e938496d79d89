"""The newest events of a day are found without sorting the day.

Revision 0011.
"""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Makes a block range index of event times, which costs booking next to nothing."""
    op.create_index(
        "predictions_event_time",
        "predictions",
        ["event_time"],
        schema="ledger",
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )


def downgrade() -> None:
    """Takes it away."""
    op.drop_index("predictions_event_time", "predictions", schema="ledger")
