"""The report's figures: each one a query over the ledger."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import trueup
from trueup_examples.exception_sla.foreseen import foreseen

_FIGURES = ("overall", "weekly", "calibration", "segments", "knowledge")


def figures(up: trueup.Trueup) -> dict[str, Any]:
    """Overall row, weeks (also as known earlier), calibration bins and segments, as plain values.

    One pass over predictions and outcomes, and one for what was to be foreseen without outcomes.
    """
    truth = _text("truth.sql")
    parts = " UNION ALL ".join(
        f"SELECT '{name}' AS figure, to_jsonb(f) AS row FROM ({_text(name + '.sql')}) AS f"  # noqa: S608 - our own files
        for name in _FIGURES
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _FIGURES}
    for each in up.query(f"WITH queue_truth AS MATERIALIZED ({truth}) {parts}"):
        found[each["figure"]].append(each["row"])
    return {
        "overall": found["overall"][0],
        "weeks": sorted(found["weekly"], key=lambda row: row["week"]),
        "knowledge": sorted(found["knowledge"], key=lambda row: (row["week"], row["weeks_after"])),
        "foreseen": foreseen(up, truth),
        "calibration": sorted(found["calibration"], key=lambda row: row["bin"]),
        "segments": sorted(found["segments"], key=lambda row: -abs(row["predicted"] - row["happened"])),
    }


def _text(name: str) -> str:
    return files("trueup_examples.exception_sla").joinpath("sql", name).read_text(encoding="utf-8")
