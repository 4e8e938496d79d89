"""Profiles and measurements.

Revision 0005.
"""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Makes the tables."""


def downgrade() -> None:
    """Takes them away."""
