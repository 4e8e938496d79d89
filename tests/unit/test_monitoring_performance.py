"""Performance figures are scikit-learn's, and None where rows cannot tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.calibration import calibration_curve

from trueup.monitoring import performance

EXACT = 1e-9
ROWS = st.lists(st.tuples(st.integers(0, 12).map(lambda v: v / 12), st.booleans(), st.integers(1, 4)), min_size=2)
OURS_AND_THEIRS: dict[str, tuple[Callable[..., float | None], Callable[..., float]]] = {
    "auc": (performance.auc, metrics.roc_auc_score),
    "average_precision": (performance.average_precision, metrics.average_precision_score),
    "brier": (performance.brier, metrics.brier_score_loss),
    "log_loss": (performance.log_loss, metrics.log_loss),
}
OF_SCORES: list[Callable[..., float | None]] = [
    *(ours for ours, _ in OURS_AND_THEIRS.values()),
    performance.ece,
    performance.mae,
    performance.rmse,
    performance.bias,
]
figures = pytest.mark.parametrize("name", OURS_AND_THEIRS)


def columns(rows: list[tuple[float, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, labels, weights = zip(*rows, strict=True)
    return np.array(scores), np.array(labels, float), np.array(weights, float)


@figures
@given(rows=ROWS.filter(lambda rows: len({label for _, label, _ in rows}) == 2))
def test_figures_are_scikit_learns_weighted_or_not(name: str, rows: list[tuple[float, bool, int]]):
    ours, theirs = OURS_AND_THEIRS[name]
    scores, labels, weights = columns(rows)
    assert ours(scores, labels) == pytest.approx(theirs(labels, scores), abs=EXACT)
    assert ours(scores, labels, weights) == pytest.approx(theirs(labels, scores, sample_weight=weights), abs=EXACT)


@figures
@given(rows=ROWS, random=st.randoms())
def test_neither_the_order_of_rows_nor_rows_without_labels_matter(name: str, rows: list, random: Any):
    ours, _ = OURS_AND_THEIRS[name]
    scores, labels, weights = columns(rows)
    unknown = [(0.3, math.nan, 2.0), (math.nan, 1.0, 1.0)]
    mixed = [*zip(scores, labels, weights, strict=True), *unknown]
    random.shuffle(mixed)
    found = ours(*map(np.array, zip(*mixed, strict=True)))
    assert found == pytest.approx(ours(scores, labels, weights), abs=EXACT)


@pytest.mark.parametrize("equal_mass", [True, False])
@given(rows=ROWS)
def test_the_reliability_curve_is_scikit_learns(equal_mass: bool, rows: list):
    scores, labels, _ = columns(rows)
    strategy = "quantile" if equal_mass else "uniform"
    shares, means = calibration_curve(labels, scores, n_bins=5, strategy=strategy, pos_label=1)
    curve = performance.reliability(scores, labels, bins=5, equal_mass=equal_mass)
    assert curve.shares == pytest.approx(shares, abs=EXACT)
    assert curve.scores == pytest.approx(means, abs=EXACT)
    assert curve.rows.sum() == len(rows)
    assert curve.error == pytest.approx(float(curve.rows @ np.abs(shares - means)) / len(rows), abs=EXACT)


def test_regression_figures_are_scikit_learns():
    random = np.random.default_rng(3)
    actual, predicted, weights = random.normal(size=50), random.normal(size=50), random.random(50)
    for w in (None, weights):
        theirs = metrics.mean_absolute_error(actual, predicted, sample_weight=w)
        assert performance.mae(predicted, actual, w) == pytest.approx(theirs, abs=EXACT)
        theirs = metrics.root_mean_squared_error(actual, predicted, sample_weight=w)
        assert performance.rmse(predicted, actual, w) == pytest.approx(theirs, abs=EXACT)
    assert performance.bias([3, 5, math.nan], [1, 4, 9]) == 1.5


@pytest.mark.parametrize("figure", OF_SCORES)
@pytest.mark.parametrize(("scores", "labels"), [([], []), ([0.5], [math.nan]), ([math.nan], [1.0])])
def test_without_known_rows_there_is_no_figure(figure: Callable[..., float | None], scores: list, labels: list):
    assert figure(scores, labels) is None
    assert performance.rows_known(labels, scores) == 0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_window_of_one_class_has_no_auc_and_everything_else(label: float):
    scores, labels = [0.2, 0.9, 0.9], [label] * 3
    assert performance.auc(scores, labels) is None
    assert performance.average_precision(scores, labels) == (1.0 if label else None)
    assert performance.base_rate(labels) == label
    assert performance.log_loss(scores, labels) > 0
    assert performance.ece(scores, labels) is not None


def test_certain_and_wrong_is_a_large_loss_and_not_an_infinite_one():
    assert performance.log_loss([0.0], [1.0]) == pytest.approx(-math.log(np.finfo(float).eps))


def test_a_label_between_nought_and_one_counts_for_its_share_as_positive():
    scores, labels = [0.2, 0.6, 0.7], [0.25, 0.5, 1.0]
    doubled = np.repeat(scores, 2), np.tile([1.0, 0.0], 3), np.ravel([[y, 1 - y] for y in labels])
    for ours, _ in OURS_AND_THEIRS.values():
        assert ours(scores, labels) == pytest.approx(ours(*doubled), abs=EXACT)


def top_by_sorting(ranks: list[float], days: list[int], k: int, keys: list[str]) -> list[bool]:
    """The same by the plainest means."""
    chosen = [False] * len(ranks)
    for day in set(days):
        rows = [i for i, d in enumerate(days) if d == day]
        rows.sort(key=lambda i: (math.isnan(ranks[i]), -ranks[i] if not math.isnan(ranks[i]) else 0, keys[i]))
        for i in rows[:k]:
            chosen[i] = True
    return chosen


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9, math.nan]), st.integers(0, 3)), max_size=40),
    st.integers(0, 6),
    st.randoms(),
)
def test_the_daily_top_is_the_highest_ranks_of_each_day_ties_by_key(rows: list, k: int, random: Any):
    keys = [f"key-{i:03}" for i in range(len(rows))]
    random.shuffle(keys)
    ranks, days = [r for r, _ in rows], [d for _, d in rows]
    chosen = performance.daily_top(ranks, np.array(days, "datetime64[D]"), k, keys)
    assert chosen.tolist() == top_by_sorting(ranks, days, k, keys)


def test_precision_at_k_counts_what_the_desk_looked_at_and_knows():
    ranks = [0.9, 0.8, 0.1, 0.7, 0.6, 0.5]
    labels = [1, math.nan, 1, 0, 1, 1]
    days = [1, 1, 1, 2, 2, 2]
    keys = list("abcdef")
    # first day a and b, of which b is not known; second day d and e
    assert performance.precision_at_k(ranks, labels, days, 2, keys) == pytest.approx(2 / 3)
    assert performance.precision_at_k(ranks, labels, days, 0, keys) is None
    assert performance.precision_at_k([], [], [], 2, []) is None


def test_value_caught_is_the_share_of_the_positives_cost_at_the_top():
    chosen = np.array([True, True, False, False])
    assert performance.value_caught(chosen, [1, 0, 1, math.nan], [30, 500, 70, 900]) == pytest.approx(0.3)
    assert performance.value_caught(chosen, [0, 0, 0, 0], [1, 1, 1, 1]) is None
    assert performance.value_caught(chosen, [1, 1, 1, 1], [1, math.nan, 1, 0]) == pytest.approx(0.5)


def test_lift_is_how_much_denser_positives_are_at_the_top():
    chosen = np.array([True, False, False, False])
    assert performance.lift(chosen, [1, 0, 0, 1]) == pytest.approx(2)
    assert performance.lift(chosen, [0, 0, 0, 0]) is None
    assert performance.lift(~chosen & chosen, [1, 0, 0, 1]) is None
