"""All figures of a window's performance, each with its interval, under the names that measurements have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueup.domain.batch import Bools, Floats
from trueup.domain.measuring import Estimate
from trueup.monitoring import performance
from trueup.monitoring.intervals import (
    LEVEL,
    USUAL,
    Resampling,
    auc_interval,
    base_rate_interval,
    bootstrap,
    known_rows,
    mean_interval,
    rmse_interval,
    within,
)


def probability_figures(scores: ArrayLike, labels: ArrayLike, resampling: Resampling = USUAL) -> dict[str, Estimate]:
    """Of scores (n,) that are probabilities and labels (n,), NaN where not known."""
    s, y = known_rows(scores, labels)
    order = np.argsort(s, kind="stable")
    s, y = s[order], y[order]
    level = resampling.level
    precision = bootstrap(lambda i: performance.average_precision(s[i], y[i]), len(s), resampling)
    calibration = bootstrap(lambda i: performance.ece(s[i], y[i]), len(s), resampling)
    return {
        "auc": auc_interval(s, y, level),
        "average_precision": within(precision, 0, 1),
        "brier": within(mean_interval(performance.brier_losses(s, y), level), 0, 1),
        "log_loss": within(mean_interval(performance.log_losses(s, y), level), 0, np.inf),
        "ece": within(calibration, 0, 1),
        "base_rate": base_rate_interval(y, level),
    }


def ranking_figures(
    ranks: ArrayLike,
    labels: ArrayLike,
    days: ArrayLike,
    keys: ArrayLike,
    k: int,
    values: ArrayLike | None = None,
    resampling: Resampling = USUAL,
) -> dict[str, Estimate]:
    """Of a desk that gets to ``k`` rows a day: those of the highest ``ranks`` (n,), ties by the lesser ``keys`` (n,).

    ``values`` (n,), where there are any, are what a positive costs. Which rows are at the top is settled once and not
    resampled: those are the rows that the desk had before it.
    """
    y, d = np.asarray(labels, np.float64).ravel(), np.asarray(days)
    chosen = performance.daily_top(ranks, d, k, keys)
    known = ~np.isnan(y)
    c, u = chosen[known], y[known]
    by_day = bootstrap(lambda i: performance.lift(c[i], u[i]), len(u), resampling, d[known])
    found = {
        "precision_at_k": base_rate_interval(y[chosen], resampling.level),
        "lift": within(by_day, 0, np.inf),
    }
    if values is not None:
        found["value_caught"] = _value_caught(chosen, y, np.asarray(values, np.float64).ravel(), d, resampling)
    return found


def number_figures(predictions: ArrayLike, actuals: ArrayLike, level: float = LEVEL) -> dict[str, Estimate]:
    """Of predicted and actual numbers (n,), NaN where not known."""
    p, a = known_rows(predictions, actuals)
    return {
        "mae": within(mean_interval(np.abs(p - a), level), 0, np.inf),
        "rmse": rmse_interval(p, a, level),
        "bias": mean_interval(p - a, level),
    }


def _value_caught(
    chosen: Bools, labels: Floats, values: Floats, days: NDArray[Any], resampling: Resampling
) -> Estimate:
    worth = (labels > 0) & ~np.isnan(values)  # other rows add nothing
    c, y, v = chosen[worth], labels[worth], values[worth]
    by_day = bootstrap(lambda i: performance.value_caught(c[i], y[i], v[i]), len(v), resampling, days[worth])
    return within(by_day, 0, 1)
