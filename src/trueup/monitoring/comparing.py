"""Champion against challenger on the same rows: what one gained over the other, not what each got by itself.

Both scored the same instances, so their figures move together, and the difference is known far better than either.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from trueup.domain.measuring import Better, Difference
from trueup.monitoring.intervals import LEVEL, USUAL, Resampling, known_rows, placements, resampled, spread
from trueup.monitoring.scipy import scipy

FEW_DISCORDANT = 25


def auc_difference(
    champion: ArrayLike, challenger: ArrayLike, labels: ArrayLike, *, level: float = LEVEL, margin: float = 0.0
) -> Difference:
    """Difference of AUC of two scores (n,) of the same rows with labels (n,), NaN where not known, by paired DeLong.

    The variance is that of the differences of the structural components. (DeLong, DeLong & Clarke-Pearson 1988,
    "Comparing the areas under two or more correlated receiver operating characteristic curves", Biometrics 44.)
    """
    a, b, y = known_rows(champion, challenger, labels)
    positive = y == 1
    if min(positive.sum(), (~positive).sum()) < 2:
        return Difference("auc", None, None, None, None, len(y), Better.UNDECIDED)
    parts = zip(placements(b, positive), placements(a, positive), strict=True)
    of_positives, of_negatives = (theirs - ours for theirs, ours in parts)
    variance = of_positives.var(ddof=1) / len(of_positives) + of_negatives.var(ddof=1) / len(of_negatives)
    return _normal("auc", float(of_positives.mean()), math.sqrt(variance), len(y), level, margin)


def accuracy_difference(
    champion_right: ArrayLike, challenger_right: ArrayLike, *, level: float = LEVEL, margin: float = 0.0
) -> Difference:
    """Difference of the shares of right decisions (n,), by McNemar's test of the rows on which the two disagree.

    Fewer than 25 such rows: exact, by the binomial distribution; else chi-square with Edwards' correction. The
    interval is Wald's with Bonett and Price's adjustment, one row added to each kind of disagreement. (McNemar 1947,
    Psychometrika 12; Edwards 1948; Bonett & Price 2012, Journal of Educational and Behavioral Statistics 37.)
    """
    ours, theirs = np.asarray(champion_right, bool), np.asarray(challenger_right, bool)
    n = len(ours)
    if not n:
        return Difference("accuracy", None, None, None, None, 0, Better.UNDECIDED)
    gained, lost = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    value = (gained - lost) / n
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = _quantile(level) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    low, high = max(up - down - reach, -1.0), min(up - down + reach, 1.0)
    return Difference("accuracy", value, low, high, mcnemar(gained, lost), n, _better(low, high, margin))


def mcnemar(gained: int, lost: int) -> float:
    """p-value of as uneven a split of the rows on which two decisions disagree, where both are equally good."""
    disagreed = gained + lost
    if disagreed < FEW_DISCORDANT:
        return float(scipy("stats").binomtest(gained, disagreed).pvalue) if disagreed else 1.0
    return float(scipy("stats").chi2.sf((abs(gained - lost) - 1) ** 2 / disagreed, 1))


def loss_difference(
    metric: str,
    champion_losses: ArrayLike,
    challenger_losses: ArrayLike,
    *,
    resampling: Resampling = USUAL,
    strata: ArrayLike | None = None,
    margin: float = 0.0,
) -> Difference:
    """Difference of mean losses (n,) of the same rows, NaN where not known, by the paired bootstrap.

    A lower loss is better. The p-value is twice the lesser share of resampled differences on either side of 0, and
    never below 2 / (draws + 1). (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 16.)
    """
    gaps = np.asarray(challenger_losses, np.float64) - np.asarray(champion_losses, np.float64)
    known = ~np.isnan(gaps)
    gaps, within = gaps[known], None if strata is None else np.asarray(strata)[known]
    value, drawn = resampled(lambda rows: float(gaps[rows].mean()), len(gaps), resampling, within)
    found = spread(value, drawn, len(gaps), resampling)
    if found.low is None or found.high is None:
        return Difference(metric, value, None, None, None, found.n, Better.UNDECIDED)
    lesser = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, 2 * (lesser + 1) / (len(drawn) + 1))
    better = _better(-found.high, -found.low, margin)
    return Difference(metric, value, found.low, found.high, p_value, found.n, better)


def _normal(metric: str, value: float, deviation: float, n: int, level: float, margin: float) -> Difference:
    if deviation == 0:
        p_value = 1.0 if value == 0 else 0.0
        return Difference(metric, value, value, value, p_value, n, _better(value, value, margin))
    reach = _quantile(level) * deviation
    p_value = 2 * float(scipy("stats").norm.sf(abs(value) / deviation))
    low, high = value - reach, value + reach
    return Difference(metric, value, low, high, p_value, n, _better(low, high, margin))


def _quantile(level: float) -> float:
    return float(scipy("stats").norm.isf((1 - level) / 2))


def _better(low: float, high: float, margin: float) -> Better:
    """Of a difference of which more is better: decided where all of its interval is beyond the margin."""
    if low > margin:
        return Better.CHALLENGER
    return Better.CHAMPION if high < -margin else Better.UNDECIDED
