"""What processes say of themselves."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Double, Identity, Index, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from trueup.ledger.tables.common import NOW, Moment, metadata

gauges = Table(
    "gauges",
    metadata,
    Column("gauge_id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("value", Double, nullable=False),
    Column("reported_at", Moment, nullable=False, server_default=NOW),
    # A number that is none would be above and below every threshold.
    CheckConstraint("value = value AND abs(value) < 'Infinity'", name="gauges_number"),
)
Index("gauges_reported", gauges.c.name, gauges.c.reported_at)
