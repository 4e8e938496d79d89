"""Frozen references, counts that grow, and measurements that are only added."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    Double,
    ForeignKey,
    Identity,
    Integer,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import INT8MULTIRANGE, JSONB

from trueup.ledger.tables.common import NOW, Moment, metadata
from trueup.ledger.tables.predictions import deployments, model_versions

WINDOWS = "'day', 'week', 'half-month', 'month'"
KNOWN_BY = "'recorded', 'observed'"


def _version() -> list[Column[Any]]:
    """A model version within a deployment."""
    return [
        Column("deployment_id", Integer, ForeignKey(deployments.c.deployment_id), primary_key=True),
        Column("model_version_id", Integer, ForeignKey(model_versions.c.model_version_id), primary_key=True),
    ]


def _counted() -> list[Column[Any]]:
    return [
        Column("counts", ARRAY(BigInteger), nullable=False),
        Column("n", BigInteger, nullable=False),
        Column("missing", BigInteger, nullable=False),
        Column("lowest", Double),
        Column("highest", Double),
    ]


profiles = Table(
    "profiles",
    metadata,
    *_version(),
    Column("field", Text, primary_key=True),
    Column("slice", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("body", JSONB, nullable=False),
    *_counted(),
    Column("reference", Text, nullable=False),
    Column("reference_first", Date),
    Column("reference_last", Date),
    Column("made_at", Moment, nullable=False, server_default=NOW),
    CheckConstraint("kind IN ('numeric', 'category')", name="profiles_kind"),
    # A reference of predictions is of event days, one that was handed over is of none.
    CheckConstraint("(reference_first IS NULL) = (reference_last IS NULL)", name="profiles_days"),
    # Every row of the reference is in one bin or missing.
    CheckConstraint("n >= missing AND missing >= 0", name="profiles_count"),
)

profile_counts = Table(
    "profile_counts",
    metadata,
    *_version(),
    Column("role", Text, primary_key=True),
    Column("event_day", Date, primary_key=True),
    Column("field", Text, primary_key=True),
    Column("slice", Text, primary_key=True),
    *_counted(),
    Column("out_of_range", BigInteger, nullable=False),
    Column("unseen", BigInteger, nullable=False),
    Column("late", BigInteger, nullable=False),
    Column("counted_at", Moment, nullable=False),
    CheckConstraint("role IN ('champion', 'challenger', 'shadow')", name="profile_counts_role"),
    # What lies in no bin is missing.
    CheckConstraint("n >= missing + out_of_range AND n >= unseen AND n >= late", name="profile_counts_count"),
)

profile_progress = Table(
    "profile_progress",
    metadata,
    *_version(),
    Column("upto", BigInteger, nullable=False),
    Column("absent", INT8MULTIRANGE, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("counted_at", Moment, nullable=False),
    CheckConstraint("upto >= 0 AND rows >= 0", name="profile_progress_upto"),
)

measurement_runs = Table(
    "measurement_runs",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), primary_key=True),
    Column("deployment_id", Integer, ForeignKey(deployments.c.deployment_id), nullable=False),
    Column("window_kind", Text, nullable=False),
    Column("window_first", Date, nullable=False),
    Column("window_last", Date, nullable=False),
    Column("known_at", Moment, nullable=False),
    Column("known_by", Text, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("rows_read", BigInteger, nullable=False),
    Column("measurements", Integer, nullable=False),
    Column("error", Text),
    CheckConstraint(f"window_kind IN ({WINDOWS})", name="measurement_runs_window"),
    CheckConstraint(f"known_by IN ({KNOWN_BY})", name="measurement_runs_known_by"),
    # What failed has measured nothing.
    CheckConstraint("error IS NULL OR measurements = 0", name="measurement_runs_error"),
)

measurements = Table(
    "measurements",
    metadata,
    Column("measurement_id", BigInteger, Identity(always=True), primary_key=True),
    Column("run_id", BigInteger, ForeignKey(measurement_runs.c.run_id), nullable=False),
    Column("deployment_id", Integer, ForeignKey(deployments.c.deployment_id), nullable=False),
    Column("model_version_id", Integer, ForeignKey(model_versions.c.model_version_id), nullable=False),
    Column("role", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("field", Text, nullable=False),
    Column("slice", Text, nullable=False),
    Column("window_kind", Text, nullable=False),
    Column("window_first", Date, nullable=False),
    Column("window_last", Date, nullable=False),
    Column("known_at", Moment, nullable=False),
    Column("known_by", Text, nullable=False),
    Column("value", Double),
    Column("low", Double),
    Column("high", Double),
    Column("n", BigInteger, nullable=False),
    Column("reference_n", BigInteger),
    Column("critical", Double),
    Column("p_value", Double),
    Column("q_value", Double),
    Column("floor", Double),
    Column("verdict", Text),
    Column("maturity", Double),
    Column("computed_at", Moment, nullable=False, server_default=NOW),
    CheckConstraint("role IN ('champion', 'challenger', 'shadow')", name="measurements_role"),
    CheckConstraint(f"window_kind IN ({WINDOWS})", name="measurements_window_kind"),
    CheckConstraint("window_first <= window_last", name="measurements_window"),
    CheckConstraint(f"known_by IN ({KNOWN_BY})", name="measurements_known_by"),
    CheckConstraint("verdict IN ('ok', 'drift', 'breach', 'provisional', 'insufficient')", name="measurements_verdict"),
    # The same window measured with the same knowledge is one figure, whoever computes it and however often.
    UniqueConstraint(
        *("deployment_id", "window_kind", "window_first", "model_version_id", "role", "metric", "field", "slice"),
        *("known_by", "known_at"),
        name="measurements_once",
    ),
)
