"""A desk: one scoring path on some set of adapters, with models that count and can be told to fail."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

import trueup
from trueup.bootstrap import utc_now
from trueup.domain.batch import Channel, Columns, Source
from trueup.domain.deployment import ModelVersion
from trueup.errors import ScoringError
from trueup.ports import Ledger, ModelRegistry, OutcomeStore
from trueup.scoring.service import Instances, Response, Scoring
from trueup.settings import Limits

CONTRACT = trueup.load_contract("""
name: trades
version: 1
event_time: trade_date
fields:
  trade_id: {type: string, role: key}
  trade_date: {type: date, role: context}
  amount: {type: float64, minimum: 0}
  history: {type: float64, nullable: true, allow_nan: true, allow_infinity: true}
  lots: {type: int64, nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, horizon: {days: 1}}
decision: {threshold: 0.5, at_or_above: chase, below: pass, abstain_between: [0.4, 0.5]}
expected_cost: probability x amount
""")


@dataclass
class StubScorer:
    """amount / 1,000, at most 1; counts its calls and fails when told to."""

    calls: int = 0
    fails: bool = False

    def score(self, columns: Columns) -> Any:
        self.calls += 1
        if self.fails:
            raise ScoringError("the model failed")
        return np.clip(columns.numeric("amount") / 1000, 0, 1)[:, None]

    def contributions(self, columns: Columns) -> Any:
        return None

    def close(self) -> None: ...


@dataclass
class Desk:
    """A scoring path on one set of adapters."""

    registry: ModelRegistry
    ledger: Ledger
    outcomes: OutcomeStore
    scorers: dict[str, StubScorer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def load(version: ModelVersion, serving: trueup.Serving) -> StubScorer:
            return self.scorers.setdefault(version.version, StubScorer())

        self.scoring = Scoring(self.registry, self.ledger, load, utc_now, Limits())

    def deploy(self, version: str = "1", **changes: Any) -> trueup.Deployment:
        stored = self.registry.add_version(ModelVersion("trades", version, (), CONTRACT))
        deployed = self.registry.deploy(trueup.Deployment("trades", stored, **changes), by="test")
        self.scoring.resolve("trades", fresh=True)
        return deployed

    def score(self, rows: list[dict[str, Any]], *, source: str = "batch:morning", keys: list[str] | None = None,
              **options: Any) -> Response:  # fmt: skip
        resolved = self.scoring.resolve("trades")
        numbered = keys or [str(i) for i in range(len(rows))]
        decoded = resolved.decoder.records(rows)
        where = Source(Channel.BATCH, source, numbered)
        groups = options.pop("groups", None)
        instances = Instances.of(decoded, where, received_at=datetime.now(UTC), **options)
        instances = replace(instances, groups=None if groups is None else np.array(groups))
        return self.scoring.score(resolved, instances)


def trade(i: int, **changes: Any) -> dict[str, Any]:
    return {"trade_id": f"T{i}", "trade_date": "2026-11-20", "amount": 100.0 * i, **changes}
