"""A deployment whose predictions are measured: its contract, rows of it, and how they are booked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import trueup
from trueup.domain.batch import Columns
from trueup.domain.deployment import Serving
from trueup.domain.monitoring import Monitoring, ReferenceRows

CONTRACT = """
name: fails
version: 1
event_time: trade_date
fields:
  trade: {type: string, role: key}
  trade_date: {type: date, role: context}
  amount: {type: float64}
  history: {type: float64, nullable: true, allow_nan: true, allow_infinity: true}
  lots: {type: int64, nullable: true}
  price: {type: "decimal(12, 4)"}
  urgent: {type: bool}
  desk: {type: category, categories: [rates, credit, equity]}
  venue: {type: string, nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, horizon: {days: 1}}
decision: {threshold: 0.5}
expected_cost: probability x amount
"""
DECLARED = Monitoring(
    reference=ReferenceRows(rows=500), segments=("desk", "urgent"), smallest_slice=50, bins=10, top_k=10
)


def share(columns: Columns) -> np.ndarray:
    """The amount, squeezed between 0 and 1."""
    return np.asarray(1 / (1 + np.exp(-columns.numeric("amount"))))


def inverse_share(columns: Columns) -> np.ndarray:
    """The opposite of :func:`share`."""
    return 1 - share(columns)


def amount(columns: Columns) -> np.ndarray:
    """The amount as it is."""
    return np.asarray(columns.numeric("amount"))


def rows_of(rng: np.random.Generator, n: int, day: str = "2026-11-02", *, shift: float = 0.0) -> dict[str, Any]:
    """Columns of ``n`` trades of a day; ``shift`` moves the amounts."""
    history = rng.normal(size=n)
    history[rng.random(n) < 0.05] = np.nan
    return {
        "trade": [f"T{day}-{i}-{rng.integers(1 << 40)}" for i in range(n)],
        "trade_date": [day] * n,
        "amount": rng.normal(shift, 1.0, n),
        "history": [None if rng.random() < 0.1 else v for v in history.tolist()],
        "lots": [None if rng.random() < 0.1 else int(v) for v in rng.integers(1, 40, n)],
        "price": [f"{v:.4f}" for v in rng.gamma(2.0, 50.0, n)],
        "urgent": (rng.random(n) < 0.3).tolist(),
        "desk": rng.choice(["rates", "credit", "equity"], n, p=[0.5, 0.3, 0.2]).tolist(),
        "venue": [None if rng.random() < 0.1 else f"V{v}" for v in rng.geometric(0.3, n)],
    }


def deployed(up: trueup.Trueup, monitoring: Monitoring = DECLARED, **options: Any) -> trueup.Deployment:
    """The deployment ``fails`` with a champion."""
    named: dict[str, Any] = {"version": "1", "model": "python:monitored:share", **options}
    return up.deploy("fails", contract=CONTRACT, serving=replace(Serving(), monitoring=monitoring), **named)


def outcomes_of(data: dict[str, Any], failed: NDArray[np.bool_] | list[bool], observed_at: str) -> list[dict[str, Any]]:
    """Rows of outcomes for the trades."""
    return [
        {"trade": key, "event_day": day, "value": bool(value), "observed_at": observed_at}
        for key, day, value in zip(data["trade"], data["trade_date"], failed, strict=True)
    ]
