"""Scheduled work: which jobs there are, and what became of each due moment."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from trueup.ledger.tables.common import NOW, Moment, metadata

clock_jobs = Table(
    "clock_jobs",
    metadata,
    Column("name", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("schedule", Text, nullable=False),
    Column("missed", Text, nullable=False),
    Column("declared_at", Moment, nullable=False, server_default=NOW),
    Column("holds_until", Moment, nullable=False, server_default=NOW),  # then it may retire, unless it is renewed
    Column("next_due", Moment),  # null: its schedule cannot be read
    Column("late_at", Moment),  # the moment at which three periods have passed without a run
    Column("retired_at", Moment),  # null: some worker declares it
    PrimaryKeyConstraint("name", "subject"),
    CheckConstraint("missed IN ('skip', 'latest', 'all')", name="clock_jobs_missed"),
    # A job that is due at some time is late at some time.
    CheckConstraint("(next_due IS NULL) = (late_at IS NULL)", name="clock_jobs_late"),
)

clock_runs = Table(
    "clock_runs",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("due", Moment, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("planned_at", Moment, nullable=False, server_default=NOW),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("duration_s", Double),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("worker", Text),
    Column("said", Text),
    Column("error", Text),
    Column("overran", Moment),  # when it had run for longer than is allowed
    Column("asked_by", Text),  # null: the clock
    Column("queue_entry", BigInteger),
    # One due moment of one job is one run, whoever plans it.
    UniqueConstraint("name", "subject", "due", name="clock_runs_once"),
    ForeignKeyConstraint(["name", "subject"], ["ledger.clock_jobs.name", "ledger.clock_jobs.subject"]),
    CheckConstraint("outcome IN ('queued', 'running', 'ok', 'failed', 'missed')", name="clock_runs_outcome"),
    # What has ended has an end, and what has not has none.
    CheckConstraint("(finished_at IS NULL) = (outcome IN ('queued', 'running'))", name="clock_runs_ended"),
    # Nothing runs, or has run, that never started.
    CheckConstraint("outcome IN ('queued', 'missed') OR started_at IS NOT NULL", name="clock_runs_started"),
    # A failure says of what kind.
    CheckConstraint("outcome <> 'failed' OR error IS NOT NULL", name="clock_runs_error"),
)
# Runs of one job never overlap: at most one is open.
Index(
    "clock_runs_open",
    clock_runs.c.name,
    clock_runs.c.subject,
    unique=True,
    postgresql_where=text("outcome IN ('queued', 'running')"),
)
# What is forgotten after a time.
Index("clock_runs_finished", clock_runs.c.finished_at)
