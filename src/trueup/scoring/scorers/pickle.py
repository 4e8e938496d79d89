"""Pickled estimators. Unpickling runs code, so the loader lets in only digests the deployment names."""

from __future__ import annotations

import pickle
from pathlib import Path

from trueup.domain.deployment import Serving
from trueup.errors import ModelRefused
from trueup.ports import Scorer
from trueup.scoring.scorers.estimator import EstimatorScorer


def load(uri: str, serving: Serving) -> Scorer:
    """Raises ModelRefused when the file cannot be unpickled."""
    try:
        with Path(uri).open("rb") as file:
            return EstimatorScorer(pickle.load(file), serving.threads)  # noqa: S301 - as above
    except Exception:  # unpickling runs the model's own code
        raise ModelRefused("the pickle cannot be loaded", next_step="check the library versions") from None
