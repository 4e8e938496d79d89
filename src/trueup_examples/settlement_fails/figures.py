"""The report's figures: each one a query over the ledger."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import trueup
from trueup_examples.settlement_fails.alarms import alarms


def figures(up: trueup.Trueup) -> dict[str, Any]:
    """Overall row, months and calibration bins in one pass over predictions and outcomes; half-months as they became
    known, and the alerts that they would have raised. Plain values."""
    truth = _text("truth.sql")
    parts = " UNION ALL ".join(
        f"SELECT '{name}' AS figure, to_jsonb(f) AS row FROM ({_text(name + '.sql')}) AS f"  # noqa: S608 - our own files
        for name in ("overall", "monthly", "calibration")
    )
    found: dict[str, list[dict[str, Any]]] = {"overall": [], "monthly": [], "calibration": []}
    for each in up.query(f"WITH fails_truth AS MATERIALIZED ({truth}) {parts}"):
        found[each["figure"]].append(each["row"])
    return {
        "overall": found["overall"][0],
        "months": sorted(found["monthly"], key=lambda row: row["month"]),
        "calibration": sorted(found["calibration"], key=lambda row: row["bin"]),
        "half_months": up.query(_text("half_months.sql")).rows(),
        "alerts": alarms(up),
    }


def _text(name: str) -> str:
    return files("trueup_examples.settlement_fails").joinpath("sql", name).read_text(encoding="utf-8")
