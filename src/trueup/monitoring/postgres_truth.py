"""Reading the truth of a window, as known at an instant, block by block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.contract import Contract
from trueup.domain.monitoring import KnownBy, Window
from trueup.monitoring.bounding import reading
from trueup.monitoring.copied import Gathered, Layout, gathered
from trueup.monitoring.pairing import Pairs
from trueup.monitoring.selecting import number_of, segments_of, text_of
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
_INSTANCE = "hashtextextended(p.source || E'\\x1f' || p.source_key, 0)"  # which a deployment's versions have in common
_CHALLENGER = """
    COPY (SELECT {instance}, coalesce(p.score, 'NaN') FROM ledger.predictions p
          WHERE p.deployment_id = %(deployment_id)s AND p.model_version_id = %(challenger)s AND p.role = %(role)s
            AND p.event_day BETWEEN %(first)s AND %(last)s AND p.status <> 'fallback') TO STDOUT (FORMAT binary)
"""
_CHAMPION = """
    COPY (SELECT {instance}, coalesce(t.score, 'NaN'), coalesce(t.outcome, 'NaN'),
                 coalesce(t.is_positive::int4::float8, 'NaN')
          FROM trueup.truth_as_known(%(at)s, %(by)s) t {joined}
          WHERE t.deployment = %(deployment)s AND t.role = 'champion' AND t.event_day BETWEEN %(first)s AND %(last)s
            AND t.status <> 'fallback'
            AND (%(step)s = 1 OR mod(uuid_hash_extended(t.prediction_id, 0) & 2147483647, %(step)s) = 0)
    ) TO STDOUT (FORMAT binary)
"""
_FIELDS = "JOIN ledger.predictions p ON p.event_day = t.event_day AND p.prediction_id = t.prediction_id"


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose truth, of which days, as known when. ``rows`` is how many there are, about; at most ``most_rows`` are read,
    ``exact_rows`` of the settings where that is None. ``features`` names numbers of the contract that come with them.
    """

    deployment: str
    model_version: str
    role: str
    contract: Contract
    window: Window
    known_at: datetime
    known_by: KnownBy
    slices: Sequence[str] = ()
    rows: int = 0
    most_rows: int | None = None
    features: tuple[str, ...] = ()


class PostgresTruth:
    """Reads through the writer role, which may see what slices are made of."""

    def __init__(self, writer: Pool, settings: Monitoring) -> None:
        self._writer = writer
        self._settings = settings

    def read(self, asked: Asked) -> Truth:
        """The truth of the rows; of more than are to be read that of a part, chosen by the predictions' ids."""
        step = max(1, -(-asked.rows // (asked.most_rows or self._settings.exact_rows)))
        segments = segments_of(asked.slices)
        columns = [(name, kind) for name, kind, _ in _COLUMNS]
        parts = [text for _, _, text in _COLUMNS]
        values = {**_values(asked, step), "version": asked.model_version}
        for number, (name, held) in enumerate(segments):
            values[f"slices_{number}"] = json.dumps({value: i + 1 for i, value in enumerate(held)})
            parts.append(f"coalesce((%(slices_{number})s::jsonb -> {text_of(asked.contract, name)})::int4, 0)")
            columns.append((f"slice of {name}", "int"))
        for name in asked.features:
            parts.append(number_of(asked.contract, name))
            columns.append((f"feature {name}", "float"))
        query = _TRUTH.format(columns=", ".join(parts), joined=_FIELDS if segments or asked.features else "")
        whole = self._copied(query, values, Layout(columns))
        slices = {
            f"{name}={value}": whole[f"slice of {name}"] == i + 1
            for name, held in segments
            for i, value in enumerate(held)
        }
        masks = {name: whole.pop(name).astype(bool) for name in ("due", "closed")}
        values_of = {name: whole[name] for name, *_ in _COLUMNS if name in whole}
        features = [whole[f"feature {name}"] for name in asked.features]
        return Truth(
            **values_of,
            **masks,
            slices=slices,
            share=1 / step,
            features=np.column_stack(features) if features else np.zeros((len(masks["due"]), 0)),
        )

    def pairs(self, asked: Asked, deployment_id: int, challenger: int) -> Pairs:
        """What the champion, whichever it was, and a version in the asked role said of the same instances.

        They are joined here: a database without statistics of fresh partitions may compare each with each.
        """
        step = max(1, -(-asked.rows // self._settings.exact_rows))
        values = {**_values(asked, step), "deployment_id": deployment_id, "challenger": challenger}
        theirs = self._copied(
            _CHALLENGER.format(instance=_INSTANCE), values, Layout([("instances", "long"), ("scores", "float")])
        )
        named = [("instances", "long"), ("scores", "float"), ("outcomes", "float"), ("events", "float")]
        ours = self._copied(_CHAMPION.format(instance=_INSTANCE, joined=_FIELDS), values, Layout(named))
        _, a, b = np.intersect1d(ours["instances"], theirs["instances"], return_indices=True)
        return Pairs(ours["scores"][a], theirs["scores"][b], ours["outcomes"][a], ours["events"][a])

    def _copied(self, query: str, values: dict[str, Any], layout: Layout) -> dict[str, NDArray[Any]]:
        bounded = reading(self._writer, self._settings.statement_timeout_s)
        with bounded as connection, connection.cursor().copy(query.encode(), values) as copy:
            blocks = [layout.read(block).columns for block in gathered(copy, layout, self._settings.block_rows)]
        blocks = blocks or [layout.read(Gathered()).columns]
        return {name: np.concatenate([block[name] for block in blocks]) for name, _ in layout.columns}


def _values(asked: Asked, step: int) -> dict[str, Any]:
    return {
        "at": asked.known_at,
        "by": str(asked.known_by),
        "deployment": asked.deployment,
        "role": asked.role,
        "first": asked.window.first,
        "last": asked.window.last,
        "step": step,
    }
