"""Who may call, and who changed what."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    Identity,
    LargeBinary,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from trueup.ledger.tables.common import NOW, Moment, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("key_hash", LargeBinary, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("revoked_at", Moment),
    Column("deployments", ARRAY(Text)),  # null: all
    CheckConstraint("role IN ('reader', 'scorer', 'operator', 'admin')", name="api_keys_role"),
    CheckConstraint("octet_length(key_hash) = 32", name="api_keys_hash"),
    # A key that is limited is limited to something, and an admin could lift any limit.
    CheckConstraint(
        "deployments IS NULL OR (cardinality(deployments) > 0 AND role <> 'admin')", name="api_keys_deployments"
    ),
)

audit = Table(
    "audit",
    metadata,
    Column("audit_id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", Moment, nullable=False, server_default=NOW),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", JSONB, nullable=False),
)
