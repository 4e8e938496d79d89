"""Performance before the outcomes are in: estimated, under assumptions that are shown with every figure.

An estimate says what the figure will be *if the assumptions hold*; its interval is where the realised figure then lies.
So when outcomes come, a realised figure outside the interval is evidence against the assumptions, most often that
what an instance means has changed (concept drift).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from trueup.domain.batch import Floats
from trueup.domain.measuring import Estimate
from trueup.errors import MissingExtra
from trueup.monitoring import performance
from trueup.monitoring.calibration import Calibration
from trueup.monitoring.intervals import LEVEL, USUAL, Places, Resampling, laid_around, spread
from trueup.monitoring.scipy import scipy

Figure = Callable[[Places, Floats], float | None]  # of rows and their labels

LEAST_ROWS = 200  # of which an error is learned; fewer say nothing of how it depends on the features

CBPE_ASSUMPTIONS = (
    "CBPE: scores are probabilities, or became so by calibration on the reference; "
    "what a score means has not changed since (no concept drift); "
    "instances do not come from regions the reference has not seen; "
    "the window is large enough; the model was not trained on the reference."
)
DLE_ASSUMPTIONS = (
    "DLE: how wrong the model is depends on the features and the prediction as it did in the reference "
    "(no concept drift); instances do not come from regions the reference has not seen; "
    "the window is large enough; the model was not trained on the reference."
)


def assumed(metric: str) -> str | None:
    """What an estimate rests on; None for a metric that is none."""
    if not metric.startswith("estimated_"):
        return None
    return DLE_ASSUMPTIONS if metric in ("estimated_mae", "estimated_rmse") else CBPE_ASSUMPTIONS


@dataclass(frozen=True, slots=True)
class ExpectedCounts:
    """What the decisions of a window are expected to turn out as, in rows."""

    true_positives: float
    false_positives: float
    false_negatives: float
    true_negatives: float

    @property
    def accuracy(self) -> float | None:
        """Share of right decisions."""
        return _ratio(self.true_positives + self.true_negatives, self.false_positives + self.false_negatives)

    @property
    def precision(self) -> float | None:
        """Share of positives among those decided positive."""
        return _ratio(self.true_positives, self.false_positives)

    @property
    def recall(self) -> float | None:
        """Share of positives that were decided positive."""
        return _ratio(self.true_positives, self.false_negatives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        return _ratio(self.true_positives, (self.false_positives + self.false_negatives) / 2)


def expected_counts(probabilities: ArrayLike, decisions: ArrayLike) -> ExpectedCounts:
    """The confusion matrix that probabilities of a positive (n,) lead to expect of decisions (n,).

    (NannyML's confidence-based performance estimation; Bialek et al. 2024, arXiv 2401.08348.)
    """
    p, act = np.asarray(probabilities, np.float64), np.asarray(decisions, bool)
    return ExpectedCounts(
        float(p[act].sum()), float((1 - p[act]).sum()), float(p[~act].sum()), float((1 - p[~act]).sum())
    )


def estimated_probability_figures(
    scores: ArrayLike,
    calibration: Calibration,
    decisions: ArrayLike | None = None,
    resampling: Resampling = USUAL,
) -> dict[str, Estimate]:
    """What the figures of scores (n,) will be, by CBPE; of decisions (n,) too where there are any.

    Each row counts as a positive for the probability that it is one. The interval is that of figures of outcomes
    drawn with those probabilities. Assumes :data:`CBPE_ASSUMPTIONS`.
    """
    given = np.asarray(scores, np.float64)
    present = np.argsort(given, kind="stable")[: np.count_nonzero(~np.isnan(given))]  # by score, NaN last
    s = given[present]
    p = calibration.of(s)
    figures: dict[str, Figure] = {
        "estimated_auc": lambda i, y: performance.auc(s[i], y),
        "estimated_average_precision": lambda i, y: performance.average_precision(s[i], y),
        "estimated_brier": lambda i, y: performance.brier(s[i], y),
        "estimated_log_loss": lambda i, y: performance.log_loss(s[i], y),
        "estimated_base_rate": lambda i, y: performance.base_rate(y),
    }
    if decisions is not None:
        act = np.asarray(decisions, bool)[present]
        figures |= {
            "estimated_accuracy": lambda i, y: expected_counts(y, act[i]).accuracy,
            "estimated_precision": lambda i, y: expected_counts(y, act[i]).precision,
            "estimated_recall": lambda i, y: expected_counts(y, act[i]).recall,
            "estimated_f1": lambda i, y: expected_counts(y, act[i]).f1,
        }
    return {name: _foreseen(statistic, p, resampling) for name, statistic in figures.items()}


class Regressor(Protocol):
    """What learns a loss: as scikit-learn's regressors do."""

    def fit(self, x: Floats, y: Floats, /) -> Any:
        """Learns ``y`` (n,) from ``x`` (n, features)."""

    def predict(self, x: Floats, /) -> Any:
        """What it expects (n,) of ``x`` (n, features)."""


@dataclass(frozen=True, slots=True)
class LossModel:
    """Two regressors that expect the absolute and the squared error, and how those spread in the reference."""

    absolute: Regressor
    squared: Regressor
    absolute_deviation: float
    squared_deviation: float


def gradient_boosting() -> Regressor:
    """A regressor that takes NaN as it comes: scikit-learn's histogram gradient boosting. Raises MissingExtra."""
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError:
        raise MissingExtra("monitoring", "estimating errors by direct loss estimation") from None
    regressor: Regressor = HistGradientBoostingRegressor(random_state=0, early_stopping=False)
    return regressor


def fitted_loss_model(
    features: ArrayLike,
    predictions: ArrayLike,
    actuals: ArrayLike,
    make: Callable[[], Regressor] = gradient_boosting,
) -> LossModel | None:
    """Direct loss estimation's second model, fitted on the reference: features (n, f), predictions and actuals (n,).

    None with fewer than :data:`LEAST_ROWS` rows whose actual is known. (NannyML's direct loss estimation.)
    """
    a, p = np.asarray(actuals, np.float64), np.asarray(predictions, np.float64)
    known = ~np.isnan(a) & ~np.isnan(p)
    if known.sum() < LEAST_ROWS:
        return None
    x, error = _with_prediction(features, p)[known], np.abs(a - p)[known]
    absolute, squared = make(), make()
    absolute.fit(x, error)
    squared.fit(x, error**2)
    return LossModel(absolute, squared, float(error.std()), float((error**2).std()))


def estimated_number_figures(
    model: LossModel, features: ArrayLike, predictions: ArrayLike, level: float = LEVEL
) -> dict[str, Estimate]:
    """What MAE and RMSE of predictions (n,) of features (n, f) will be: the mean loss that the model expects.

    The interval is that of the mean of losses that spread as they did in the reference. Assumes
    :data:`DLE_ASSUMPTIONS`.
    """
    p = np.asarray(predictions, np.float64)
    x = _with_prediction(features, p)[~np.isnan(p)]
    n = len(x)
    if not n:
        return dict.fromkeys(("estimated_mae", "estimated_rmse"), Estimate(None, None, None, 0))
    reach = float(scipy("stats").norm.isf((1 - level) / 2)) / math.sqrt(n)
    absolute = max(float(np.mean(model.absolute.predict(x))), 0.0)
    squared = max(float(np.mean(model.squared.predict(x))), 0.0)
    wide, wider = reach * model.absolute_deviation, reach * model.squared_deviation
    return {
        "estimated_mae": Estimate(absolute, max(absolute - wide, 0.0), absolute + wide, n),
        "estimated_rmse": Estimate(
            math.sqrt(squared), math.sqrt(max(squared - wider, 0.0)), math.sqrt(squared + wider), n
        ),
    }


@dataclass(frozen=True, slots=True)
class Foresight:
    """An estimate beside what came: ``holds`` says whether the realised figure lies where it was expected."""

    difference: float | None  # realised less estimated
    holds: bool | None


def foresight(estimated: Estimate, realised: Estimate) -> Foresight:
    """How the estimate of a window did, once the same rows have their outcomes."""
    if estimated.value is None or realised.value is None:
        return Foresight(None, None)
    difference = realised.value - estimated.value
    if estimated.low is None or estimated.high is None:
        return Foresight(difference, None)
    return Foresight(difference, estimated.low <= realised.value <= estimated.high)


def _foreseen(statistic: Figure, probabilities: Floats, resampling: Resampling) -> Estimate:
    """The figure that probabilities lead to expect, and the spread of it over outcomes drawn with them."""
    n = len(probabilities)
    every = np.arange(n)
    value = statistic(every, probabilities) if n else None
    if value is None:
        return Estimate(None, None, None, n)
    random = np.random.default_rng(resampling.seed)
    m = min(n, resampling.most_rows)
    rows = every if m == n else np.sort(random.choice(n, m, replace=False))
    p = probabilities[rows]
    drawn = [statistic(rows, (random.random(m) < p).astype(np.float64)) for _ in range(resampling.draws)]
    return spread(value, laid_around(value, drawn, m / n), n, resampling)


def _with_prediction(features: ArrayLike, predictions: Floats) -> Floats:
    return np.column_stack([np.asarray(features, np.float64), predictions])


def _ratio(part: float, rest: float) -> float | None:
    return part / (part + rest) if part + rest > 0 else None
