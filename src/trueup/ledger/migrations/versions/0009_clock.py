"""Scheduled work.

Revision 0009.
"""

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Makes the tables."""


def downgrade() -> None:
    """Takes them away."""
