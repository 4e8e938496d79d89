"""KServe's InferenceRESTClient: ``kserve_rest.py ADDRESS KEY`` prints what it saw as JSON."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

import httpx
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from telling import INSTANCES, WRONG, changed, plain, tell

OUTPUTS = ("prediction_id", "score", "decision", "status")


def request(tensors: dict[str, Any], *, binary: bool, **parameters: Any) -> InferRequest:
    made = []
    for name, (datatype, values) in tensors.items():
        made.append(InferInput(name, list(values.shape), datatype))
        made[-1].set_data_from_numpy(values, binary_data=binary)
    return InferRequest("t", made, request_id="é-1", parameters=parameters or None)


async def told(call: Coroutine[Any, Any, Any]) -> Any:
    try:
        await call
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error)]
    return None


async def main(address: str, key: str) -> None:
    url, headers = f"http://{address}", {"Authorization": f"Bearer {key}"}
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))

    async def infer(
        model: str = "t", tensors: dict[str, Any] = INSTANCES, *, binary: bool = True, sent: Any = None, **more: Any
    ) -> Any:
        made = request(tensors, binary=binary, **more)
        result = await client.infer(url, made, model_name=model, headers=dict(headers if sent is None else sent))
        outputs = {output.name: output for output in result.outputs}
        return {name: plain(outputs[name].as_numpy()) for name in OUTPUTS} | {"id": result.id}

    seen = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, "t", headers=headers),
        "unknown model ready": await client.is_model_ready(url, "unknown", headers=headers),
        "json": await infer(binary=False),
        "binary": await infer(),
        "binary both ways": await infer(binary_data_output=True),
        "keyed": [await infer(idempotency_key="kserve-rest") for _ in range(2)],
        "faults": {name: await told(infer(tensors=changed(change))) for name, change in WRONG.items()}
        | {"unknown model": await told(infer("unknown")), "no key": await told(infer(sent={}))},
    }
    await client.close()
    tell(seen)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
