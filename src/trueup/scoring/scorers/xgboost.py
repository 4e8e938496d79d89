"""XGBoost boosters (UBJSON or JSON), by the native library."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueup.domain.batch import Columns, Floats
from trueup.domain.deployment import Serving
from trueup.errors import MissingExtra, ModelRefused, ScoringError
from trueup.ports import Scorer


def load(uri: str, serving: Serving) -> Scorer:
    """Raises ModelRefused when the file is no booster."""
    try:
        import xgboost
    except ImportError:
        raise MissingExtra("xgboost", "an XGBoost model") from None
    try:
        booster = xgboost.Booster({"nthread": serving.threads}, model_file=uri)
    except xgboost.core.XGBoostError:
        raise ModelRefused("the file is not an XGBoost model") from None
    return XgboostScorer(booster, serving.threads)


class XgboostScorer:
    """``inplace_predict`` copies nothing and is safe from several threads."""

    def __init__(self, booster: Any, threads: int) -> None:
        self._booster = booster
        self._threads = threads
        booster.set_param({"nthread": threads})

    def score(self, columns: Columns) -> Floats:
        """Probability, value, or one column a class."""
        import xgboost

        try:
            raw = self._booster.inplace_predict(columns.matrix(), validate_features=False)
        except (xgboost.core.XGBoostError, ValueError, TypeError):
            raise ScoringError("the XGBoost model could not score the features") from None
        scores = np.asarray(raw, np.float64)
        return scores.reshape(len(columns), -1)

    def contributions(self, columns: Columns) -> Floats | None:
        """TreeSHAP, exact, in the margin's unit; None for several classes."""
        import xgboost

        matrix = xgboost.DMatrix(columns.matrix(), nthread=self._threads)
        with_bias = self._booster.predict(matrix, pred_contribs=True, validate_features=False)
        return None if with_bias.ndim != 2 else np.asarray(with_bias[:, :-1], np.float64)

    def close(self) -> None:
        """Nothing is held but memory."""
