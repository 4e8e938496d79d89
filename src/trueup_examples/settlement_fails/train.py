"""Training: XGBoost where it is installed, else a logistic regression in numpy."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import trueup
from trueup.domain.batch import Columns
from trueup_examples.settlement_fails.features import LARGE

ROUNDS = 60
MAX_ROWS = 1_500_000  # newest first
PARAMETERS = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_depth": 5,
    "eta": 0.15,
    "max_bin": 128,
    "min_child_weight": 50,
    "seed": 7,
}

Floats = NDArray[np.float64]


def contract() -> trueup.Contract:
    """The example's contract, from the YAML file beside this one."""
    text = files("trueup_examples.settlement_fails").joinpath("contract.yaml").read_text(encoding="utf-8")
    return trueup.load_contract(text)


@dataclass
class Examples:
    """Rows with a known outcome, collected while files are published."""

    matrices: list[NDArray[np.float32]] = field(default_factory=list)
    labels: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, columns: dict[str, Any], outcome: Floats) -> None:
        """Features of one day and the balances of the next."""
        names = [f.name for f in contract_features()]
        self.matrices.append(np.column_stack([columns[n] for n in names]).astype(np.float32))
        self.labels.append(outcome > LARGE)
        while len(self.matrices) > 1 and sum(map(len, self.labels)) > MAX_ROWS:
            del self.matrices[0], self.labels[0]

    def __len__(self) -> int:
        return sum(map(len, self.labels))


@cache
def contract_features() -> tuple[trueup.Field, ...]:
    """The model's inputs in order (the contract is read once)."""
    return contract().features


def train(examples: Examples, store: Path) -> tuple[Any, dict[str, str]]:
    """A model that ``deploy`` takes, and the versions of the libraries that made it."""
    matrix, label = np.vstack(examples.matrices), np.concatenate(examples.labels)
    try:
        import xgboost
    except ImportError:
        return _logistic(matrix.astype(np.float64), label), {"numpy": np.__version__}
    cores = min(2, os.cpu_count() or 1)
    data = xgboost.QuantileDMatrix(matrix, label, max_bin=PARAMETERS["max_bin"], nthread=cores)
    booster = xgboost.train({**PARAMETERS, "nthread": cores}, data, ROUNDS)
    _log_to_mlflow(booster, label, store)
    return booster, {name: v for name in ("xgboost-cpu", "xgboost", "numpy") if (v := _version(name))}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _log_to_mlflow(booster: Any, label: NDArray[np.bool_], store: Path) -> None:
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
        if mlflow.get_experiment_by_name("settlement-fails") is None:
            mlflow.create_experiment("settlement-fails", artifact_location=(store / "artifacts").as_uri())
        mlflow.set_experiment("settlement-fails")
        whole.touch()
        with mlflow.start_run():
            mlflow.log_params({**PARAMETERS, "rounds": ROUNDS, "rows": len(label)})
            mlflow.log_metric("base_rate", float(label.mean()))
            booster.save_model(store / "model.ubj")
            mlflow.log_artifact(str(store / "model.ubj"), "model")


PENALTY = 1.0
STEPS = 25


def _logistic(matrix: Floats, label: NDArray[np.bool_]) -> str:
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
    address = "python:trueup_examples.settlement_fails.train:score_logistic"
    return f"{address}?{json.dumps({'weights': weights.tolist()})}"


def score_logistic(columns: Columns, weights: list[float]) -> Floats:
    """Probability (n,) by a logistic regression: intercept first, then one weight a feature."""
    # Row by row sums in one fixed order: the same instance has the same score alone and in a batch.
    margin = weights[0] + (columns.matrix() * np.array(weights[1:])).sum(axis=1)
    scores: Floats = 1 / (1 + np.exp(-margin))
    return scores
