"""The report's figures: each one a query over the ledger."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import trueup


def figures(up: trueup.Trueup) -> dict[str, Any]:
    """Overall row, months and calibration bins, as plain values."""
    return {
        "overall": _rows(up, "overall.sql")[0],
        "months": _rows(up, "monthly.sql"),
        "calibration": _rows(up, "calibration.sql"),
    }


def _rows(up: trueup.Trueup, name: str) -> list[dict[str, Any]]:
    folder = files("trueup_examples.settlement_fails").joinpath("sql")
    truth, query = (folder.joinpath(n).read_text(encoding="utf-8") for n in ("truth.sql", name))
    text = f"WITH fails_truth AS MATERIALIZED ({truth}) SELECT * FROM ({query}) AS figures"  # noqa: S608 - our own files
    return up.query(text).rows()
