"""ONNX models by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueup.domain.batch import Columns, Floats
from trueup.domain.contract import OutputKind
from trueup.domain.deployment import Serving
from trueup.errors import MissingExtra, ModelRefused, ScoringError
from trueup.ports import Scorer


def load(uri: str, serving: Serving) -> Scorer:
    """Raises ModelRefused when the file is no ONNX model with one two-dimensional numeric input."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingExtra("onnx", "an ONNX model") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = serving.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(uri, options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime raises classes of its own native module
        raise ModelRefused("the file is not an ONNX model that this version can load") from None
    inputs = session.get_inputs()
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64}
    if len(inputs) != 1 or inputs[0].type not in kinds:
        raise ModelRefused("an ONNX model needs one input of float or double", next_step="merge its inputs into one")
    return OnnxScorer(session, inputs[0].name, kinds[inputs[0].type])


class OnnxScorer:
    """A session is safe from several threads; the probabilities are its last output."""

    def __init__(self, session: Any, name: str, kind: Any) -> None:
        self._session = session
        self._name = name
        self._kind = kind
        self._output = session.get_outputs()[-1].name

    def score(self, columns: Columns) -> Floats:
        """Probability of the positive class, value, or one column a class."""
        try:
            (raw,) = self._session.run([self._output], {self._name: columns.matrix().astype(self._kind)})
        except Exception:  # as above
            raise ScoringError("the ONNX model could not score the features") from None
        if not isinstance(raw, np.ndarray):
            raise ScoringError("the ONNX model answers with maps", next_step="convert it with zipmap=False")
        scores = raw.astype(np.float64).reshape(len(columns), -1)
        binary = columns.contract.output.kind is OutputKind.PROBABILITY and scores.shape[1] == 2
        return scores[:, 1:] if binary else scores

    def contributions(self, columns: Columns) -> Floats | None:
        """ONNX Runtime explains nothing."""
        return None

    def close(self) -> None:
        """The session ends with its last reference."""
