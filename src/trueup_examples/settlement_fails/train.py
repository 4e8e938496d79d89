"""Training: XGBoost where it is installed, else a logistic regression in numpy."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import trueup
from trueup_examples.fitting import library_versions, log_to_mlflow, logistic
from trueup_examples.fitting import score_logistic as score_logistic  # deployed models name it here
from trueup_examples.settlement_fails.features import LARGE

ROUNDS = 60
MAX_ROWS = 1_500_000  # newest first
REFERENCE_DAYS = 10  # what the world was when the model was trained
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
    """Rows with a known outcome, collected while files are published; the newest days as they will be scored."""

    matrices: list[NDArray[np.float32]] = field(default_factory=list)
    labels: list[NDArray[np.bool_]] = field(default_factory=list)
    newest: deque[dict[str, NDArray[Any]]] = field(default_factory=lambda: deque(maxlen=REFERENCE_DAYS))

    def add(self, columns: dict[str, Any], outcome: Floats) -> None:
        """Features of one day and the balances of the next."""
        names = [f.name for f in contract_features()]
        self.matrices.append(np.column_stack([columns[n] for n in names]).astype(np.float32))
        self.labels.append(outcome > LARGE)
        self.newest.append({name: columns[name] for name in names})
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
        return logistic(matrix.astype(np.float64), label), library_versions()
    cores = min(2, os.cpu_count() or 1)
    data = xgboost.QuantileDMatrix(matrix, label, max_bin=PARAMETERS["max_bin"], nthread=cores)
    booster = xgboost.train({**PARAMETERS, "nthread": cores}, data, ROUNDS)
    log_to_mlflow(booster, label, store, experiment="settlement-fails", parameters={**PARAMETERS, "rounds": ROUNDS})
    return booster, library_versions()


def reference(model: Any, examples: Examples) -> dict[str, NDArray[Any]]:
    """What production is compared with: the newest training rows by the contract's names, and the model's answers.

    As they will be scored, in double precision: a share of 1/60 is another number when it was rounded.
    """
    days = list(examples.newest)
    columns = {f.name: np.concatenate([day[f.name] for day in days]) for f in contract_features()}
    if hasattr(model, "inplace_predict"):
        rows = np.vstack(examples.matrices[-len(days) :])
        columns["score"] = model.inplace_predict(rows).astype(np.float64)
    return columns
