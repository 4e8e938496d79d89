"""What the examples' trainings share: the model of a core install, and the log of a training."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Columns

PENALTY = 1.0
STEPS = 25

Floats = NDArray[np.float64]


def logistic(matrix: Floats, label: NDArray[np.bool_]) -> str:
    """Newton's method on standardised features with a ridge penalty. The weights are part of the model's address."""
    mean, scale = matrix.mean(axis=0), matrix.std(axis=0) + 1e-9
    design = np.column_stack([np.ones(len(matrix)), (matrix - mean) / scale])
    weights = np.zeros(design.shape[1])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (p - label) + PENALTY * weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + PENALTY * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    weights[1:] /= scale
    weights[0] -= weights[1:] @ mean
    return f"python:trueup_examples.fitting:score_logistic?{json.dumps({'weights': weights.tolist()})}"


def score_logistic(columns: Columns, weights: list[float]) -> Floats:
    """Probability (n,) by a logistic regression: intercept first, then one weight a feature."""
    # Row by row sums in one fixed order: the same instance has the same score alone and in a batch.
    margin = weights[0] + (columns.matrix() * np.array(weights[1:])).sum(axis=1)
    scores: Floats = 1 / (1 + np.exp(-margin))
    return scores


def library_versions() -> dict[str, str]:
    """Versions of what a model was made with, of that which is installed."""
    return {name: v for name in ("xgboost-cpu", "xgboost", "numpy") if (v := _version(name))}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def log_to_mlflow(
    booster: Any, label: NDArray[np.bool_], store: Path, *, experiment: str, parameters: Mapping[str, Any]
) -> None:
    """Logs run, parameters and model to a local MLflow store, where MLflow is installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow
    except ImportError:
        return
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    whole = store / "whole"
    if not whole.exists():
        # MLflow makes its tables one by one; a stop in between leaves a store it can neither use nor mend.
        shutil.rmtree(store, ignore_errors=True)
    store.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.set_tracking_uri(f"sqlite:///{store / 'mlflow.db'}")
        if mlflow.get_experiment_by_name(experiment) is None:
            mlflow.create_experiment(experiment, artifact_location=(store / "artifacts").as_uri())
        mlflow.set_experiment(experiment)
        whole.touch()
        with mlflow.start_run():
            mlflow.log_params({**parameters, "rows": len(label)})
            mlflow.log_metric("base_rate", float(label.mean()))
            booster.save_model(store / "model.ubj")
            mlflow.log_artifact(str(store / "model.ubj"), "model")
