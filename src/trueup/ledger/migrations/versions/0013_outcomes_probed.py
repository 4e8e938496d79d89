"""An index of outcomes that cannot be taken for the primary key.

Revision 0013.
"""

from alembic import op
from sqlalchemy import text

revision = "0013"
down_revision = "0012"
_MAKE = "CREATE INDEX outcomes_changed ON ledger.outcomes"


def upgrade() -> None:
    """Makes it again over an expression. Where the day's statistics were missing, as each morning, the planner took the
    old one to find a single item: every outcome recorded then read all others of its day."""
    op.drop_index("outcomes_changed", "outcomes", schema="ledger")
    op.execute(text(f"{_MAKE} ((event_day + 0), contract_name, recorded_at)"))


def downgrade() -> None:
    """Makes the one before."""
    op.drop_index("outcomes_changed", "outcomes", schema="ledger")
    op.execute(text(f"{_MAKE} (contract_name, event_day, recorded_at)"))
