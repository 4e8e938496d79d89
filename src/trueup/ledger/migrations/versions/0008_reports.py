"""Runs of reports.

Revision 0008.
"""

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Makes the tables."""


def downgrade() -> None:
    """Takes them away."""
