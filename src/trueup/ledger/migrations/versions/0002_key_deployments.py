"""API keys that are limited to named deployments.

Revision 0002. Keys made before reach all deployments, as they did.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the column and its check."""
    op.add_column("api_keys", sa.Column("deployments", postgresql.ARRAY(sa.Text()), nullable=True), schema="ledger")
    op.create_check_constraint(
        "api_keys_deployments",
        "api_keys",
        "deployments IS NULL OR (cardinality(deployments) > 0 AND role <> 'admin')",
        schema="ledger",
    )


def downgrade() -> None:
    """Revokes every limited key, which would else reach everything, and takes the column away."""
    op.execute("UPDATE ledger.api_keys SET revoked_at = now() WHERE deployments IS NOT NULL AND revoked_at IS NULL")
    op.drop_constraint("api_keys_deployments", "api_keys", schema="ledger")
    op.drop_column("api_keys", "deployments", schema="ledger")
