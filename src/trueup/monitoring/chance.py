"""What chance alone makes of a distance: by its limit distribution, or by dealing the rows out anew.

Where nothing has changed, which of the rows came from the reference is chance. So all rows, of both sides, are dealt
out again and again in hands of the same sizes: how often the distance is as large as it was is its p-value (Fisher
1935; Phipson & Smyth 2010, "Permutation p-values should never be zero"). Counts in bins say all that is needed, so
a deal is one draw of the multivariate hypergeometric distribution, however many rows there are.

With many rows the fluctuations of shares around the reference's are normal, whatever the sizes (van der Vaart 1998,
"Asymptotic Statistics", section 19.3), so those of L-infinity, KS and Wasserstein are drawn once for a profile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from trueup.domain.batch import Floats, Ints
from trueup.domain.measuring import DriftMetric, Profile
from trueup.monitoring import distances
from trueup.monitoring.scipy import scipy

FEW = 5.0  # expected rows in a bin below which the limit distributions do not hold (Cochran 1954)
MANY = 100.0  # rows of one sample that stands for both, from which on cumulative shares fluctuate as in the limit
DEALS, MORE_DEALS = 999, 9_000  # the latter where fewer than ten of the first were as large
_TIED = 0.05  # share of one bin from which on KS' limit distribution gives away too much
_DRAWS, _AT_ONCE = 10_000, 1_000  # of limit distributions
_LARGEST = 500_000_000  # rows that numpy deals out without replacement

Chance = tuple[float | None, float | None, float | None]  # value, critical value, p-value


@dataclass(frozen=True, slots=True)
class _Limit:
    """``factor`` times the distance to its ``power`` is distributed so, where nothing has changed."""

    distribution: Any
    factor: float
    power: float = 1.0

    def p_value(self, value: float) -> float:
        return float(self.distribution.sf(self.factor * value**self.power))

    def critical(self, alpha: float) -> float:
        return float((self.distribution.isf(alpha) / self.factor) ** (1 / self.power))


def by_chance(
    profile: Profile, metrics: Sequence[DriftMetric], reference: Ints, current: Ints, alpha: float, seed: int
) -> Mapping[DriftMetric, Chance]:
    """Value, critical value at ``alpha`` and p-value of each metric, of aligned counts (bins,).

    All None where a side has no rows. A p-value that is dealt is never below 1 / 10,000.
    """
    if not metrics or not reference.sum() or not current.sum():
        return dict.fromkeys(metrics, (None, None, None))
    found: dict[DriftMetric, Chance] = {}
    dealt: list[DriftMetric] = []
    for metric in metrics:
        limit = _limit(profile, metric, reference, current)
        if limit is None:
            dealt.append(metric)
            continue
        value = float(distance(profile, metric, reference, current))
        found[metric] = value, limit.critical(alpha), limit.p_value(value)
    return found | _by_dealing(profile, dealt, reference, current, alpha, seed)


def distance(profile: Profile, metric: DriftMetric, reference: Any, current: Any) -> Any:
    """The distance named, of counts (..., bins): grouped ones, or ordered ones for KS and Wasserstein."""
    if metric is DriftMetric.WASSERSTEIN:
        return distances.wasserstein(reference, current, profile.held_edges, profile.scale)
    return _DISTANCES[metric](reference, current)


def psi_critical(n: float, m: float, bins: int, alpha: float = 0.05) -> float:
    """What PSI exceeds with probability ``alpha`` where nothing has changed, of ``bins`` bins that are not empty.

    (1 / n + 1 / m) times the quantile of chi-square with ``bins`` - 1 degrees of freedom (Yurdakul 2018, "Statistical
    properties of population stability index", Western Michigan University). Holds for expected counts of 5 and more.
    """
    return _chi_square_limit(n, m, bins).critical(alpha)


def ks_critical(n: float, m: float, alpha: float = 0.05) -> float:
    """The same of the two-sample KS statistic, about sqrt(-ln(alpha / 2) / 2 (n + m) / (n m)) (Smirnov 1939).

    The distribution of one sample of round(n m / (n + m)) rows stands in for that of two, as in scipy.
    """
    return _ks_limit(n, m).critical(alpha)


_DISTANCES = {
    DriftMetric.PSI: distances.psi,
    DriftMetric.JS_DISTANCE: distances.js_distance,
    DriftMetric.CHI_SQUARE: distances.chi_square,
    DriftMetric.L_INFINITY: distances.l_infinity,
    DriftMetric.KS: distances.kolmogorov_smirnov,
}


def _limit(profile: Profile, metric: DriftMetric, reference: Ints, current: Ints) -> _Limit | None:
    """The limit distribution where there is one and it holds."""
    joined = reference + current
    n, m = float(reference.sum()), float(current.sum())
    used = joined[joined > 0]
    if metric is DriftMetric.KS and used.max() <= _TIED * (n + m):
        return _ks_limit(n, m)
    if metric in (DriftMetric.KS, DriftMetric.WASSERSTEIN, DriftMetric.L_INFINITY):
        size = n * m / (n + m)
        several = size >= (FEW * len(used) if metric is DriftMetric.L_INFINITY else MANY)
        return _Limit(_fluctuations(profile, metric), math.sqrt(n * m / (n + m))) if several else None
    if len(used) < 2 or used.min() * min(n, m) / (n + m) < FEW:
        return None
    by_psi = _chi_square_limit(n, m, len(used))
    if metric is DriftMetric.CHI_SQUARE:
        return _Limit(by_psi.distribution, 1.0)
    # the divergence of small changes is an eighth of PSI
    return by_psi if metric is DriftMetric.PSI else _Limit(by_psi.distribution, 8 * by_psi.factor, 2.0)


def _chi_square_limit(n: float, m: float, bins: int) -> _Limit:
    return _Limit(scipy("stats").chi2(max(bins - 1, 1)), 1 / (1 / n + 1 / m))


def _ks_limit(n: float, m: float) -> _Limit:
    return _Limit(scipy("stats").kstwo(max(round(n * m / (n + m)), 1)), 1.0)


class _Drawn:
    """A distribution by its draws, with the two functions that scipy's have."""

    def __init__(self, draws: Floats) -> None:
        self._draws = np.sort(draws)

    def sf(self, value: float) -> float:
        larger = len(self._draws) - np.searchsorted(self._draws, value * (1 - 1e-12))
        return float(larger + 1) / (len(self._draws) + 1)

    def isf(self, alpha: float) -> float:
        return float(np.quantile(self._draws, 1 - alpha, method="higher"))


@lru_cache(maxsize=256)
def _fluctuations(profile: Profile, metric: DriftMetric) -> _Drawn:
    """The distance times sqrt(n m / (n + m)) in the limit, where nothing has changed."""
    counts = profile.grouped(profile.counts) if metric is DriftMetric.L_INFINITY else profile.ordered(profile.counts)
    shares = counts / counts.sum()
    random = np.random.default_rng(0)
    parts = []
    for _ in range(_DRAWS // _AT_ONCE):
        noise = random.standard_normal((_AT_ONCE, len(shares))) * np.sqrt(shares)
        noise -= shares * noise.sum(-1, keepdims=True)  # what one bin has more, the others have less
        if metric is DriftMetric.L_INFINITY:
            parts.append(np.abs(noise).max(-1))
            continue
        bridge = np.cumsum(noise, -1)[:, :-1]
        area = metric is DriftMetric.WASSERSTEIN
        widths = np.diff(profile.held_edges) / (profile.scale or np.inf)
        parts.append(distances.area_between(bridge, widths) if area else np.abs(bridge).max(-1))
    return _Drawn(np.concatenate(parts))


def _by_dealing(
    profile: Profile, metrics: Sequence[DriftMetric], reference: Ints, current: Ints, alpha: float, seed: int
) -> dict[DriftMetric, Chance]:
    """By deals that all metrics share; further ones only for those that hardly ever were as large."""
    if not metrics:
        return {}
    random = np.random.default_rng(seed)
    joined, m = reference + current, int(current.sum())
    hands = _deal(random, joined, m, DEALS)
    values: dict[DriftMetric, float] = {}
    larger: dict[DriftMetric, int] = {}
    critical: dict[DriftMetric, float] = {}
    for metric in metrics:
        values[metric] = float(distance(profile, metric, reference, current))
        chance = distance(profile, metric, joined - hands, hands)
        larger[metric] = _as_large(chance, values[metric])
        critical[metric] = float(np.quantile(chance, 1 - alpha, method="higher"))
    deals = dict.fromkeys(metrics, DEALS)
    unusual = [metric for metric in metrics if larger[metric] < 10]
    if unusual:
        hands = _deal(random, joined, m, MORE_DEALS)
        for metric in unusual:
            larger[metric] += _as_large(distance(profile, metric, joined - hands, hands), values[metric])
            deals[metric] += MORE_DEALS
    return {k: (values[k], critical[k], (larger[k] + 1) / (deals[k] + 1)) for k in metrics}


def _deal(random: np.random.Generator, joined: Ints, m: int, deals: int) -> Ints:
    """Hands of ``m`` rows (deals, bins) from all rows; of more rows than numpy can deal out, with replacement."""
    if joined.sum() < _LARGEST:
        return random.multivariate_hypergeometric(joined, m, size=deals, method="marginals")
    hands: Ints = np.minimum(random.multinomial(m, joined / joined.sum(), size=deals), joined)
    return hands


def _as_large(chance: Floats, value: float) -> int:
    """How many are as large, rounding aside."""
    return int(np.count_nonzero(chance >= value * (1 - 1e-12) - 1e-15))
