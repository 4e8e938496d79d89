"""Reading the truth of a window, as known at an instant, block by block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from trueup.domain.contract import Contract
from trueup.domain.monitoring import KnownBy, Window
from trueup.monitoring.copied import Layout, messages
from trueup.monitoring.selecting import segments_of, text_of
from trueup.monitoring.truths import Truth
from trueup.postgres import Pool
from trueup.settings import Monitoring

_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("days", "int", "(t.event_day - date '1970-01-01')::int4"),
    ("scores", "float", "coalesce(t.score, 'NaN')"),
    ("costs", "float", "coalesce(t.expected_cost, 'NaN')"),
    ("outcomes", "float", "coalesce(t.outcome, 'NaN')"),
    ("events", "float", "coalesce(t.is_positive::int4::float8, 'NaN')"),
    ("due", "int", "t.is_due::int4"),
    ("closed", "int", "(t.outcome_state IN ('censored', 'never'))::int4"),
    ("keys", "long", "uuid_hash_extended(t.prediction_id, 0)"),
)
_TRUTH = """
    COPY (SELECT {columns} FROM trueup.truth_as_known(%(at)s, %(by)s) t {joined}
          WHERE t.deployment = %(deployment)s AND t.model_version = %(version)s AND t.role = %(role)s
            AND t.event_day BETWEEN %(first)s AND %(last)s AND t.status <> 'fallback'
            AND (%(step)s = 1 OR mod(uuid_hash_extended(t.prediction_id, 0) & 2147483647, %(step)s) = 0)
    ) TO STDOUT (FORMAT binary)
"""
_FIELDS = "JOIN ledger.predictions p ON p.event_day = t.event_day AND p.prediction_id = t.prediction_id"


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose truth, of which days, as known when. ``rows`` is how many there are, about."""

    deployment: str
    model_version: str
    role: str
    contract: Contract
    window: Window
    known_at: datetime
    known_by: KnownBy
    slices: Sequence[str] = ()
    rows: int = 0


class PostgresTruth:
    """Reads through the writer role, which may see what slices are made of."""

    def __init__(self, writer: Pool, settings: Monitoring) -> None:
        self._writer = writer
        self._settings = settings

    def read(self, asked: Asked) -> Truth:
        """The truth of the rows, or of a part chosen by the predictions' ids where there are more than ``exact_rows``."""
        step = max(1, -(-asked.rows // self._settings.exact_rows))
        segments = segments_of(asked.slices)
        columns = [(name, kind) for name, kind, _ in _COLUMNS]
        parts = [text for _, _, text in _COLUMNS]
        values: dict[str, Any] = {
            "at": asked.known_at,
            "by": str(asked.known_by),
            "deployment": asked.deployment,
            "version": asked.model_version,
            "role": asked.role,
            "first": asked.window.first,
            "last": asked.window.last,
            "step": step,
        }
        for number, (name, held) in enumerate(segments):
            values[f"slices_{number}"] = json.dumps({value: i + 1 for i, value in enumerate(held)})
            parts.append(f"coalesce((%(slices_{number})s::jsonb -> {text_of(asked.contract, name)})::int4, 0)")
            columns.append((f"slice of {name}", "int"))
        layout = Layout(columns)
        query = _TRUTH.format(columns=", ".join(parts), joined=_FIELDS if segments else "")
        blocks = []
        with self._writer.transaction() as connection, connection.cursor().copy(query.encode(), values) as copy:
            for block in messages(copy, self._settings.block_rows):
                blocks.append(layout.read(block).columns)
        if not blocks:
            blocks = [layout.read([]).columns]
        whole = {name: np.concatenate([block[name] for block in blocks]) for name, _ in columns}
        slices = {
            f"{name}={value}": whole[f"slice of {name}"] == i + 1
            for name, held in segments
            for i, value in enumerate(held)
        }
        return Truth(
            *(whole[name] for name in ("days", "scores", "costs", "outcomes", "events")),
            *(whole[name].astype(bool) for name in ("due", "closed")),
            whole["keys"],
            slices,
            1 / step,
        )
