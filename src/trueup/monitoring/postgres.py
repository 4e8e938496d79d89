"""Measurements in PostgreSQL: what a window needs, what was measured of it, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import date, datetime
from typing import Any

from psycopg.rows import dict_row

from trueup.domain.monitoring import Changed, KnownBy, Measurement, MeasurementFilter, Run, Window, WindowKind
from trueup.errors import InvalidQuery
from trueup.monitoring.bounding import reading
from trueup.postgres import Connection, Pool
from trueup.settings import Monitoring

_RUN = """
    INSERT INTO ledger.measurement_runs
        (deployment_id, window_kind, window_first, window_last, known_at, known_by, started_at, duration_ms, rows_read,
         measurements, error)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING run_id
"""
_MEASUREMENT = """
    INSERT INTO ledger.measurements
        (run_id, deployment_id, model_version_id, role, metric, field, slice, window_kind, window_first, window_last,
         known_at, known_by, value, low, high, n, reference_n, critical, p_value, q_value, floor, verdict, maturity)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT ON CONSTRAINT measurements_once DO NOTHING
"""
_VERSIONS = """
    SELECT DISTINCT v.name, v.version FROM ledger.deployment_revisions r
    JOIN ledger.model_versions v
      ON v.model_version_id = r.champion_id OR v.model_version_id = ANY (r.challenger_ids || r.shadow_ids)
    WHERE r.deployment_id = %s ORDER BY 1, 2
"""
_MEASURED = """
    SELECT DISTINCT ON (window_kind, window_first) window_kind, window_first, known_at, started_at
    FROM ledger.measurement_runs
    WHERE deployment_id = %s AND known_by = %s AND known_at <= %s AND error IS NULL
    ORDER BY window_kind, window_first, known_at DESC, run_id DESC
"""
_COUNTED = """
    SELECT event_day, sum(n), max(counted_at) FROM ledger.profile_counts
    WHERE deployment_id = %s AND field = '' AND slice = '' GROUP BY event_day
"""
# Asked every hour: of each day the one newest entry of the index over `event_day + 0`, however many outcomes there are.
_CHANGED_RECORDED = """
    SELECT d::date, o.recorded_at, o.recorded_at
    FROM generate_series(%(first)s::date, %(last)s::date, interval '1 day') AS d
    CROSS JOIN LATERAL (
        SELECT recorded_at FROM ledger.outcomes
        WHERE contract_name = %(contract)s AND event_day + 0 = d::date AND recorded_at <= %(at)s
        ORDER BY recorded_at DESC LIMIT 1
    ) o
"""
# Asked where history is replayed.
_CHANGED_OBSERVED = """
    SELECT event_day, max(observed_at), max(recorded_at) FROM ledger.outcomes
    WHERE contract_name = %(contract)s AND event_day BETWEEN %(first)s AND %(last)s AND observed_at <= %(at)s
    GROUP BY event_day
"""
_KNOWN = "measurements_as_known(coalesce(%(at)s::timestamptz, 'infinity'), %(known_by)s)"
_LISTED = """
    SELECT * FROM {known} m
    WHERE m.deployment = %(deployment)s AND (%(metric)s::text IS NULL OR m.metric = %(metric)s)
      AND (%(field)s::text IS NULL OR m.field = %(field)s) AND (%(slice)s::text IS NULL OR m.slice = %(slice)s)
      AND (%(role)s::text IS NULL OR m.role = %(role)s) AND (%(verdict)s::text IS NULL OR m.verdict = %(verdict)s)
      AND (%(window_kind)s::text IS NULL OR m.window_kind = %(window_kind)s)
      AND (%(first)s::date IS NULL OR m.window_first >= %(first)s)
      AND (%(last)s::date IS NULL OR m.window_last <= %(last)s) AND m.known_by = %(known_by)s
    ORDER BY m.window_last DESC, m.window_first DESC, m.window_kind, m.role, m.metric, m.field, m.slice,
             m.known_at DESC, m.measurement_id DESC
    LIMIT %(limit)s
"""


class PostgresMeasurements:
    """Adds through the writer role, lists through the reader role."""

    def __init__(self, writer: Pool, reader: Pool, settings: Monitoring) -> None:
        self._writer = writer
        self._reader = reader
        self._settings = settings

    def versions(self, deployment_id: int) -> list[tuple[str, str]]:
        """Name and version of every model version that ever played a part in the deployment."""
        with self._reading() as connection:
            return [(name, version) for name, version in connection.execute(_VERSIONS, (deployment_id,)).fetchall()]

    def counted(self, deployment_id: int) -> dict[date, tuple[int, datetime]]:
        """Rows of each event day, over all versions and roles, and when they were last counted."""
        with self._reading() as connection:
            rows = connection.execute(_COUNTED, (deployment_id,)).fetchall()
        return {day: (int(n), at) for day, n, at in rows}

    def measured(self, deployment_id: int, known_by: KnownBy, at: datetime) -> dict[tuple[WindowKind, date], Run]:
        """The last run of each window that did not fail, of those with the knowledge of ``at`` or less."""
        with self._reading() as connection:
            rows = connection.execute(_MEASURED, (deployment_id, str(known_by), at)).fetchall()
        return {
            (WindowKind(kind), first): Run(
                deployment_id, Window(WindowKind(kind), first, first), known_at, known_by, started_at
            )
            for kind, first, known_at, started_at in rows
        }

    def changed(self, contract: str, first: date, last: date, known_by: KnownBy, at: datetime) -> dict[date, Changed]:
        """Of each event day with outcomes, when the last of them became known."""
        of = {"contract": contract, "first": first, "last": last, "at": at}
        query = _CHANGED_RECORDED if known_by is KnownBy.RECORDED else _CHANGED_OBSERVED
        with self._reading() as connection:
            rows = connection.execute(query, of).fetchall()
        return {day: Changed(known, recorded) for day, known, recorded in rows}

    def record(self, run: Run, measurements: Sequence[Measurement]) -> int:
        """Adds a run and its figures in one commit, and returns how many were new: a figure that was measured with
        the same knowledge is there already."""
        window = (str(run.window.kind), run.window.first, run.window.last, run.known_at, str(run.known_by))
        with self._writer.transaction() as connection:
            row = connection.execute(
                _RUN,
                (
                    run.deployment_id,
                    *window,
                    run.started_at,
                    run.duration_ms,
                    run.rows_read,
                    len(measurements),
                    run.error,
                ),
            ).fetchone()
            assert row is not None
            cursor = connection.cursor()
            cursor.executemany(_MEASUREMENT, [_values(row[0], run.deployment_id, window, m) for m in measurements])
            return max(cursor.rowcount, 0) if measurements else 0

    def listed(self, where: MeasurementFilter) -> list[dict[str, Any]]:
        """Measurements, latest windows first. Raises InvalidQuery."""
        most = self._settings.listed_measurements
        if not 1 <= where.limit <= most:
            raise InvalidQuery(f"a listing has 1 to {most} measurements")
        known = "measurements" if where.history else _KNOWN
        values: Mapping[str, Any] = {**asdict(where), "known_by": str(where.known_by)}
        with self._reader.transaction() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(_LISTED.format(known=known).encode(), values).fetchall()

    def _reading(self) -> AbstractContextManager[Connection]:
        return reading(self._writer, self._settings.statement_timeout_s)


def _values(run_id: int, deployment_id: int, window: tuple[Any, ...], m: Measurement) -> tuple[Any, ...]:
    return (
        *(
            run_id,
            deployment_id,
            m.model_version_id,
            m.role,
            m.metric,
            m.field,
            m.slice,
            *window,
            m.value,
            m.low,
            m.high,
        ),
        *(m.n, m.reference_n, m.critical, m.p_value, m.q_value, m.floor, m.verdict and str(m.verdict), m.maturity),
    )
