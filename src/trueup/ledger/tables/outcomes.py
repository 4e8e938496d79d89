"""What really happened."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Date,
    Double,
    Integer,
    Table,
    Text,
)

from trueup.ledger.tables.common import NOW, Moment, metadata

outcomes = Table(
    "outcomes",
    metadata,
    Column("contract_name", Text, primary_key=True),
    Column("label", Text, primary_key=True),
    Column("business_key", Text, primary_key=True),
    Column("event_day", Date, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("value_number", Double),
    Column("value_text", Text),
    Column("source", Text, nullable=False),
    Column("observed_at", Moment, nullable=False),
    Column("recorded_at", Moment, nullable=False, server_default=NOW),
    # An outcome is one value, a number or a text.
    CheckConstraint("num_nonnulls(value_number, value_text) = 1", name="outcomes_one_value"),
    CheckConstraint("revision >= 1", name="outcomes_revision"),
)
