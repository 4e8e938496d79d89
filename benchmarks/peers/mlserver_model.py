"""The benchmark's model under MLServer (run by ``.venv-mlserver``): onnxruntime on one thread."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """As MLServer's guide to custom runtimes has it."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["MODEL_PATH"], options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        sent = next(tensor for tensor in payload.inputs if tensor.name == "features")
        values = NumpyCodec.decode_input(sent).astype(np.float32)
        score = self._session.run(None, {"X": values})[1][:, 1]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", score)])
