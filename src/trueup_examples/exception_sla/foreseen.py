"""What the figures of each week would be if scores were right, beside what came: CBPE against the truth.

Before outcomes are in, a figure can be estimated from the scores alone (confidence-based performance
estimation). It assumes that a score means what it says. Here it stops to: so the estimate and the realised
figure part, once with scores as they are, and less with scores calibrated on the first week whose
outcomes are in. That is the evidence; that it can only be had late is why both are shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import trueup
from trueup.monitoring import performance
from trueup.monitoring.calibration import AS_SCORED, Calibration, calibrated
from trueup.monitoring.estimates import CBPE_ASSUMPTIONS, estimated_probability_figures
from trueup.monitoring.intervals import Resampling

ASSUMPTIONS = CBPE_ASSUMPTIONS
_FIGURES = {"base_rate": performance.base_rate, "auc": performance.auc, "brier": performance.brier}
_DRAWS = Resampling(draws=200)
_ROWS = """
    SELECT date_trunc('week', event_day::timestamp)::date AS week, score, missed
    FROM ({truth}) AS queue_truth ORDER BY week, prediction_id
"""

Floats = NDArray[np.float64]


def foreseen(up: trueup.Trueup, truth: str) -> list[dict[str, Any]]:
    """One row a week and figure: estimated as scored and as calibrated, each with its interval, and realised.

    The calibration is of the first week, with the outcomes that came until the last one; the first week
    itself has no calibrated estimate.
    """
    weeks: dict[Any, tuple[list[float], list[float]]] = {}
    for row in up.query(_ROWS.format(truth=truth)):
        scores, labels = weeks.setdefault(row["week"], ([], []))
        scores.append(row["score"])
        labels.append(np.nan if row["missed"] is None else float(row["missed"]))
    found: list[dict[str, Any]] = []
    calibration: Calibration | None = None
    for week, (scores, labels) in sorted(weeks.items()):
        s, y = np.array(scores), np.array(labels)
        found += [{"week": str(week), **row} for row in _rows(s, y, calibration)]
        if calibration is None:
            calibration = calibrated(s, y)
    return found


def _rows(scores: Floats, labels: Floats, calibration: Calibration | None) -> list[dict[str, Any]]:
    as_scored = estimated_probability_figures(scores, AS_SCORED, resampling=_DRAWS)
    later = None if calibration is None else estimated_probability_figures(scores, calibration, resampling=_DRAWS)
    rows = []
    for name, figure in _FIGURES.items():
        estimate = as_scored[f"estimated_{name}"]
        known = ~np.isnan(labels)
        realised = figure(labels) if name == "base_rate" else figure(scores, labels)  # type: ignore[operator]
        within = None if realised is None or estimate.low is None else estimate.low <= realised <= estimate.high
        rows.append(
            {
                "figure": name,
                "rows": len(scores),
                "maturity": float(known.mean()) if len(known) else None,
                "estimated": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "recalibrated": None if later is None else later[f"estimated_{name}"].value,
                "realised": realised,
                "as_foreseen": within,
            }
        )
    return rows
