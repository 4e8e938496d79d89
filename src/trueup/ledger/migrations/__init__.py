"""Alembic migrations of the ledger's tables. ``HEAD`` names the last one."""

HEAD = "0013"
