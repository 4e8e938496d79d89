"""References and counts in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date
from typing import Any

import numpy as np
from psycopg.types.json import Jsonb

from trueup.domain.contract import Contract, FieldType, OutputKind, Storage
from trueup.domain.deployment import ModelVersion
from trueup.domain.measuring import Profile
from trueup.domain.monitoring import Monitoring, ReferenceRows
from trueup.domain.profiling import SCORE, Counted, CountKey, References
from trueup.monitoring.bounding import reading
from trueup.monitoring.references import Sample
from trueup.monitoring.selecting import profiled_fields
from trueup.postgres import Connection, Pool
from trueup.settings import Monitoring as Settings

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 7238150))"
_PROFILES = """
    SELECT field, slice, body, reference, reference_first, reference_last FROM ledger.profiles
    WHERE deployment_id = %s AND model_version_id = %s ORDER BY field, slice
"""
_FREEZE = """
    INSERT INTO ledger.profiles
        (deployment_id, model_version_id, field, slice, kind, body, counts, n, missing, reference, reference_first,
         reference_last)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_DAYS = "SELECT d FROM trueup.event_days() AS d WHERE d <= %s ORDER BY d"
_ON_DAY = """
    SELECT count(*) FROM ledger.predictions p
    WHERE p.event_day = %(day)s AND p.deployment_id = %(deployment)s AND p.model_version_id = %(version)s
"""
_SAMPLE = """
    SELECT p.floats, p.ints, p.texts, CASE WHEN p.status <> 'fallback' THEN p.score END,
           CASE WHEN p.status <> 'fallback' THEN p.class END
    FROM ledger.predictions p
    WHERE p.event_day = %(day)s AND p.deployment_id = %(deployment)s AND p.model_version_id = %(version)s
      AND (%(step)s = 1 OR mod(uuid_hash_extended(p.prediction_id, 0) & 2147483647, %(step)s) = 0)
    ORDER BY p.batch_id, p.prediction_id LIMIT %(most)s
"""
_COUNTS = """
    SELECT event_day, role, field, slice, counts, n, missing, out_of_range, unseen, late, lowest, highest
    FROM ledger.profile_counts
    WHERE deployment_id = %s AND model_version_id = %s AND event_day BETWEEN %s AND %s
"""
_COUNTED = """
    SELECT model_version_id, role, event_day, n, counted_at FROM ledger.profile_counts
    WHERE deployment_id = %s AND field = '' AND slice = '' AND event_day BETWEEN %s AND %s
"""


class PostgresReferences:
    """Frozen references and the counts made with them, through the writer role."""

    def __init__(self, writer: Pool, settings: Settings) -> None:
        self._writer = writer
        self._settings = settings

    def frozen(self, deployment_id: int, model_version_id: int) -> References | None:
        """The version's reference; None while there is none."""
        with self._reading() as connection:
            return _frozen(connection, deployment_id, model_version_id)

    def freeze(self, deployment_id: int, model_version_id: int, references: References) -> References:
        """Keeps the reference, unless the version has one: then that one is returned."""
        with self._writer.transaction() as connection:
            connection.execute(_LOCK, (f"{deployment_id}/{model_version_id}",))
            known = _frozen(connection, deployment_id, model_version_id)
            if known is not None:
                return known
            of = (deployment_id, model_version_id)
            days = (references.origin, references.first, references.last)
            rows = [
                (*of, field, slice_, profile.kind.value, Jsonb(profile.document()), profile.counts.tolist(), profile.n,
                 profile.missing(profile.counts), *days)
                for (field, slice_), profile in references.profiles.items()
            ]  # fmt: skip
            connection.cursor().executemany(_FREEZE, rows)
        return references

    def sample(self, deployment_id: int, version: ModelVersion, declared: Monitoring, today: date) -> Sample | None:
        """The rows that the declaration names, once there are all of them; None before, or where none are named.

        Of more than the settings allow a part is taken, chosen by the predictions' ids.
        """
        of = {"deployment": deployment_id, "version": version.model_version_id}
        with self._reading() as connection:
            days = _complete(connection, of, declared.reference, today)
            if not days:
                return None
            total = sum(days.values())
            most = min(declared.reference.rows or total, total)
            step = -(-most // self._settings.reference_rows)
            rows: list[tuple[Any, ...]] = []
            for day in days:
                left = -(-most // step) - len(rows)
                rows += connection.cursor(binary=True).execute(
                    _SAMPLE, {**of, "day": day, "step": step, "most": left}
                ).fetchall()  # fmt: skip
        first, last = min(days), max(days)
        origin = f"{len(rows)} predictions of {first} to {last}"
        return _sample(version.contract, declared, rows, origin, first, last)

    def counts(
        self, deployment_id: int, model_version_id: int, first: date, last: date
    ) -> Iterator[tuple[CountKey, Counted]]:
        """What was counted of each event day."""
        with self._reading() as connection:
            rows = connection.execute(_COUNTS, (deployment_id, model_version_id, first, last)).fetchall()
        for day, role, field, slice_, counts, n, missing, outside, unseen, late, lowest, highest in rows:
            counted = Counted(np.array(counts, np.int64), n, missing, outside, unseen, late)
            if lowest is not None:
                counted.lowest, counted.highest = lowest, highest
            yield CountKey(day, role, field, slice_), counted

    def _reading(self) -> AbstractContextManager[Connection]:
        return reading(self._writer, self._settings.statement_timeout_s)


def _frozen(connection: Connection, deployment_id: int, model_version_id: int) -> References | None:
    rows = connection.execute(_PROFILES, (deployment_id, model_version_id)).fetchall()
    if not rows:
        return None
    profiles = {(field, slice_): Profile.read(body) for field, slice_, body, *_ in rows}
    return References(profiles, *rows[0][3:])


def _complete(
    connection: Connection, of: Mapping[str, Any], wanted: ReferenceRows, today: date
) -> dict[date, int] | None:
    """The event days of the reference and how many rows each has; None where it is not complete yet."""
    days: dict[date, int] = {}
    for (day,) in connection.execute(_DAYS, (today,)).fetchall():
        if wanted.first is not None and wanted.last is not None and not wanted.first <= day <= wanted.last:
            continue
        found = connection.execute(_ON_DAY, {**of, "day": day}).fetchone()
        if found is not None and found[0]:
            days[day] = found[0]
        if wanted.rows is not None and sum(days.values()) >= wanted.rows:
            return days
        if wanted.days is not None and len(days) == wanted.days:
            return days if day < today else None
    return days if wanted.last is not None and wanted.last < today else None


def _sample(
    contract: Contract, declared: Monitoring, rows: Sequence[tuple[Any, ...]], origin: str, first: date, last: date
) -> Sample:
    floats, ints, texts = (
        np.array([row[place] for row in rows], object if place == 2 else np.float64).reshape(len(rows), -1)
        for place in range(3)
    )
    blocks = {Storage.FLOATS: floats, Storage.INTS: ints, Storage.TEXTS: texts}
    columns: dict[str, Any] = {}
    for name, _ in profiled_fields(contract):
        if name == SCORE and SCORE not in contract.by_name:
            is_class = contract.output.kind is OutputKind.CLASS
            answers = [row[4 if is_class else 3] for row in rows]
            columns[name] = np.array(answers, object if is_class else np.float64)
            continue
        storage, place = contract.slots[name]
        column = blocks[storage][:, place]
        columns[name] = column.astype(np.float64) if contract.by_name[name].type is FieldType.DECIMAL else column
    segments = {name: _texts(contract, name, rows) for name in declared.segments}
    return Sample(columns, segments, origin, first, last)


def _texts(contract: Contract, name: str, rows: Sequence[tuple[Any, ...]]) -> Any:
    storage, place = contract.slots[name]
    block = (Storage.FLOATS, Storage.INTS, Storage.TEXTS).index(storage)
    held = [row[block][place] for row in rows]
    return np.array([None if value is None else str(value) for value in held], object)
