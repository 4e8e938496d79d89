"""A ledger with something to report: a deployment, forty days of predictions, outcomes, actions and measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import psycopg

import trueup
from trueup.domain.batch import Columns
from trueup.ledger.urls import Urls

CONTRACT = """
name: fails
version: 1
event_time: settlement_date
fields:
  cusip: {type: string, role: key}
  settlement_date: {type: date, role: context}
  last_value: {type: float64, role: context, minimum: 0, unit: USD}
  signal: {type: float64}
output: {kind: probability}
labels:
  - {name: fail_value, type: float64, join_key: [cusip], horizon: {days: 1}, positive: {above: 100000}}
decision: {threshold: 0.5, at_or_above: chase, below: watch}
expected_cost: probability x last_value
"""
DAYS = 40
LAST = date(2026, 11, 20)
NOW = datetime(2026, 11, 21, 6, tzinfo=UTC)
_FIELDS = ("signal", "last_value", "weekday", "desk")


def share(columns: Columns) -> np.ndarray:
    """The signal, squeezed between 0 and 1."""
    return np.asarray(1 / (1 + np.exp(-columns.numeric("signal"))))


def days() -> list[date]:
    return [LAST - timedelta(days=DAYS - 1 - i) for i in range(DAYS)]


def seeded(up: trueup.Trueup, database: Urls, per_day: int = 60) -> None:
    """Fills the ledger. The last two days have no outcomes yet; one row is refused."""
    rng = np.random.default_rng(7)
    up.deploy("fails", contract=CONTRACT, model="python:reported:share", version="2026.1", by="user:ada")
    for place, day in enumerate(days()):
        signal = rng.normal(-0.6 + 0.5 * math.sin(place / 6), 1.4, per_day)
        value = rng.lognormal(13.5, 1.2, per_day)
        rows = [
            {"cusip": f"C{day:%m%d}{i:03}", "settlement_date": str(day), "last_value": float(v), "signal": float(s)}
            for i, (s, v) in enumerate(zip(signal, value, strict=True))
        ]
        up.score("fails", rows, dataset=f"fails/{day}")
        if day <= LAST - timedelta(days=2):
            happened = rng.random(per_day) < 1 / (1 + np.exp(-signal))
            up.outcomes("fails", list(_outcomes(rows, happened, day)), source=f"file/{day}")
    up.score(
        "fails", [{"cusip": "X", "settlement_date": "2026-11-20", "last_value": -1.0, "signal": 0.0}], dataset="bad"
    )
    with psycopg.connect(database.owner) as connection:
        _acted(connection)
        _measured(connection, rng)
        _read(connection)
        connection.execute(
            "INSERT INTO ledger.audit (actor, action, subject, detail) VALUES"
            " ('user:grace', 'alert acknowledged', 'score_drift', '{\"deployment\": \"fails\", \"note\": \"known\"}')"
        )


def _outcomes(rows: list[dict[str, Any]], happened: np.ndarray, day: date) -> Iterator[dict[str, Any]]:
    for row, failed in zip(rows, happened, strict=True):
        value = max(float(row["last_value"]) * 0.8, 100_001.0) if failed else 0.0
        yield {
            "cusip": row["cusip"],
            "event_day": str(day),
            "value": value,
            "observed_at": f"{day + timedelta(days=1)}T18:00:00Z",
        }


def _acted(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        """
        INSERT INTO ledger.actions (deployment_id, key, contract_name, business_key, event_day, prediction_id, action,
                                    is_treatment, reason, actor, recorded_by, acted_at)
        SELECT deployment_id, 'a' || n, 'fails', business_key, event_day, prediction_id,
               (ARRAY['chased', 'escalated', 'left', 'looked at'])[1 + n % 4], n % 4 < 2,
               (ARRAY['counterparty called', '', 'known late payer'])[1 + n % 3],
               (ARRAY['user:ada', 'user:grace', 'user:edith'])[1 + n % 3], 'api', event_time + interval '1 hour'
        FROM (SELECT p.*, row_number() OVER (ORDER BY score DESC)::int AS n FROM ledger.predictions p) p WHERE n <= 90
        """
    )


def _measured(connection: psycopg.Connection[Any], rng: np.random.Generator) -> None:
    ((deployment, version),) = connection.execute(
        "SELECT deployment_id, champion_id FROM ledger.deployment_revisions LIMIT 1"
    ).fetchall()
    for place, day in enumerate(days()):
        ((run,),) = connection.execute(
            "INSERT INTO ledger.measurement_runs (deployment_id, window_kind, window_first, window_last, known_at,"
            " known_by, started_at, duration_ms, rows_read, measurements)"
            " VALUES (%s, 'day', %s, %s, %s, 'recorded', now(), 5, 60, 20) RETURNING run_id",
            (deployment, day, day, NOW),
        ).fetchall()
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO ledger.measurements (run_id, deployment_id, model_version_id, role, metric, field, slice,"
                " window_kind, window_first, window_last, known_at, known_by, value, low, high, n, reference_n,"
                " critical, p_value, q_value, floor, verdict, maturity) VALUES (%s, %s, %s, 'champion', %s, %s, %s,"
                " 'day', %s, %s, %s, 'recorded', %s, %s, %s, 60, 1000, %s, %s, %s, %s, %s, %s)",
                [(run, deployment, version, *m[:3], day, day, NOW, *m[3:]) for m in _figures(place, rng)],
            )


def _figures(place: int, rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    wave = 0.03 * math.sin(place / 5)
    for metric, level in (("auc", 0.81), ("average_precision", 0.62), ("brier", 0.17), ("ece", 0.05)):
        value = level + wave + float(rng.normal(0, 0.01))
        verdict = "breach" if metric == "auc" and value < 0.78 else "ok"
        yield (metric, "", "", value, value - 0.04, value + 0.04, None, None, None, 0.78, verdict, 1.0)
        if metric == "auc":
            yield (
                metric,
                "",
                "desk=rates",
                value - 0.02,
                value - 0.09,
                value + 0.05,
                None,
                None,
                None,
                0.78,
                "ok",
                1.0,
            )
            guess = value + float(rng.normal(0, 0.012))
            yield (f"estimated_{metric}", "", "", guess, guess - 0.03, guess + 0.03, None, None, None, None, None, None)
    for i, field in enumerate((*_FIELDS, "score")):
        psi = abs(float(rng.normal(0.02, 0.01))) + (0.012 * max(0, place - 25) if i == 0 else 0)
        verdict = "breach" if psi > 0.25 else "drift" if psi > 0.1 else "ok"
        yield ("psi", field, "", psi, None, None, 0.05, 0.2, 0.001 if psi > 0.1 else 0.4, 0.1, verdict, None)
        yield ("missing_share", field, "", 0.01 * i, None, None, None, None, None, None, "ok", None)


def _read(connection: psycopg.Connection[Any]) -> None:
    """A stream that read what is nowhere booked: every line of it is a break."""
    connection.execute(
        "INSERT INTO ledger.reads (deployment_id, cluster, topic, partition, first_offset, next_offset, records,"
        " tombstones, instances, answered, repeated, refused, received_at)"
        " SELECT deployment_id, 'c1', 'trades', p, 0, 40, 40, 0, 40, 0, 40 - 3 * p, 3 * p, now() - interval '1 day'"
        " FROM ledger.deployments, generate_series(0, 1) AS p"
    )
