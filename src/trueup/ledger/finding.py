"""Reading predictions back: one with everything about it, or a filtered list."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import numpy as np

from trueup.contracts.reading import contract_from_json
from trueup.domain.contract import Contract, Field, FieldType
from trueup.errors import InvalidQuery, no_prediction
from trueup.ports import PredictionFilter
from trueup.postgres import Pool, named
from trueup.settings import Limits

_ONE = """
    SELECT p.*, k.body AS contract_body, t.outcome, t.outcome_text, t.outcome_known_at, t.outcome_revision
    FROM trueup.predictions p
    JOIN trueup.contracts k USING (contract_id)
    LEFT JOIN LATERAL (
        SELECT o.value_number AS outcome, o.value_text AS outcome_text, o.recorded_at AS outcome_known_at,
               o.revision AS outcome_revision
        FROM trueup.outcome_history o JOIN trueup.contract_labels l ON l.contract_id = p.contract_id
        WHERE l.is_primary AND o.contract_name = p.contract AND o.label = l.label
          AND o.business_key = p.business_key AND o.event_day = p.event_day
        ORDER BY o.observed_at DESC, o.revision DESC LIMIT 1
    ) t ON true
    WHERE p.prediction_id = %s
"""
_LIST = """
    SELECT prediction_id, event_time, deployment, model_version, role, status, business_key,
           score, class, decision, expected_cost, booked_at
    FROM trueup.predictions
    WHERE (%(deployment)s::text IS NULL OR deployment = %(deployment)s)
      AND (%(deployments)s::text[] IS NULL OR deployment = ANY(%(deployments)s))
      AND (%(business_key)s::text IS NULL OR business_key = %(business_key)s)
      AND event_day BETWEEN %(first)s AND %(last)s
      AND event_time BETWEEN %(since)s AND %(until)s
      AND (%(status)s::text IS NULL OR status = %(status)s)
      AND (%(decision)s::text IS NULL OR decision = %(decision)s)
      AND (%(min_score)s::float8 IS NULL OR score >= %(min_score)s)
    ORDER BY event_day DESC, event_time DESC, prediction_id
    LIMIT %(limit)s
"""
_DAYS = """
    SELECT day FROM trueup.event_days() AS day
    WHERE (%(event_from)s::date IS NULL OR day >= %(event_from)s)
      AND (%(event_until)s::date IS NULL OR day <= %(event_until)s)
    ORDER BY day DESC
"""
# The latest batch tells where the newest events are likely to lie.
_NEWEST = """
    SELECT max(p.event_time) FROM trueup.predictions p
    WHERE p.event_day = %(day)s AND p.batch_id = (
        SELECT b.batch_id FROM trueup.batches b
        WHERE (%(deployment)s::text IS NULL OR b.deployment = %(deployment)s)
        ORDER BY b.batch_id DESC LIMIT 1)
"""
_SHOWN = (
    *("prediction_id", "deployment", "model_version", "role", "channel", "status", "source", "source_key"),
    *("business_key", "event_time", "event_day", "score", "class", "outputs", "decision", "expected_cost"),
    *("due_day", "received_at", "booked_at", "contract", "contract_version", "contract_digest", "batch_id"),
)


class Finder:
    """Reads under the reader role."""

    def __init__(self, reader: Pool, limits: Limits) -> None:
        self._reader = reader
        self._limits = limits

    def prediction(self, prediction_id: UUID) -> dict[str, Any]:
        """Everything about one prediction. Raises NotFound."""
        with self._reader.transaction() as connection:
            cursor = connection.execute(_ONE, (prediction_id,))
            row = cursor.fetchone()
            names = named(cursor)
        if row is None:
            raise no_prediction()
        record = dict(zip(names, row, strict=True))
        contract = contract_from_json(record["contract_body"])
        shown = {name: record[name] for name in _SHOWN}
        shown["content_digest"] = bytes(record["content_digest"]).hex()
        steps = zip(("parse", "validate", "queue", "model"), record["steps_us"], strict=True)
        shown["steps_us"] = {**dict(steps), "book": record["book_us"]}
        shown["fields"] = named_fields(contract, record)
        shown["reasons"] = _reasons(contract, record)
        shown["outcome"] = record["outcome"] if record["outcome_text"] is None else record["outcome_text"]
        shown["outcome_known_at"] = record["outcome_known_at"]
        shown["outcome_revision"] = record["outcome_revision"]
        return shown

    def predictions(self, where: PredictionFilter) -> list[dict[str, Any]]:
        """A filtered list, newest events first. Raises InvalidQuery for a limit out of bounds."""
        if not 1 <= where.limit <= self._limits.listed_rows:
            raise InvalidQuery(f"limit must lie between 1 and {self._limits.listed_rows}")
        conditions = {name: getattr(where, name) for name in where.__dataclass_fields__}
        if any(isinstance(value, str) and "\0" in value for value in conditions.values()):
            raise InvalidQuery("a filter holds a character that no stored text can")
        conditions["deployments"] = None if where.deployments is None else list(where.deployments)
        found: list[dict[str, Any]] = []
        with self._reader.transaction() as connection:
            days = [row[0] for row in connection.execute(_DAYS, conditions)]
            newest = connection.execute(_NEWEST, conditions | {"day": days[0]}).fetchone() if days else None
            for since, until in _windows(days, newest[0] if newest else None):
                window = {"first": since.date(), "last": until.date(), "since": since, "until": until}
                cursor = connection.execute(_LIST, conditions | window | {"limit": where.limit - len(found)})
                names = named(cursor)
                found += [dict(zip(names, row, strict=True)) for row in cursor]
                if len(found) == where.limit:
                    break
        return found


def _windows(days: list[date], newest: datetime | None) -> Iterator[tuple[datetime, datetime]]:
    """Windows of event time, latest first, both ends within.

    Of the first day, the second before ``newest`` and all that is later, then 16 times as long each time; then whole
    days: the newest rows are found without sorting a day.
    """
    if not days:
        return
    start, until = _bounds(days[0], days[0])
    since, width = (until if newest is None else newest.astimezone(UTC)), timedelta(seconds=1)
    while True:
        since = start if since - start <= width else since - width
        yield since, until
        if since == start:
            break
        until, width = since - _TICK, 16 * width
    for part in _growing(days[1:]):
        yield _bounds(part[-1], part[0])


_TICK = timedelta(microseconds=1)


def _bounds(first: date, last: date) -> tuple[datetime, datetime]:
    return datetime.combine(first, time.min, UTC), datetime.combine(last, time.max, UTC)


def _growing(days: list[date]) -> Iterator[list[date]]:
    """One day, then twice as many each time."""
    start, size = 0, 1
    while start < len(days):
        yield days[start : start + size]
        start, size = start + size, size * 2


def named_fields(contract: Contract, stored: dict[str, Any]) -> dict[str, Any]:
    """Plain values by field name from ``stored``'s lists ``floats``, ``ints`` and ``texts``."""
    return {f.name: _value(contract, f, stored) for f in contract.fields}


def _value(contract: Contract, f: Field, record: dict[str, Any]) -> Any:
    storage, place = contract.slots[f.name]
    stored = record[storage.value][place]
    if stored is None:
        return None
    if f.type is FieldType.BOOL:
        return bool(stored)
    if f.type is FieldType.DATE:
        return str(np.datetime64(stored, "D"))
    if f.type is FieldType.TIMESTAMP:
        return f"{np.datetime64(stored, 'us')}Z"
    if f.type is FieldType.FLOAT64 and not math.isfinite(stored):
        return str(stored)
    return stored


def _reasons(contract: Contract, record: dict[str, Any]) -> list[dict[str, Any]]:
    if record["reason_fields"] is None:
        return []
    pairs = zip(record["reason_fields"], record["reason_values"], strict=True)
    return [{"field": contract.features[place].name, "contribution": value} for place, value in pairs]
