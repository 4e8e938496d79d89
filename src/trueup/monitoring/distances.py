"""Distances between a reference and a window, from counts in the same bins or from raw samples.

Counts are (..., bins): leading axes are many windows at once, and the result has their shape. ``reference`` and
``current`` broadcast. Where one side has no rows the distance is NaN; ``evidence`` makes None of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueup.domain.batch import Floats

EMPTY = 0.5  # rows that an empty bin counts as, for PSI only


def psi(reference: ArrayLike, current: ArrayLike) -> Any:
    """Population stability index: sum over bins of (q - p) ln(q / p), p and q the shares of reference and current.

    A bin that is empty on one side counts as half a row there, its share 0.5 / rows of that side (the other shares
    stay as they are); one that is empty on both sides counts for nothing. So the floor fades as samples grow, and no
    constant decides how much an unseen category weighs. (Yurdakul & Naranjo 2020, "Statistical properties of the
    population stability index", Journal of Risk Model Validation 14(4).)
    """
    p, q, used = _floored(reference, current)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(used, (q - p) * np.log(q / p), 0.0).sum(-1)[()]


def js_distance(reference: ArrayLike, current: ArrayLike) -> Any:
    """Jensen-Shannon distance: the square root of (KL(p, m) + KL(q, m)) / 2 with m = (p + q) / 2.

    Natural logarithm, so at most sqrt(ln 2) = 0.8326. Empty bins need no floor. (Endres & Schindelin 2003, "A new
    metric for probability distributions", IEEE Transactions on Information Theory 49(7).)
    """
    p, q = _shares(reference), _shares(current)
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return np.sqrt(np.maximum(divergence, 0.0))[()]


def chi_square(reference: ArrayLike, current: ArrayLike) -> Any:
    """Pearson's statistic of the 2 x bins table: sum of (observed - expected)^2 / expected over both rows.

    It grows with the rows; as an effect take :func:`cramer_v`. (Pearson 1900; homogeneity as in Agresti 2013,
    "Categorical Data Analysis", section 3.2.)
    """
    a, b = _counts(reference), _counts(current)
    n, m = a.sum(-1, keepdims=True), b.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        # (n q - m p)^2 / (n m (a + b)) is both rows' terms of a bin together
        terms = np.where(a + b > 0, (n * b - m * a) ** 2 / (n * m * (a + b)), 0.0).sum(-1)
    return np.where((n > 0) & (m > 0), terms[..., None], np.nan)[..., 0][()]


def cramer_v(chi_square: ArrayLike, reference_n: float, n: float) -> Any:
    """Cramér's V of a 2 x bins table: sqrt(chi-square / rows), 0 for equal shares and 1 for disjoint ones.

    (Cramér 1946, "Mathematical Methods of Statistics", section 21.9; the table's smaller dimension less one is 1.)
    """
    return np.sqrt(np.asarray(chi_square, np.float64) / (reference_n + n))[()]


def l_infinity(reference: ArrayLike, current: ArrayLike) -> Any:
    """The largest change of a bin's share: max |q - p|."""
    return np.abs(_shares(current) - _shares(reference)).max(-1)[()]


def kolmogorov_smirnov(reference: ArrayLike, current: ArrayLike) -> Any:
    """The largest difference of the cumulative shares of ordered bins: max |Q - P|.

    Never above the statistic of the raw values, and below it by no more than the largest share of a bin (1 / 200
    for the intervals of :func:`~trueup.monitoring.binning.numeric_profile`; equal where each value has its own).
    (Smirnov 1939; Massey 1951, "The Kolmogorov-Smirnov test for goodness of fit", JASA 46.)
    """
    return np.abs(_cumulative(current) - _cumulative(reference)).max(-1)[()]


def wasserstein(reference: ArrayLike, current: ArrayLike, edges: ArrayLike, deviation: float | None = None) -> Any:
    """The area between the cumulative shares, in the field's unit, or in units of ``deviation`` where it is given.

    Counts (..., intervals + 2) are those of ``below``, the intervals between ``edges`` and ``above``. Rows lie evenly
    within their interval; rows below and above lie at the first and the last edge. With a profile's ``held_edges``
    and ``scale`` the distance is that of values held between the reference's quantiles of 0.5 % and 99.5 %, in their
    standard deviation: a wild value, of either side, adds what a row at the quantile adds. 0 where ``deviation`` is
    0, as all mass lies at one point. (Vallender 1974, "Calculation of the Wasserstein distance between probability
    distributions on the line", Theory of Probability 18(4); held values: Dixon & Tukey 1968, winsorization.)
    """
    between = (_cumulative(current) - _cumulative(reference))[..., :-1]  # at each edge
    widths = np.diff(np.asarray(edges, np.float64))
    area = area_between(between, widths)
    if deviation is None:
        return area[()]
    return (area / deviation if deviation > 0 else area * 0.0)[()]


def area_between(gaps: Floats, widths: Floats) -> Any:
    """The area (...) under the gap's size, straight between the edges at which the gaps (..., edges) are known."""
    left, right = np.abs(gaps[..., :-1]), np.abs(gaps[..., 1:])
    same = gaps[..., :-1] * gaps[..., 1:] >= 0
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = (left**2 + right**2) / (2 * (left + right))  # a line that changes its sign makes two triangles
    return np.where(same, (left + right) / 2, crossing) @ widths


def kolmogorov_smirnov_of_samples(reference: ArrayLike, current: ArrayLike) -> float:
    """The two-sample statistic of raw values: sup |F - G|. NaN is left out."""
    a, b = _present(reference), _present(current)
    if not len(a) or not len(b):
        return float("nan")
    points = np.concatenate([a, b])
    return float(np.abs(_distribution(a, points) - _distribution(b, points)).max())


def wasserstein_of_samples(reference: ArrayLike, current: ArrayLike, deviation: float | None = None) -> float:
    """The area between the empirical distributions of raw values, over ``deviation`` where it is given.

    NaN is left out. One wild value among n adds its distance / n: prefer :func:`wasserstein` for verdicts.
    """
    a, b = _present(reference), _present(current)
    if not len(a) or not len(b):
        return float("nan")
    points = np.sort(np.concatenate([a, b]))
    gap = np.abs(_distribution(a, points[:-1]) - _distribution(b, points[:-1]))
    area = float(gap @ np.diff(points))
    if deviation is None:
        return area
    return area / deviation if deviation > 0 else (0.0 if area == 0 else float("inf"))


def _counts(given: ArrayLike) -> Floats:
    return np.asarray(given, np.float64)


def _shares(given: ArrayLike) -> Floats:
    """Shares of each bin; NaN where there are no rows."""
    counts = _counts(given)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Floats = counts / counts.sum(-1, keepdims=True)
    return shares


def _floored(reference: ArrayLike, current: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Shares with ``EMPTY`` rows in empty bins, and which bins count: those with rows, or all if a side has none."""
    a, b = _counts(reference), _counts(current)
    n, m = a.sum(-1, keepdims=True), b.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.where(n > 0, np.where(a > 0, a, EMPTY) / n, np.nan)
        q = np.where(m > 0, np.where(b > 0, b, EMPTY) / m, np.nan)
    return p, q, (a + b > 0) | (n == 0) | (m == 0)


def _relative_entropy(p: Floats, q: Floats) -> Any:
    """Sum of p ln(p / q), where 0 ln 0 is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(p == 0, 0.0, p * np.log(p / q)).sum(-1)


def _cumulative(given: ArrayLike) -> Floats:
    counts = np.cumsum(_counts(given), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Floats = counts / counts[..., -1:]
    return shares


def _present(values: ArrayLike) -> Floats:
    numbers = np.asarray(values, np.float64).ravel()
    return np.sort(numbers[~np.isnan(numbers)])


def _distribution(ordered: Floats, points: Floats) -> Floats:
    """Share of the ordered values that is at most each point."""
    below: Floats = np.searchsorted(ordered, points, "right") / len(ordered)
    return below
