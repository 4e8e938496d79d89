"""LightGBM boosters (text format), by the native library."""

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
        import lightgbm
    except ImportError:
        raise MissingExtra("lightgbm", "a LightGBM model") from None
    try:
        return LightgbmScorer(lightgbm.Booster(model_file=uri), serving.threads)
    except lightgbm.basic.LightGBMError:
        raise ModelRefused("the file is not a LightGBM model") from None


class LightgbmScorer:
    """A booster with its number of threads given at every call."""

    def __init__(self, booster: Any, threads: int) -> None:
        self._booster = booster
        self._threads = threads

    def score(self, columns: Columns) -> Floats:
        """Probability, value, or one column a class."""
        return self._predict(columns).reshape(len(columns), -1)

    def contributions(self, columns: Columns) -> Floats | None:
        """TreeSHAP, exact, in the margin's unit; None for several classes."""
        with_bias = self._predict(columns, pred_contrib=True)
        features = len(columns.contract.features)
        return with_bias[:, :-1] if with_bias.shape[1] == features + 1 else None

    def close(self) -> None:
        """Nothing is held but memory."""

    def _predict(self, columns: Columns, **how: Any) -> Floats:
        import lightgbm

        try:
            raw = self._booster.predict(columns.matrix(), num_threads=self._threads, **how)
        except (lightgbm.basic.LightGBMError, ValueError):
            raise ScoringError("the LightGBM model could not score the features") from None
        return np.asarray(raw, np.float64)
