"""How far a figure may be off: confidence intervals, and bounds while labels are missing.

| figure | interval |
|---|---|
| share (base rate, precision at k) | Clopper and Pearson's where fewer than ten rows fell on one side; else Wilson's |
| AUC | DeLong's variance, on the log-odds scale |
| mean loss (Brier, log loss, MAE, bias), RMSE | Student's t |
| anything else (average precision, ECE, value caught, lift) | bootstrap of rows, within strata where they are given |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueup.domain.batch import Bools, Floats
from trueup.domain.measuring import Estimate
from trueup.monitoring.performance import auc, mean
from trueup.monitoring.scipy import scipy

Places = NDArray[np.intp]
LEVEL = 0.95
_FEW = 10


@dataclass(frozen=True, slots=True)
class Resampling:
    """How rows are drawn again: ``draws`` times, at most ``most_rows`` of them, the same ones for the same ``seed``."""

    level: float = LEVEL
    draws: int = 200
    most_rows: int = 50_000
    seed: int = 0


USUAL = Resampling()


def share_interval(successes: float, n: int, level: float = LEVEL) -> Estimate:
    """A share with its interval.

    Clopper and Pearson's covers at least ``level`` whatever the truth, and is wide; it is taken where fewer than ten
    of either kind were seen. Else Wilson's, which covers ``level`` on average. (Clopper & Pearson 1934, Biometrika
    26; Wilson 1927, JASA 22; Brown, Cai & DasGupta 2001, "Interval estimation for a binomial proportion".)
    """
    if n <= 0:
        return Estimate(None, None, None, 0)
    k, tail = round(successes), (1 - level) / 2
    low, high = _clopper_pearson(k, n, tail) if min(k, n - k) < _FEW else _wilson(k, n, tail)
    return Estimate(successes / n, low, high, n)


def _clopper_pearson(k: int, n: int, tail: float) -> tuple[float, float]:
    """As quantiles of the beta distribution, which scipy's binomtest looks for step by step."""
    quantile = scipy("special").betaincinv
    low = float(quantile(k, n - k + 1, tail)) if k > 0 else 0.0
    return low, float(quantile(k + 1, n - k, 1 - tail)) if k < n else 1.0


def _wilson(k: int, n: int, tail: float) -> tuple[float, float]:
    z2 = float(scipy("special").ndtri(tail)) ** 2
    share = k / n
    reach = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * n)) / n)
    return (share + z2 / (2 * n) - reach) / (1 + z2 / n), (share + z2 / (2 * n) + reach) / (1 + z2 / n)


def base_rate_interval(labels: ArrayLike, level: float = LEVEL) -> Estimate:
    """The share of positives among the labels (n,) that are not NaN."""
    y = _known(labels)
    return share_interval(float(y.sum()), len(y), level)


def mean_interval(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """The mean of the values (n,) that are not NaN, by Student's t (Student 1908). One has no interval."""
    v = _known(values)
    centre = mean(v)
    if centre is None or len(v) < 2:
        return Estimate(centre, None, None, len(v))
    reach = float(scipy("stats").t.isf((1 - level) / 2, len(v) - 1)) * float(v.std(ddof=1)) / math.sqrt(len(v))
    return Estimate(centre, centre - reach, centre + reach, len(v))


def rmse_interval(predictions: ArrayLike, actuals: ArrayLike, level: float = LEVEL) -> Estimate:
    """Root of the mean squared error, by the interval of the mean squared error, held at 0 or above."""
    squared = (np.asarray(predictions, np.float64) - np.asarray(actuals, np.float64)) ** 2
    found = mean_interval(squared, level)
    value, low, high = (None if v is None else math.sqrt(max(v, 0.0)) for v in (found.value, found.low, found.high))
    return Estimate(value, low, high, found.n)


def auc_interval(scores: ArrayLike, labels: ArrayLike, level: float = LEVEL) -> Estimate:
    """AUC with DeLong's variance, its interval symmetric in log-odds and so within [0, 1].

    Where positives and negatives do not overlap the variance is 0: then by Clopper and Pearson, of as many rows as
    the rarer class has. (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44; the logit interval as in Qin &
    Hotilovac 2008, Statistical Methods in Medical Research 17.)
    """
    s, y = known_rows(scores, labels)
    value = auc(s, y)
    if value is None:
        return Estimate(None, None, None, len(s))
    of_positives, of_negatives = placements(s, y == 1)
    if min(len(of_positives), len(of_negatives)) < 2:
        return Estimate(value, None, None, len(s))
    deviation = math.sqrt(of_positives.var(ddof=1) / len(of_positives) + of_negatives.var(ddof=1) / len(of_negatives))
    if deviation == 0 or value in (0.0, 1.0):
        rarer = min(len(of_positives), len(of_negatives))
        exact = scipy("stats").binomtest(round(value * rarer), rarer).proportion_ci(level, "exact")
        return Estimate(value, float(exact.low), float(exact.high), len(s))
    reach = float(scipy("stats").norm.isf((1 - level) / 2)) * deviation / (value * (1 - value))
    odds = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-(odds + side))) for side in (-reach, reach))
    return Estimate(value, low, high, len(s))


def placements(scores: Floats, positive: Bools) -> tuple[Floats, Floats]:
    """Of each positive the share of negatives it beats, and of each negative the share of positives that beat it.

    Ties count half. Both have the AUC as their mean, and their variances are DeLong's structural components.
    """
    of_positives, of_negatives = np.sort(scores[positive]), np.sort(scores[~positive])
    beats = _midrank(of_negatives, scores[positive]) / len(of_negatives)
    beaten = 1 - _midrank(of_positives, scores[~positive]) / len(of_positives)
    return beats, beaten


def bootstrap(
    statistic: Callable[[Places], float | None],
    n: int,
    resampling: Resampling = USUAL,
    strata: ArrayLike | None = None,
) -> Estimate:
    """The statistic of all ``n`` rows, given as places (n,), with the interval that resampling them gives."""
    value, drawn = resampled(statistic, n, resampling, strata)
    return spread(value, drawn, n, resampling)


def resampled(
    statistic: Callable[[Places], float | None],
    n: int,
    resampling: Resampling = USUAL,
    strata: ArrayLike | None = None,
) -> tuple[float | None, Floats]:
    """The statistic of all ``n`` rows, and of rows drawn anew (draws,), as far as it could be had.

    Rows are drawn with replacement, each from its own stratum (n,) where there are strata, such as days. What is drawn
    is laid around the value by its median. Of more than ``most_rows`` rows only so many are drawn, and the spread
    shrinks by the root of the ratio. Seeded: the same rows give the same draws. (Efron & Tibshirani 1993, "An
    Introduction to the Bootstrap", sections 12-13; Bickel, Götze & van Zwet 1997, "Resampling fewer than n
    observations", Statistica Sinica 7.)
    """
    every = np.arange(n)
    value = statistic(every) if n else None
    if value is None:
        return None, np.zeros(0)
    order, starts, sizes = _strata(strata, n)
    random = np.random.default_rng(resampling.seed)
    m = min(n, resampling.most_rows)
    drawn: list[float | None] = []
    for _ in range(resampling.draws):
        places = every if m == n else np.sort(random.integers(0, n, m))
        chosen = order[starts[places] + (random.random(m) * sizes[places]).astype(np.intp)]
        chosen.sort()  # rows that come by score are then drawn by score, and need hardly any sorting
        drawn.append(statistic(chosen))
    return value, laid_around(value, drawn, m / n)


def laid_around(value: float, drawn: Sequence[float | None], ratio: float) -> Floats:
    """The draws around the value by their median, their spread shrunk to that of all rows from ``ratio`` of them."""
    found = np.array([one for one in drawn if one is not None], np.float64)
    return value + (found - np.median(found)) * math.sqrt(ratio) if len(found) else found


def spread(value: float | None, drawn: Floats, n: int, resampling: Resampling) -> Estimate:
    """The value with the middle of its draws; without an interval where half of them could not be had."""
    if value is None or len(drawn) < resampling.draws / 2:
        return Estimate(value, None, None, n)
    low, high = np.quantile(drawn, [(1 - resampling.level) / 2, (1 + resampling.level) / 2])
    return Estimate(value, float(low), float(high), n)


def bounds(statistic: Callable[[Floats], float | None], labels: ArrayLike) -> tuple[float | None, float | None]:
    """What the statistic is if all missing labels (NaN) turn out negative, and if all turn out positive; least first.

    For statistics that only rise with positives: a base rate, a precision at k.
    """
    y = np.asarray(labels, np.float64)
    found = [statistic(np.where(np.isnan(y), label, y)) for label in (0.0, 1.0)]
    known = sorted(v for v in found if v is not None)
    return (known[0], known[-1]) if known else (None, None)


def loss_bounds(
    losses: Callable[[ArrayLike, ArrayLike], Floats], scores: ArrayLike, labels: ArrayLike
) -> tuple[float | None, float | None]:
    """What the mean loss is if every missing label turns out as the score would have it, and if none does."""
    y = np.asarray(labels, np.float64)
    negative, positive = losses(scores, np.zeros_like(y)), losses(scores, np.ones_like(y))
    known = np.where(y == 1, positive, negative)
    least, most = (
        np.where(np.isnan(y), v, known) for v in (np.minimum(negative, positive), np.maximum(negative, positive))
    )
    return mean(least), mean(most)


def within(found: Estimate, low: float, high: float) -> Estimate:
    """The estimate with its interval held within what the figure can be."""
    if found.low is None or found.high is None:
        return found
    return Estimate(found.value, max(found.low, low), min(found.high, high), found.n)


def known_rows(*columns: ArrayLike) -> tuple[Floats, ...]:
    """The columns (n,) without the rows in which one of them is NaN."""
    values = [np.asarray(column, np.float64).ravel() for column in columns]
    known = np.logical_and.reduce([~np.isnan(v) for v in values])
    return tuple(v[known] for v in values)


def _known(values: ArrayLike) -> Floats:
    return known_rows(values)[0]


def _midrank(ordered: Floats, points: Floats) -> Floats:
    """How many of the ordered values are below each point, ties counting half."""
    below: Floats = (np.searchsorted(ordered, points, "left") + np.searchsorted(ordered, points, "right")) / 2
    return below


def _strata(strata: ArrayLike | None, n: int) -> tuple[Places, Places, Places]:
    """Rows ordered by stratum, and for each place in that order where its stratum starts and how large it is."""
    if strata is None:
        return np.arange(n), np.zeros(n, np.intp), np.full(n, n)
    _, member, sizes = np.unique(np.asarray(strata), return_inverse=True, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    return np.argsort(member, kind="stable"), np.repeat(starts, sizes), np.repeat(sizes, sizes)
