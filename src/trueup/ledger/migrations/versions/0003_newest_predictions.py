"""The newest predictions are listed without sorting a day.

Revision 0003. Building the index of a large ledger blocks booking: migrate while nothing is served.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds an index to every partition, those to come included."""
    op.execute("CREATE INDEX predictions_newest ON ledger.predictions (event_time DESC, prediction_id)")


def downgrade() -> None:
    """Takes it away."""
    op.drop_index("predictions_newest", "predictions", schema="ledger")
