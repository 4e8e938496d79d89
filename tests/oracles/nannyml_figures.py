"""What NannyML makes of the rows it is given on standard input, as JSON on standard output.

Runs in an environment of its own (requirements/oracles.txt), and knows nothing of trueup.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
warnings.filterwarnings("ignore")

import nannyml as nml  # noqa: E402
import pandas as pd  # noqa: E402
from nannyml.performance_estimation.confidence_based import metrics as confidence  # noqa: E402

CONTINUOUS = ["kolmogorov_smirnov", "jensen_shannon", "wasserstein"]
CATEGORICAL = ["chi2", "jensen_shannon", "l_infinity"]
CONFUSION = ("accuracy", "f1", "precision", "recall")


def drift(reference: dict[str, Any], window: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Distances of one chunk by column and method."""
    calculator = nml.UnivariateDriftCalculator(
        column_names=list(reference),
        treat_as_categorical=["category"],
        continuous_methods=CONTINUOUS,
        categorical_methods=CATEGORICAL,
        chunk_number=1,
    )
    calculator.fit(pd.DataFrame(reference))
    found = calculator.calculate(pd.DataFrame(window)).filter(period="analysis").to_df()
    return {
        column: {method: float(found[(column, method, "value")].iloc[0]) for method in methods}
        for column, methods in (("number", CONTINUOUS), ("category", CATEGORICAL))
    }


def performance_estimated(reference: dict[str, Any], window: dict[str, Any]) -> dict[str, Any]:
    """CBPE of one chunk, and the probabilities it took scores for."""
    estimator = nml.CBPE(
        y_pred="decision",
        y_pred_proba="score",
        y_true="label",
        problem_type="classification_binary",
        metrics=["roc_auc", *CONFUSION],
        chunk_number=1,
    )
    estimator.fit(pd.DataFrame(reference))
    found = estimator.estimate(pd.DataFrame(window)).filter(period="analysis").to_df()
    scores = pd.Series(window["score"])
    return {
        "figures": {name: float(found[(name, "value")].iloc[0]) for name in ("roc_auc", *CONFUSION)},
        "calibrated": bool(estimator.needs_calibration),
        "probabilities": list(map(float, estimator.calibrator.calibrate(scores)))
        if estimator.needs_calibration
        else window["score"],
    }


def expected(probabilities: list[float], scores: list[float], decisions: list[int]) -> dict[str, float]:
    """CBPE's formulas on probabilities as given."""
    return {
        "roc_auc": float(confidence.estimate_roc_auc(probabilities, scores)),
        **{name: float(getattr(confidence, f"estimate_{name}")(decisions, probabilities)) for name in CONFUSION},
    }


def loss_estimated(reference: dict[str, Any], window: dict[str, Any]) -> dict[str, Any]:
    """DLE of one chunk, and what its models expect of each row."""
    estimator = nml.DLE(
        feature_column_names=["number", "other"],
        y_pred="prediction",
        y_true="actual",
        metrics=["mae", "rmse"],
        chunk_number=1,
        hyperparameters={"n_estimators": 20, "n_jobs": 1, "verbose": -1},
    )
    estimator.fit(pd.DataFrame(reference))
    rows = pd.DataFrame(window)
    found = estimator.estimate(rows).filter(period="analysis").to_df()
    columns = ["number", "other", "prediction"]
    return {
        "figures": {name: float(found[(name, "value")].iloc[0]) for name in ("mae", "rmse")},
        "sampling_error": {name: float(found[(name, "sampling_error")].iloc[0]) for name in ("mae", "rmse")},
        "losses": {m.column_name: list(map(float, m._dee_model.predict(rows[columns]))) for m in estimator.metrics},
    }


def main() -> None:
    """Answers one question of each kind."""
    asked = json.load(sys.stdin)
    told = {
        "version": nml.__version__,
        "drift": drift(*asked["drift"]),
        "cbpe": performance_estimated(*asked["cbpe"]),
        "expected": expected(**asked["expected"]),
        "dle": loss_estimated(*asked["dle"]),
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
