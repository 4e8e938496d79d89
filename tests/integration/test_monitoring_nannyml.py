"""Our figures beside NannyML's on the same rows, in an environment of its own (`make test` makes it)."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trueup.monitoring import distances
from trueup.monitoring.binning import category_profile, counts
from trueup.monitoring.calibration import Calibration, isotonic
from trueup.monitoring.estimates import (
    LossModel,
    estimated_number_figures,
    estimated_probability_figures,
    expected_counts,
    fitted_loss_model,
)

PROGRAM = Path(__file__).parents[1] / "oracles" / "nannyml_figures.py"
PYTHON = Path(f"{sys.prefix}-oracles") / "bin" / "python"
EXACT = 1e-9
RANDOM = np.random.default_rng(42)


def drifting(n: int, shift: float) -> dict[str, Any]:
    names = RANDOM.choice(list("abcd"), n, p=[0.5 - shift / 5, 0.3, 0.15, 0.05 + shift / 5])
    return {"number": RANDOM.normal(shift, 1 + shift, n).tolist(), "category": names.tolist()}


def scored(n: int, power: float) -> dict[str, Any]:
    scores = RANDOM.random(n)
    labels = RANDOM.random(n) < scores**power
    return {
        "score": scores.tolist(),
        "decision": (scores >= 0.5).astype(int).tolist(),
        "label": labels.astype(int).tolist(),
    }


def predicted(n: int, noise: float) -> dict[str, Any]:
    number, other = RANDOM.normal(size=n), RANDOM.random(n)
    actual = 3 * number + noise * (1 + other) * RANDOM.normal(size=n)
    columns = {"number": number, "other": other, "prediction": 3 * number, "actual": actual}
    return {name: column.tolist() for name, column in columns.items()}


# Sums of 32nds are exact after NannyML's rounding to five places.
THIRTY_SECONDS = (RANDOM.integers(0, 33, 400) / 32).tolist()
ASKED = {
    "drift": [drifting(3_000, 0.0), drifting(800, 0.4) | {"category": ["a"] * 500 + ["d"] * 200 + ["new"] * 100}],
    "cbpe": [scored(4_000, 3.0), scored(1_500, 3.0)],
    "expected": {
        "probabilities": THIRTY_SECONDS,
        "scores": RANDOM.permutation(400).astype(float).tolist(),
        "decisions": RANDOM.integers(0, 2, 400).tolist(),
    },
    "dle": [predicted(2_000, 0.5), predicted(500, 0.5)],
}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    assert PYTHON.exists(), "`make oracles` makes NannyML's environment"
    done = subprocess.run(
        [PYTHON, PROGRAM], input=json.dumps(ASKED), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_is_the_version_we_speak_of(told: dict[str, Any]):
    assert told["version"].startswith("0.13")


def test_distances_of_numbers_agree(told: dict[str, Any]):
    theirs = told["drift"]["number"]
    reference, window = (np.array(side["number"]) for side in ASKED["drift"])
    assert distances.kolmogorov_smirnov_of_samples(reference, window) == pytest.approx(
        theirs["kolmogorov_smirnov"], abs=EXACT
    )
    assert distances.wasserstein_of_samples(reference, window) == pytest.approx(theirs["wasserstein"], abs=EXACT)
    # theirs: Doane's bins, one more for what lies outside, and logarithms to base 2
    edges = np.histogram_bin_edges(reference, "doane")
    a, b = (np.histogram(side, edges)[0] for side in (reference, window))
    ours = distances.js_distance(np.append(a, 0), np.append(b, len(window) - b.sum()))
    assert ours / math.sqrt(math.log(2)) == pytest.approx(theirs["jensen_shannon"], abs=EXACT)


def test_distances_of_categories_agree_unseen_ones_too(told: dict[str, Any]):
    theirs = told["drift"]["category"]
    reference, window = (side["category"] for side in ASKED["drift"])
    profile = category_profile(reference)
    a, b = profile.grouped(profile.counts), profile.grouped(counts(profile, window))
    assert distances.chi_square(a, b) == pytest.approx(theirs["chi2"], abs=EXACT)
    assert distances.l_infinity(a, b) == pytest.approx(theirs["l_infinity"], abs=EXACT)
    assert distances.js_distance(a, b) / math.sqrt(math.log(2)) == pytest.approx(theirs["jensen_shannon"], abs=EXACT)


def test_probabilities_calibrated_on_the_reference_agree(told: dict[str, Any]):
    reference, window = ASKED["cbpe"]
    assert told["cbpe"]["calibrated"]
    ours = isotonic(reference["score"], reference["label"]).of(window["score"])
    assert ours == pytest.approx(np.array(told["cbpe"]["probabilities"]), abs=EXACT)


def test_estimates_of_a_calibrated_window_agree(told: dict[str, Any]):
    reference, window = ASKED["cbpe"]
    calibration = isotonic(reference["score"], reference["label"])
    ours = estimated_probability_figures(window["score"], calibration, window["decision"])
    theirs = told["cbpe"]["figures"]
    for name in ("accuracy", "f1", "precision", "recall"):
        assert ours[f"estimated_{name}"].value == pytest.approx(theirs[name], abs=EXACT), name
    # theirs is rounded to five places on the way
    assert ours["estimated_auc"].value == pytest.approx(theirs["roc_auc"], abs=1e-6)


def test_expected_figures_agree_where_nothing_is_rounded(told: dict[str, Any]):
    asked, theirs = ASKED["expected"], told["expected"]
    counted = expected_counts(asked["probabilities"], asked["decisions"])
    assert (counted.accuracy, counted.f1, counted.precision, counted.recall) == pytest.approx(
        tuple(theirs[name] for name in ("accuracy", "f1", "precision", "recall")), abs=EXACT
    )
    # the score is a rank, so probabilities are looked up rather than calibrated
    lookup = Calibration(np.arange(400.0), np.array(asked["probabilities"])[np.argsort(asked["scores"])])
    ours = estimated_probability_figures(asked["scores"], lookup)["estimated_auc"].value
    assert ours == pytest.approx(theirs["roc_auc"], abs=EXACT)


class Told:
    """A regressor that expects what NannyML's did."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses

    def fit(self, x: np.ndarray, y: np.ndarray) -> None: ...

    def predict(self, x: np.ndarray) -> np.ndarray:
        assert len(x) == len(self.losses)
        return np.array(self.losses)


def test_estimated_errors_agree_where_the_second_model_is_the_same(told: dict[str, Any]):
    reference, window = ASKED["dle"]
    losses, theirs = told["dle"]["losses"], told["dle"]["figures"]
    makers = iter([Told(losses["mae"]), Told(losses["rmse"])])
    model = fitted_loss_model(
        np.column_stack([reference["number"], reference["other"]]),
        reference["prediction"],
        reference["actual"],
        lambda: next(makers),
    )
    assert isinstance(model, LossModel)
    ours = estimated_number_figures(model, np.column_stack([window["number"], window["other"]]), window["prediction"])
    assert ours["estimated_mae"].value == pytest.approx(theirs["mae"], abs=EXACT)
    assert ours["estimated_rmse"].value == pytest.approx(theirs["rmse"], abs=EXACT)
    wide = ours["estimated_mae"].high - ours["estimated_mae"].value
    assert wide == pytest.approx(1.959963984540054 * told["dle"]["sampling_error"]["mae"], rel=1e-3)
