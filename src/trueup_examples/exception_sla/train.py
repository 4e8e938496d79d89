"""Training: small trees by XGBoost where it is installed, else a logistic regression in numpy."""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import trueup
from trueup_examples.exception_sla.features import History
from trueup_examples.fitting import library_versions, log_to_mlflow, logistic

ROUNDS = 60
PARAMETERS = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_depth": 3,
    "eta": 0.1,
    "min_child_weight": 20,
    "seed": 7,
}


@cache
def contract() -> trueup.Contract:
    """The example's contract, from the YAML file beside this one."""
    text = files("trueup_examples.exception_sla").joinpath("contract.yaml").read_text(encoding="utf-8")
    return trueup.load_contract(text)


def examples(history: History, until: np.datetime64, *, every_event: bool) -> NDArray[np.intp]:
    """Events of incidents closed before ``until``: the opening alone, or all until the closing."""
    closed_at = history.closed_at[history.incident]
    chosen = (closed_at < until) & (history.log.moment <= closed_at) & ~history.is_closing
    return np.flatnonzero(chosen if every_event else chosen & (history.log.place == 0))


def train(history: History, rows: NDArray[np.intp], store: Path) -> tuple[Any, dict[str, str]]:
    """A model that ``deploy`` takes, and the versions of the libraries that made it."""
    columns = history.features(rows)
    matrix = np.column_stack([columns[f.name] for f in contract().features])
    label = history.missed[history.incident[rows]]
    try:
        import xgboost
    except ImportError:
        return logistic(matrix, label), library_versions()
    cores = min(2, os.cpu_count() or 1)
    data = xgboost.QuantileDMatrix(matrix.astype(np.float32), label, nthread=cores)
    booster = xgboost.train({**PARAMETERS, "nthread": cores}, data, ROUNDS)
    log_to_mlflow(booster, label, store, experiment="exception-sla", parameters={**PARAMETERS, "rounds": ROUNDS})
    return booster, library_versions()
