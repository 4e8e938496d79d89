"""Profiles and measurements.

Revision 0005.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("now()")
ROLES = "role IN ('champion', 'challenger', 'shadow')"
WINDOWS = "window_kind IN ('day', 'week', 'half-month', 'month')"
KNOWN_BY = "known_by IN ('recorded', 'observed')"


def _version() -> list[sa.Column[Any]]:
    return [
        sa.Column("deployment_id", sa.Integer(), sa.ForeignKey("ledger.deployments.deployment_id"), nullable=False),
        sa.Column(
            "model_version_id", sa.Integer(), sa.ForeignKey("ledger.model_versions.model_version_id"), nullable=False
        ),
    ]


def _counted() -> list[sa.Column[Any]]:
    return [
        sa.Column("counts", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("missing", sa.BigInteger(), nullable=False),
        sa.Column("lowest", sa.Double(), nullable=True),
        sa.Column("highest", sa.Double(), nullable=True),
    ]


def _window() -> list[sa.Column[Any]]:
    return [
        sa.Column("window_kind", sa.Text(), nullable=False),
        sa.Column("window_first", sa.Date(), nullable=False),
        sa.Column("window_last", sa.Date(), nullable=False),
        sa.Column("known_at", MOMENT, nullable=False),
        sa.Column("known_by", sa.Text(), nullable=False),
    ]


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "profiles",
        *_version(),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("slice", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", postgresql.JSONB(), nullable=False),
        *_counted(),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("reference_first", sa.Date(), nullable=True),
        sa.Column("reference_last", sa.Date(), nullable=True),
        sa.Column("made_at", MOMENT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("deployment_id", "model_version_id", "field", "slice"),
        sa.CheckConstraint("kind IN ('numeric', 'category')", name="profiles_kind"),
        sa.CheckConstraint("(reference_first IS NULL) = (reference_last IS NULL)", name="profiles_days"),
        sa.CheckConstraint("n >= missing AND missing >= 0", name="profiles_count"),
        schema="ledger",
    )
    op.create_table(
        "profile_counts",
        *_version(),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("event_day", sa.Date(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("slice", sa.Text(), nullable=False),
        *_counted(),
        sa.Column("out_of_range", sa.BigInteger(), nullable=False),
        sa.Column("unseen", sa.BigInteger(), nullable=False),
        sa.Column("late", sa.BigInteger(), nullable=False),
        sa.Column("counted_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("deployment_id", "model_version_id", "role", "event_day", "field", "slice"),
        sa.CheckConstraint(ROLES, name="profile_counts_role"),
        sa.CheckConstraint("n >= missing + out_of_range AND n >= unseen AND n >= late", name="profile_counts_count"),
        schema="ledger",
    )
    op.create_table(
        "profile_progress",
        *_version(),
        sa.Column("upto", sa.BigInteger(), nullable=False),
        sa.Column("absent", postgresql.INT8MULTIRANGE(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("counted_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("deployment_id", "model_version_id"),
        sa.CheckConstraint("upto >= 0 AND rows >= 0", name="profile_progress_upto"),
        schema="ledger",
    )
    op.create_table(
        "measurement_runs",
        sa.Column("run_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("deployment_id", sa.Integer(), sa.ForeignKey("ledger.deployments.deployment_id"), nullable=False),
        *_window(),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("rows_read", sa.BigInteger(), nullable=False),
        sa.Column("measurements", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id"),
        sa.CheckConstraint(WINDOWS, name="measurement_runs_window"),
        sa.CheckConstraint(KNOWN_BY, name="measurement_runs_known_by"),
        sa.CheckConstraint("error IS NULL OR measurements = 0", name="measurement_runs_error"),
        schema="ledger",
    )
    op.create_table(
        "measurements",
        sa.Column("measurement_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_id", sa.BigInteger(), sa.ForeignKey("ledger.measurement_runs.run_id"), nullable=False),
        *_version(),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("slice", sa.Text(), nullable=False),
        *_window(),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("reference_n", sa.BigInteger(), nullable=True),
        sa.Column("critical", sa.Double(), nullable=True),
        sa.Column("p_value", sa.Double(), nullable=True),
        sa.Column("q_value", sa.Double(), nullable=True),
        sa.Column("floor", sa.Double(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("maturity", sa.Double(), nullable=True),
        sa.Column("computed_at", MOMENT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("measurement_id"),
        sa.CheckConstraint(ROLES, name="measurements_role"),
        sa.CheckConstraint(WINDOWS, name="measurements_window_kind"),
        sa.CheckConstraint("window_first <= window_last", name="measurements_window"),
        sa.CheckConstraint(KNOWN_BY, name="measurements_known_by"),
        sa.CheckConstraint(
            "verdict IN ('ok', 'drift', 'breach', 'provisional', 'insufficient')", name="measurements_verdict"
        ),
        sa.UniqueConstraint(
            *("deployment_id", "window_kind", "window_first", "model_version_id", "role", "metric", "field", "slice"),
            *("known_by", "known_at"),
            name="measurements_once",
        ),
        schema="ledger",
    )


def downgrade() -> None:
    """Takes them away."""
    for table in ("measurements", "measurement_runs", "profile_progress", "profile_counts", "profiles"):
        op.drop_table(table, schema="ledger")
