"""The outbox of messages.

Revision 0007.
"""

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Makes the tables."""


def downgrade() -> None:
    """Takes them away."""
