"""The benchmark's model under KServe's Python server (run by ``.venv-kserve``): ``kserve_model.py --http_port N``."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid


class OnnxModel(Model):
    """One input ``features``, onnxruntime on one thread."""

    def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["MODEL_PATH"], options)
        self.ready = True
        return True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        values = payload.get_input_by_name("features").as_numpy().astype(np.float32)
        score = self._session.run(None, {"X": values})[1][:, 1]
        output = InferOutput("score", list(score.shape), "FP32", data=score.tolist())
        return InferResponse(payload.id or generate_uuid(), self.name, [output])


if __name__ == "__main__":
    model = OnnxModel("m")
    model.load()
    server = ModelServer(enable_grpc=False, enable_latency_logging=False)
    logging.disable(logging.INFO)  # its line for every request would be measured too
    server.start([model])
