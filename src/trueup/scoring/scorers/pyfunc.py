"""Any MLflow flavour, through ``mlflow.pyfunc``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from trueup.domain.batch import Columns, Floats
from trueup.domain.deployment import Serving
from trueup.errors import MissingExtra, ModelRefused, ScoringError
from trueup.ports import Scorer


def load(uri: str, serving: Serving) -> Scorer:
    """Raises ModelRefused; MLflow's own unpickling is off unless the deployment allows a digest."""
    if not serving.allowed_pickles:
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    try:
        import mlflow.pyfunc
    except ImportError:
        raise MissingExtra("mlflow", "an MLflow model") from None
    try:
        return PyfuncScorer(mlflow.pyfunc.load_model(uri))
    except Exception:  # a flavour may raise anything
        raise ModelRefused(
            "MLflow cannot load the model", next_step="check its flavour's library, and whether it needs pickle"
        ) from None


class PyfuncScorer:
    """Gives the model a pandas frame of named features, as MLflow's signatures expect."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def score(self, columns: Columns) -> Floats:
        """What the model predicts, as numbers."""
        import pandas as pd

        frame = pd.DataFrame({f.name: columns.numeric(f.name) for f in columns.contract.features})
        try:
            raw = np.asarray(self._model.predict(frame), np.float64)
        except Exception:  # as above
            raise ScoringError("the MLflow model could not score the features") from None
        return raw.reshape(len(columns), -1)

    def contributions(self, columns: Columns) -> Floats | None:
        """Unknown for an arbitrary flavour."""
        return None

    def close(self) -> None:
        """Nothing is held but memory."""
