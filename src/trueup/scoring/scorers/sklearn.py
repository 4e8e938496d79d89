"""scikit-learn estimators in skops files, whose content is checked before anything is built."""

from __future__ import annotations

from trueup.domain.deployment import Serving
from trueup.errors import MissingExtra, ModelRefused
from trueup.ports import Scorer
from trueup.scoring.scorers.estimator import EstimatorScorer


def load(uri: str, serving: Serving) -> Scorer:
    """Raises ModelRefused when the file holds types that skops does not trust."""
    try:
        import skops.io
    except ImportError:
        raise MissingExtra("sklearn", "a scikit-learn model") from None
    try:
        unknown = skops.io.get_untrusted_types(file=uri)
        if not unknown:
            return EstimatorScorer(skops.io.load(uri, trusted=[]), serving.threads)
    except Exception:  # a damaged file can break the reader anywhere
        raise ModelRefused("the file is not a skops model") from None
    raise ModelRefused(
        f"the skops file holds {len(unknown)} type(s) that are not trusted",
        next_step="export the model to ONNX, or to types that skops trusts",
    )
