"""Estimates come true while their assumptions hold, and say so when they do not."""

from __future__ import annotations

import builtins
import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from trueup.domain.measuring import Estimate
from trueup.errors import MissingExtra
from trueup.monitoring import performance
from trueup.monitoring.calibration import AS_SCORED, calibrated, isotonic
from trueup.monitoring.estimates import (
    CBPE_ASSUMPTIONS,
    DLE_ASSUMPTIONS,
    LEAST_ROWS,
    ExpectedCounts,
    estimated_number_figures,
    estimated_probability_figures,
    expected_counts,
    fitted_loss_model,
    foresight,
    gradient_boosting,
)
from trueup.monitoring.intervals import Resampling
from trueup.monitoring.scipy import scipy

EXACT = 1e-9


def scored(random: np.random.Generator, n: int, power: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,), and labels that are positive with the probability score ** power."""
    scores = random.random(n)
    return scores, (random.random(n) < scores**power).astype(float)


@given(st.lists(st.tuples(st.integers(0, 9).map(lambda v: v / 9), st.booleans()), min_size=1))
def test_isotonic_calibration_is_scikit_learns_and_never_falls(rows: list[tuple[float, bool]]):
    scores, labels = map(np.array, zip(*rows, strict=True))
    ours, points = isotonic(scores, labels), np.linspace(-0.2, 1.2, 57)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    assert ours.of(points) == pytest.approx(theirs.predict(points), abs=EXACT)
    assert (np.diff(ours.of(points)) >= 0).all()


def test_calibration_is_taken_only_where_it_helps():
    random = np.random.default_rng(1)
    off, fine = scored(random, 5_000, power=3), scored(random, 5_000)
    assert calibrated(*off) is not AS_SCORED
    assert performance.ece(calibrated(*off).of(off[0]), off[1]) < 0.2 * performance.ece(*off)
    kept = [calibrated(*scored(random, 2_000), seed=s) is AS_SCORED for s in range(10)]
    assert sum(kept) >= 5
    assert calibrated(fine[0], np.ones(5_000)) is AS_SCORED
    assert calibrated([], []) is AS_SCORED
    assert calibrated([0.5] * 4, [math.nan] * 4) is AS_SCORED
    assert calibrated(*off, seed=4).of([0.3]).tolist() == calibrated(*off, seed=4).of([0.3]).tolist()


@given(st.lists(st.tuples(st.integers(0, 8).map(lambda v: v / 8), st.booleans()), max_size=50))
def test_expected_counts_are_of_all_rows(rows: list[tuple[float, bool]]):
    p, act = [r[0] for r in rows], [r[1] for r in rows]
    found = expected_counts(p, act)
    assert found.true_positives + found.false_negatives == pytest.approx(sum(p))
    assert found.true_positives + found.false_positives == pytest.approx(sum(act))
    for one in (found.accuracy, found.precision, found.recall, found.f1):
        assert one is None or 0 <= one <= 1


def test_counts_of_nothing_have_no_shares():
    none = ExpectedCounts(0, 0, 0, 0)
    assert (none.accuracy, none.precision, none.recall, none.f1) == (None,) * 4


def realised(scores: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    counted = expected_counts(labels, scores >= 0.5)
    return {
        "estimated_auc": performance.auc(scores, labels),
        "estimated_average_precision": performance.average_precision(scores, labels),
        "estimated_brier": performance.brier(scores, labels),
        "estimated_log_loss": performance.log_loss(scores, labels),
        "estimated_base_rate": performance.base_rate(labels),
        "estimated_accuracy": counted.accuracy,
        "estimated_precision": counted.precision,
        "estimated_recall": counted.recall,
        "estimated_f1": counted.f1,
    }


def test_estimates_hold_as_often_as_their_intervals_say_while_nothing_has_changed():
    random = np.random.default_rng(2)
    held = dict.fromkeys(realised(np.array([0.5]), np.array([1.0])), 0)
    for seed in range(120):
        scores, labels = scored(random, 300)
        found = estimated_probability_figures(scores, AS_SCORED, scores >= 0.5, Resampling(draws=100, seed=seed))
        for name, value in realised(scores, labels).items():
            held[name] += bool(foresight(found[name], Estimate(value, None, None, 300)).holds)
    assert {k: v for k, v in held.items() if stats.binomtest(v, 120, 0.92, "less").pvalue < 0.001} == {}


def test_when_what_a_score_means_has_changed_the_realised_figure_falls_out_of_the_estimate():
    random = np.random.default_rng(3)
    scores, labels = scored(random, 3_000, power=4)  # the model has become far too sure
    found = estimated_probability_figures(scores, AS_SCORED)["estimated_brier"]
    said = foresight(found, Estimate(performance.brier(scores, labels), None, None, 3_000))
    assert said.holds is False
    assert said.difference > 0.02


def test_estimates_of_many_rows_rest_on_some_of_them_with_no_wider_intervals():
    random = np.random.default_rng(4)
    scores, _ = scored(random, 5_000)
    every, some = (
        estimated_probability_figures(scores, AS_SCORED, None, Resampling(most_rows=most))["estimated_brier"]
        for most in (5_000, 500)
    )
    assert some.value == every.value
    assert some.high - some.low == pytest.approx(every.high - every.low, rel=0.25)


@pytest.mark.parametrize("scores", [[], [math.nan]])
def test_windows_without_scores_have_no_estimates(scores: list[float]):
    found = estimated_probability_figures(scores, AS_SCORED, [True] * len(scores))
    assert set(found.values()) == {Estimate(None, None, None, 0)}
    assert foresight(found["estimated_auc"], Estimate(0.5, 0.4, 0.6, 9)).holds is None
    assert foresight(Estimate(0.5, None, None, 1), Estimate(0.75, 0, 1, 9)).difference == 0.25


def regression(random: np.random.Generator, n: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, predictions and actuals; the error grows with the second feature."""
    x = np.column_stack([random.normal(size=n), random.random(n)])
    x[::50, 0] = np.nan
    predictions = np.nan_to_num(x[:, 0]) * 2
    return x, predictions, predictions + noise * (0.2 + 3 * x[:, 1]) * random.normal(size=n)


def test_errors_are_estimated_from_where_the_window_lies_and_the_estimate_holds():
    random = np.random.default_rng(5)
    model = fitted_loss_model(*regression(random, 3_000))
    x, predictions, actuals = regression(random, 3_000)
    hard = x[:, 1] > 0.7  # a window of the instances that are hard to predict
    found = estimated_number_figures(model, x[hard], predictions[hard])
    came = performance.mae(predictions[hard], actuals[hard]), performance.rmse(predictions[hard], actuals[hard])
    assert found["estimated_mae"].value == pytest.approx(came[0], rel=0.12)
    assert found["estimated_rmse"].value == pytest.approx(came[1], rel=0.12)
    assert came[0] > 1.3 * performance.mae(predictions, actuals)
    assert found["estimated_mae"].low < found["estimated_mae"].value < found["estimated_mae"].high
    assert found["estimated_mae"].n == hard.sum()


def test_without_actuals_there_is_no_loss_model_and_without_rows_no_estimate():
    assert fitted_loss_model([[1.0]], [1.0], [math.nan]) is None
    few = regression(np.random.default_rng(6), LEAST_ROWS - 1)
    assert fitted_loss_model(*few) is None
    x, predictions, actuals = regression(np.random.default_rng(6), 500)
    model = fitted_loss_model(x, predictions, np.where(np.arange(500) % 2, np.nan, actuals))
    nothing = Estimate(None, None, None, 0)
    assert set(estimated_number_figures(model, np.zeros((0, 2)), []).values()) == {nothing}
    assert set(estimated_number_figures(model, [[1.0, 2.0]], [math.nan]).values()) == {nothing}


def test_every_estimate_can_say_what_it_assumes():
    for text in (CBPE_ASSUMPTIONS, DLE_ASSUMPTIONS):
        assert "concept drift" in text
        assert "reference" in text


def test_without_the_extras_a_typed_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    imported = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith(("sklearn", "scipy")):
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra) as told:
        gradient_boosting()
    assert told.value.extra == "monitoring"
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingExtra) as told:
        scipy("stats")
    assert told.value.extra == "monitoring"
