"""NVIDIA's tritonclient over HTTP: ``triton_http.py ADDRESS KEY`` prints what it saw as JSON."""

from __future__ import annotations

import sys
from typing import Any

import tritonclient.http as triton
from telling import INSTANCES, WRONG, changed, fault, plain, tell
from tritonclient.utils import InferenceServerException

OUTPUTS = ("prediction_id", "score", "decision", "status")


def inputs(tensors: dict[str, Any], *, binary: bool) -> list[triton.InferInput]:
    made = []
    for name, (datatype, values) in tensors.items():
        made.append(triton.InferInput(name, list(values.shape), datatype))
        made[-1].set_data_from_numpy(values, binary_data=binary)
    return made


def main(address: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    client = triton.InferenceServerClient(address)

    def infer(model: str = "t", tensors: dict[str, Any] = INSTANCES, *, binary: bool = True, **more: Any) -> Any:
        more["headers"] = dict(more.get("headers", headers))  # the client writes the encoding into what it is given
        result = client.infer(model, inputs(tensors, binary=binary), request_id="é-1", **more)
        return {name: plain(result.as_numpy(name)) for name in OUTPUTS} | {"id": result.get_response()["id"]}

    def told(call: Any) -> Any:
        return fault(call, InferenceServerException, lambda error: [error.status(), error.message()])

    seen = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata("t", headers=headers),
        "model ready": client.is_model_ready("t", headers=headers),
        "version ready": client.is_model_ready("t", "1", headers=headers),
        "unknown model ready": client.is_model_ready("unknown", headers=headers),
        "json": infer(binary=False, outputs=[triton.InferRequestedOutput(o, binary_data=False) for o in OUTPUTS]),
        "binary": infer(),
        "gzip": infer(request_compression_algorithm="gzip", response_compression_algorithm="gzip"),
        "deflate": infer(request_compression_algorithm="deflate", response_compression_algorithm="deflate"),
        "keyed": [infer(parameters={"idempotency_key": "triton-http"}) for _ in range(2)],
        "index": client.get_model_repository_index(headers=headers),
        "load": client.load_model("t", headers=headers),
        "unload": client.unload_model("t", headers=headers),
        "after unload": infer(),
        "faults": {name: told(lambda change=change: infer(tensors=changed(change))) for name, change in WRONG.items()}
        | {
            "unknown model": told(lambda: infer("unknown")),
            "unknown version": told(lambda: infer(model_version="9")),
            "no key": told(lambda: infer(headers={})),
            "unknown load": told(lambda: client.load_model("unknown", headers=headers)),
        },
    }
    client.close()
    tell(seen)


if __name__ == "__main__":
    main(*sys.argv[1:])
