"""What scikit-learn's and pickled estimators share: predict_proba or predict on the matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueup.domain.batch import Columns, Floats
from trueup.domain.contract import OutputKind
from trueup.errors import ScoringError


class EstimatorScorer:
    """An estimator with scikit-learn's methods."""

    def __init__(self, estimator: Any, threads: int) -> None:
        self._estimator = estimator
        if hasattr(estimator, "n_jobs"):
            estimator.n_jobs = threads

    def score(self, columns: Columns) -> Floats:
        """Probability of the last class, one column a class, or the prediction."""
        kind = columns.contract.output.kind
        try:
            if kind in (OutputKind.PROBABILITY, OutputKind.CLASS):
                raw = np.asarray(self._estimator.predict_proba(columns.matrix()), np.float64)
                return raw[:, -1:] if kind is OutputKind.PROBABILITY else raw
            return np.asarray(self._estimator.predict(columns.matrix()), np.float64).reshape(len(columns), -1)
        except Exception:  # an estimator may raise anything, with values in its message
            raise ScoringError("the estimator could not score the features") from None

    def contributions(self, columns: Columns) -> Floats | None:
        """No exact contributions are known for an arbitrary estimator."""
        return None

    def close(self) -> None:
        """Nothing is held but memory."""
