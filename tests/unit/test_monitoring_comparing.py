"""Champion and challenger are compared on the same rows: what both find hard does not hide the difference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trueup.domain.measuring import Better
from trueup.monitoring import performance
from trueup.monitoring.comparing import accuracy_difference, auc_difference, loss_difference, mcnemar
from trueup.monitoring.intervals import Resampling, auc_interval

EXACT = 1e-9


def two_models(seed: int, n: int, gain: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of a champion and a challenger that see much of the same, and labels."""
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.4).astype(float)
    shared = labels + random.normal(size=n)
    return shared + random.normal(size=n) * 0.5, shared + random.normal(size=n) * 0.5 + gain * labels, labels


def test_the_paired_variance_is_delongs_by_every_pair():
    a, b, y = two_models(1, 150, 0.3)
    pairs = [(s[y == 1][:, None] > s[y == 0][None, :]).astype(float) for s in (a, b)]
    gap = pairs[1] - pairs[0]
    variance = gap.mean(1).var(ddof=1) / gap.shape[0] + gap.mean(0).var(ddof=1) / gap.shape[1]
    found = auc_difference(a, b, y)
    assert found.value == pytest.approx(performance.auc(b, y) - performance.auc(a, y), abs=EXACT)
    reach = stats.norm.isf(0.025) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach), abs=EXACT)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(found.value) / math.sqrt(variance)), abs=EXACT)


def test_on_the_same_rows_a_difference_is_seen_that_two_intervals_would_hide():
    a, b, y = two_models(2, 1_500, 0.12)
    found = auc_difference(a, b, y)
    assert found.better is Better.CHALLENGER
    assert auc_interval(a, y).high > auc_interval(b, y).low
    assert auc_difference(b, a, y).better is Better.CHAMPION
    assert auc_difference(b, a, y).value == pytest.approx(-found.value, abs=EXACT)
    assert auc_difference(a, b, y, margin=0.2).better is Better.UNDECIDED


def test_equally_good_models_are_told_apart_no_more_often_than_the_level_says():
    runs = 150
    decided = {"auc": 0, "loss": 0, "accuracy": 0}
    for seed in range(runs):
        a, b, y = two_models(seed, 300, 0.0)
        decided["auc"] += auc_difference(a, b, y).better is not Better.UNDECIDED
        losses = ((s - y) ** 2 for s in (a, b))
        found = loss_difference("brier", *losses, resampling=Resampling(draws=150, seed=seed))
        decided["loss"] += found.better is not Better.UNDECIDED
        decided["accuracy"] += accuracy_difference((a > 0.5) == y, (b > 0.5) == y).p_value < 0.05
    assert {k: v for k, v in decided.items() if stats.binomtest(v, runs, 0.06, "greater").pvalue < 0.001} == {}


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemars_test_is_binomial_for_few_and_chi_square_for_many(gained: int, lost: int):
    n = gained + lost
    if n == 0:
        expected = 1.0
    elif n < 25:
        expected = min(1.0, 2 * stats.binom.cdf(min(gained, lost), n, 0.5))
    else:
        expected = stats.chi2.sf((abs(gained - lost) - 1) ** 2 / n, 1)
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=EXACT)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_right_decisions_are_compared_by_the_rows_on_which_the_two_disagree():
    champion = np.array([True] * 700 + [False] * 100 + [True] * 50 + [False] * 150)
    challenger = np.array([True] * 700 + [True] * 100 + [False] * 50 + [False] * 150)
    found = accuracy_difference(champion, challenger)
    assert found.value == pytest.approx(0.05)
    assert found.low < 0.05 < found.high
    assert found.better is Better.CHALLENGER
    assert found.p_value < 0.001
    assert accuracy_difference([], []).better is Better.UNDECIDED


def test_a_lower_loss_is_better_and_rows_without_labels_are_left_out():
    random = np.random.default_rng(4)
    champion = random.exponential(size=2_000)
    challenger = champion - 0.1 + random.normal(size=2_000) * 0.2
    found = loss_difference("mae", np.append(champion, math.nan), np.append(challenger, 1.0))
    assert found.better is Better.CHALLENGER
    assert found.n == 2_000
    assert found.low < -0.1 < found.high
    assert found.p_value == pytest.approx(2 / 201)
    assert loss_difference("mae", challenger, champion).better is Better.CHAMPION
    few = loss_difference(
        "mae", champion, challenger, resampling=Resampling(most_rows=500), strata=np.arange(2_000) // 50
    )
    assert few.high - few.low == pytest.approx(found.high - found.low, rel=0.3)


def test_what_cannot_be_compared_is_undecided():
    assert auc_difference([0.1, 0.2], [0.2, 0.1], [1, 1]).better is Better.UNDECIDED
    assert auc_difference([], [], []).value is None
    assert loss_difference("mae", [], []).p_value is None
    same = auc_difference([0.1, 0.9, 0.3, 0.8], [0.1, 0.9, 0.3, 0.8], [0, 1, 1, 0])
    assert (same.value, same.p_value, same.better) == (0, 1, Better.UNDECIDED)
    assert loss_difference("mae", [1.0, 2.0], [1.0, 2.0]).better is Better.UNDECIDED
