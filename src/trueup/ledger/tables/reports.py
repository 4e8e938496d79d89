"""Runs of reports, each with the figures it had."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from trueup.ledger.tables.common import NOW, Moment, metadata

report_runs = Table(
    "report_runs",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("file_digest", Text, nullable=False),
    Column("query_digests", JSONB, nullable=False),
    Column("parameters", JSONB, nullable=False),
    Column("as_known_at", Moment, nullable=False),
    Column("known_by", Text, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("due_at", Moment),  # null: somebody asked
    Column("started_at", Moment, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("row_counts", JSONB, nullable=False),
    Column("is_cut", Boolean, nullable=False),
    Column("error", Text),
    Column("body", LargeBinary),  # compressed JSON: the figures, and how they are shown
    Column("recorded_at", Moment, nullable=False, server_default=NOW),
    # A run has figures or the reason why it has none.
    CheckConstraint("(error IS NULL) = (body IS NOT NULL)", name="report_runs_ended"),
    # Knowledge is what was recorded, or what was observed.
    CheckConstraint("known_by IN ('recorded', 'observed')", name="report_runs_known_by"),
    # Nothing ends before it began.
    CheckConstraint("duration_ms >= 0", name="report_runs_duration"),
    # A digest is a SHA-256 in hexadecimal.
    CheckConstraint("file_digest ~ '^[0-9a-f]{64}$'", name="report_runs_digest"),
)
# A due moment has one run with figures, however often its work is begun.
Index(
    "report_runs_once",
    report_runs.c.name,
    report_runs.c.due_at,
    unique=True,
    postgresql_where=text("due_at IS NOT NULL AND error IS NULL"),
)
Index("report_runs_of_report", report_runs.c.name, report_runs.c.run_id)
