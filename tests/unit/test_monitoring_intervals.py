"""Intervals cover what they say, stay where figures can be, and bounds hold however the missing labels turn out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from trueup.domain.measuring import Estimate
from trueup.monitoring import performance
from trueup.monitoring.figures import number_figures, probability_figures, ranking_figures
from trueup.monitoring.intervals import (
    Resampling,
    auc_interval,
    base_rate_interval,
    bootstrap,
    bounds,
    loss_bounds,
    mean_interval,
    rmse_interval,
    share_interval,
    within,
)

EXACT = 1e-9
FEW = Resampling(draws=100)


def covers(found: Estimate, truth: float) -> bool:
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


def at_least(hits: int, of: int, level: float) -> bool:
    """Whether so few hits would be no wonder if each had the probability ``level``."""
    return stats.binomtest(hits, of, level, "less").pvalue > 0.001


@pytest.mark.parametrize(
    ("successes", "n", "method"),
    [(0, 1, "exact"), (1, 1, "exact"), (0, 200, "exact"), (3, 200, "exact"), (195, 200, "exact"), (200, 200, "exact"),
     (9, 5_000_000, "exact"), (10, 20, "wilson"), (40, 200, "wilson"), (1_234_567, 5_000_000, "wilson")],
)  # fmt: skip
def test_shares_have_the_exact_interval_where_few_were_seen_and_wilsons_elsewhere(successes: int, n: int, method: str):
    theirs = stats.binomtest(successes, n).proportion_ci(0.95, method)
    found = share_interval(successes, n)
    assert (found.value, found.low, found.high, found.n) == pytest.approx((successes / n, *theirs, n), abs=EXACT)


def test_a_mean_has_students_interval():
    sample = np.random.default_rng(1).exponential(size=30)
    theirs = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    found = mean_interval(np.append(sample, math.nan))
    assert (found.low, found.high, found.n) == pytest.approx((*theirs, 30), abs=EXACT)


def delong_by_pairs(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """AUC and its variance by comparing every pair, as DeLong's paper has it."""
    x, y = scores[labels == 1], scores[labels == 0]
    psi = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    v10, v01 = psi.mean(1), psi.mean(0)
    return float(psi.mean()), float(v10.var(ddof=1) / len(x) + v01.var(ddof=1) / len(y))


def test_the_auc_has_delongs_variance():
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, 120).astype(float)
    scores = np.round(random.normal(labels, 1), 1)  # with ties
    value, variance = delong_by_pairs(scores, labels)
    found = auc_interval(scores, labels)
    assert found.value == pytest.approx(value, abs=EXACT)
    odds = [math.log(v / (1 - v)) for v in (found.low, found.value, found.high)]
    reach = stats.norm.isf(0.025) * math.sqrt(variance) / (value * (1 - value))
    assert np.diff(odds) == pytest.approx([reach, reach], abs=EXACT)


def test_a_perfect_auc_of_a_few_rows_is_not_certain():
    found = auc_interval([0.1, 0.2, 0.3, 0.7, 0.8], [0, 0, 0, 1, 1])
    assert found.value == 1
    assert found.high == 1
    assert found.low < 0.5
    assert auc_interval([0.1, 0.2, 0.9], [0, 0, 1]) == Estimate(1.0, None, None, 3)


@pytest.mark.parametrize("n", [60, 400])
def test_intervals_cover_the_truth_nearly_as_often_as_they_say(n: int):
    """Calibrated scores, uniform: AUC 5/6, Brier 1/6, base rate 1/2."""
    random = np.random.default_rng(n)
    truths = {"auc": 5 / 6, "brier": 1 / 6, "base_rate": 1 / 2, "log_loss": 1 / 2, "average_precision": 5 / 6}
    hits = dict.fromkeys(truths, 0)
    runs = 200
    for _ in range(runs):
        scores = random.random(n)
        found = probability_figures(scores, random.random(n) < scores, FEW)
        for name, truth in truths.items():
            hits[name] += covers(found[name], truth)
    assert {name: hit for name, hit in hits.items() if not at_least(hit, runs, 0.92)} == {}


def test_the_bootstrap_of_a_mean_is_as_wide_as_students_interval_and_few_rows_as_wide_as_all():
    sample = np.random.default_rng(4).exponential(size=4_000)
    by_student = mean_interval(sample)

    def average(rows: np.ndarray) -> float:
        return float(sample[rows].mean())

    for most in (4_000, 500):
        found = bootstrap(average, 4_000, Resampling(draws=1_000, most_rows=most))
        assert found.value == pytest.approx(by_student.value)
        assert found.high - found.low == pytest.approx(by_student.high - by_student.low, rel=0.12)
    assert bootstrap(average, 4_000, FEW) == bootstrap(average, 4_000, FEW)
    assert bootstrap(average, 4_000, FEW) != bootstrap(average, 4_000, Resampling(draws=100, seed=1))


def test_rows_are_drawn_from_their_own_stratum():
    strata = np.array(["mon", "tue", "mon", "wed", "tue", "tue"])
    drawn: list[np.ndarray] = []

    def keep(rows: np.ndarray) -> float:
        drawn.append(rows)
        return float(len(drawn))

    bootstrap(keep, 6, Resampling(draws=50), strata)
    assert all((np.sort(strata[rows]) == np.sort(strata)).all() for rows in drawn[1:])
    assert len({tuple(rows) for rows in drawn}) > 10


def test_bounds_hold_for_every_way_the_missing_labels_can_turn_out():
    random = np.random.default_rng(6)
    scores, days, keys = random.random(8), np.repeat([1, 2], 4), np.arange(8)
    labels = np.array([1, math.nan, 0, math.nan, 1, math.nan, 0, math.nan])
    missing = np.flatnonzero(np.isnan(labels))

    def at_top(y: np.ndarray) -> float | None:
        return performance.precision_at_k(scores, y, days, 2, keys)

    known: dict[str, list[float]] = {"rate": [], "top": [], "brier": [], "log": []}
    for outcome in itertools.product([0.0, 1.0], repeat=len(missing)):
        y = labels.copy()
        y[missing] = outcome
        known["rate"].append(performance.base_rate(y))
        known["top"].append(at_top(y))
        known["brier"].append(performance.brier(scores, y))
        known["log"].append(performance.log_loss(scores, y))
    expected = {name: (min(found), max(found)) for name, found in known.items()}
    assert bounds(performance.base_rate, labels) == pytest.approx(expected["rate"])
    assert bounds(at_top, labels) == pytest.approx(expected["top"])
    assert loss_bounds(performance.brier_losses, scores, labels) == pytest.approx(expected["brier"])
    assert loss_bounds(performance.log_losses, scores, labels) == pytest.approx(expected["log"])
    assert bounds(performance.base_rate, []) == (None, None)


@pytest.mark.parametrize("n", [0, 1])
def test_windows_of_nothing_have_estimates_of_nothing(n: int):
    scores, unknown = np.full(n, 0.5), np.full(n, math.nan)
    found = probability_figures(scores, unknown) | number_figures(scores, unknown)
    found |= ranking_figures(scores, unknown, np.zeros(n), np.arange(n), 5, scores)
    assert set(found) == {
        *("auc", "average_precision", "brier", "log_loss", "ece", "base_rate"),
        *("mae", "rmse", "bias", "precision_at_k", "lift", "value_caught"),
    }
    assert set(found.values()) == {Estimate(None, None, None, 0)}


@pytest.mark.parametrize("labels", [[1.0], [1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0]])
def test_tiny_and_one_class_windows_have_numbers_or_none_and_never_nan(labels: list[float]):
    n = len(labels)
    scores = np.linspace(0.2, 0.8, n)
    found = probability_figures(scores, labels, FEW) | number_figures(scores, labels)
    found |= ranking_figures(scores, labels, np.zeros(n), np.arange(n), 1, np.ones(n), FEW)
    for name, one in found.items():
        for value in (one.value, one.low, one.high):
            assert value is None or math.isfinite(value), name
        if one.value is not None and one.low is not None:
            assert one.low <= one.value <= one.high, name


def test_ranking_figures_are_those_of_the_rows_at_the_top_with_an_interval_around():
    random = np.random.default_rng(9)
    n = 2_000
    scores, days, keys = random.random(n), np.arange(n) // 100, np.arange(n)
    labels, cost = (random.random(n) < scores).astype(float), random.exponential(size=n)
    found = ranking_figures(scores * cost, labels, days, keys, 10, cost, FEW)
    chosen = performance.daily_top(scores * cost, days, 10, keys)
    assert found["precision_at_k"] == base_rate_interval(labels[chosen])
    assert found["value_caught"].value == pytest.approx(performance.value_caught(chosen, labels, cost))
    assert found["value_caught"].low < found["value_caught"].value < found["value_caught"].high
    assert found["lift"].value == pytest.approx(performance.lift(chosen, labels))


def test_a_root_mean_squared_error_lies_in_its_interval():
    random = np.random.default_rng(10)
    hits = sum(covers(rmse_interval(random.normal(size=300), np.zeros(300)), 1.0) for _ in range(200))
    assert at_least(hits, 200, 0.93)


def test_an_interval_is_held_within_what_can_be():
    assert within(Estimate(0.1, -0.2, 1.4, 5), 0, 1) == Estimate(0.1, 0, 1, 5)
    assert within(Estimate(0.1, None, None, 5), 0, 1) == Estimate(0.1, None, None, 5)
