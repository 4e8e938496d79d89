"""How good predictions were, from rows whose outcome is known.

Scores, labels and weights are (n,). A label is 1 for a positive, 0 for a negative, NaN where it is not known: such rows
are left out, as are rows without a score. Between 0 and 1 it is the probability of a positive, and the row counts for
that share as one (which is what estimates without labels need). A figure that cannot be had from the rows (none, or
positives only) is None, never an exception or NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueup.domain.batch import Bools, Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Mean score against the share of positives, by bins of the score that have rows, lowest first."""

    scores: Floats  # (bins,) mean score
    shares: Floats  # (bins,) of positives
    rows: Ints  # (bins,)
    masses: Floats  # (bins,) sum of weights

    @property
    def error(self) -> float | None:
        """Expected calibration error: the mean of |share - score| over bins, by their mass.

        (Naeini, Cooper & Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning", AAAI.)
        """
        total = float(self.masses.sum())
        return float(self.masses @ np.abs(self.shares - self.scores)) / total if total > 0 else None


def rows_known(labels: ArrayLike, *others: ArrayLike) -> int:
    """How many rows have a label, and each of the others."""
    return int(_known(labels, *others).sum())


def auc(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """The probability that a positive has a higher score than a negative, ties counting half.

    By ranks: the Mann-Whitney statistic over positives times negatives (Hanley & McNeil 1982, "The meaning and use
    of the area under a receiver operating characteristic (ROC) curve", Radiology 143).
    """
    positives, negatives = _by_score(scores, labels, weights)
    pairs = positives.sum() * negatives.sum()
    if not pairs > 0:
        return None
    beaten = np.cumsum(negatives) - negatives / 2
    return float(positives @ beaten / pairs)


def average_precision(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """The sum over thresholds of precision times the gain in recall, equal scores being one threshold.

    (Manning, Raghavan & Schütze 2008, "Introduction to Information Retrieval", section 8.4; as in scikit-learn.)
    """
    positives, negatives = _by_score(scores, labels, weights)
    total = positives.sum()
    if not total > 0:
        return None
    hits, misses = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    gain = np.diff(hits, prepend=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(hits + misses > 0, hits / (hits + misses), 0.0)
    return float(precision @ gain / total)


def brier(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Mean squared difference of probability and label (Brier 1950, Monthly Weather Review 78).

    Of a label between 0 and 1: its expectation.
    """
    return mean(brier_losses(scores, labels), weights)


def brier_losses(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """The loss of each row (n,), NaN where it is not known."""
    s, y = _floats(scores), _floats(labels)
    losses: Floats = y * (1 - s) ** 2 + (1 - y) * s**2
    return losses


def log_loss(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Mean of -ln of the probability given to what happened, probabilities held off 0 and 1 by 2.2e-16.

    (Good 1952, "Rational decisions", JRSS B 14; the bound as in scikit-learn.)
    """
    return mean(log_losses(scores, labels), weights)


def log_losses(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """The loss of each row (n,), NaN where it is not known."""
    smallest = np.finfo(np.float64).eps
    s, y = np.clip(_floats(scores), smallest, 1 - smallest), _floats(labels)
    losses: Floats = -(y * np.log(s) + (1 - y) * np.log(1 - s))
    return losses


def base_rate(labels: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Share of positives."""
    return mean(_floats(labels), weights)


def reliability(
    scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None, *, bins: int = 10, equal_mass: bool = True
) -> Reliability:
    """The reliability curve, by quantiles of the score (equal scores stay together) or by equal widths of [0, 1].

    A bin holds the scores above its lower edge up to its upper one, and the first one its lower edge too, as in
    scikit-learn's ``calibration_curve``.
    """
    s, y, w = _kept(scores, labels, weights)
    within = np.arange(1, bins) / bins
    edges = within if not equal_mass or not len(s) else np.quantile(s, within)
    place = np.searchsorted(edges, s)
    rows = np.bincount(place, minlength=bins)
    masses, of_scores, of_labels = (np.bincount(place, by, bins).astype(np.float64) for by in (w, w * s, w * y))
    used = masses > 0
    return Reliability(
        of_scores[used] / masses[used], of_labels[used] / masses[used], rows[used].astype(np.int64), masses[used]
    )


def ece(
    scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None, *, bins: int = 10, equal_mass: bool = True
) -> float | None:
    """Expected calibration error of the reliability curve."""
    return reliability(scores, labels, weights, bins=bins, equal_mass=equal_mass).error


def daily_top(ranks: ArrayLike, days: ArrayLike, k: int, keys: ArrayLike) -> Bools:
    """Mask (n,) of the rows that a desk gets to: each day the ``k`` of the highest ``ranks``, ties by the lesser key.

    Rows whose label is not known yet take their place like any other; rows without a rank come last.
    """
    r, d = _floats(ranks), np.asarray(days)
    order = np.lexsort((np.asarray(keys), np.where(np.isnan(r), np.inf, -r), d))
    in_order = d[order]
    first = np.r_[True, in_order[1:] != in_order[:-1]] if len(d) else np.zeros(0, bool)
    starts = np.flatnonzero(first)
    place = np.arange(len(d)) - np.repeat(starts, np.diff(np.r_[starts, len(d)]))
    chosen = np.zeros(len(d), bool)
    chosen[order] = place < k
    return chosen


def precision_at_k(ranks: ArrayLike, labels: ArrayLike, days: ArrayLike, k: int, keys: ArrayLike) -> float | None:
    """Share of positives among all rows that were in the top ``k`` of their day and have a label."""
    return base_rate(_floats(labels)[daily_top(ranks, days, k, keys)])


def lift(chosen: Bools, labels: ArrayLike) -> float | None:
    """Share of positives among the chosen rows over that among all."""
    y = _floats(labels)
    among, overall = base_rate(y[chosen]), base_rate(y)
    return among / overall if among is not None and overall else None


def value_caught(chosen: Bools, labels: ArrayLike, values: ArrayLike) -> float | None:
    """Share of the positives' value that lies in the chosen rows: what looking at them could save.

    ``values`` are what a positive costs (a penalty, a penalty's expectation), in one unit and not negative; a row
    without one is left out.
    """
    y, v = _floats(labels), _floats(values)
    worth = np.where(np.isnan(y) | np.isnan(v), 0.0, y * v)
    total = float(worth.sum())
    return float(worth[chosen].sum()) / total if total > 0 else None


def mae(predictions: ArrayLike, actuals: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Mean absolute error."""
    return mean(np.abs(_floats(predictions) - _floats(actuals)), weights)


def rmse(predictions: ArrayLike, actuals: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Square root of the mean squared error."""
    squared = mean((_floats(predictions) - _floats(actuals)) ** 2, weights)
    return None if squared is None else float(np.sqrt(squared))


def bias(predictions: ArrayLike, actuals: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Mean of prediction less actual: above 0 where the model says too much."""
    return mean(_floats(predictions) - _floats(actuals), weights)


def mean(values: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Weighted mean of the values that are not NaN; None without any."""
    v = _floats(values)
    w = np.ones_like(v) if weights is None else _floats(weights)
    known = ~np.isnan(v)
    total = float(w[known].sum())
    return float(w[known] @ v[known]) / total if total > 0 else None


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, np.float64).ravel()


def _known(*columns: ArrayLike) -> Bools:
    known: Bools = np.logical_and.reduce([~np.isnan(_floats(column)) for column in columns])
    return known


def _kept(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    """Scores, labels and weights of the rows that have both."""
    s, y = _floats(scores), _floats(labels)
    w = np.ones_like(s) if weights is None else _floats(weights)
    known = _known(s, y)
    return s[known], y[known], w[known]


def _by_score(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    """Mass of positives and of negatives at each distinct score, lowest first."""
    s, y, w = _kept(scores, labels, weights)
    order = np.argsort(s, kind="stable")
    s, y, w = s[order], y[order], w[order]
    starts: NDArray[np.intp] = np.flatnonzero(np.r_[True, s[1:] != s[:-1]]) if len(s) else np.zeros(0, np.intp)
    if not len(starts):
        return np.zeros(0), np.zeros(0)
    return np.add.reduceat(w * y, starts), np.add.reduceat(w * (1 - y), starts)
