"""KServe's InferenceGRPCClient, typed and raw: ``kserve_grpc.py ADDRESS KEY`` prints what it saw as JSON."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any

import grpc
from kserve import InferenceGRPCClient, InferInput, InferRequest
from telling import INSTANCES, WRONG, changed, plain, tell

OUTPUTS = ("prediction_id", "score", "decision", "status")


def request(model: str, tensors: dict[str, Any], *, raw: bool, **parameters: Any) -> InferRequest:
    made = []
    for name, (datatype, values) in tensors.items():
        data = None if raw else values.flatten().tolist()
        made.append(InferInput(name, list(values.shape), datatype, data=data))
        if raw:
            made[-1].set_data_from_numpy(values)
            made[-1].parameters.clear()  # a size beside raw contents belongs to REST
    return InferRequest(model, made, request_id="é-1", parameters=parameters or None)


async def told(call: Coroutine[Any, Any, Any]) -> Any:
    try:
        await call
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return None


async def main(address: str, key: str) -> None:
    logging.disable()  # the client logs every refusal with its stack
    headers = (("authorization", f"Bearer {key}"),)
    client = InferenceGRPCClient(address, timeout=30)

    async def infer(
        model: str = "t", tensors: dict[str, Any] = INSTANCES, *, raw: bool = True, sent: Any = headers, **more: Any
    ) -> Any:
        result = await client.infer(request(model, tensors, raw=raw, **more), headers=sent)
        outputs = {output.name: output for output in result.outputs}
        return {name: plain(outputs[name].as_numpy()) for name in OUTPUTS} | {"id": result.id}

    seen = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model ready": await client.is_model_ready("t", headers=headers),
        "unknown model ready": await told(client.is_model_ready("unknown", headers=headers)),
        "typed": await infer(raw=False),
        "raw": await infer(),
        "keyed": [await infer(raw=raw, idempotency_key="kserve-grpc") for raw in (True, False)],
        "faults": {name: await told(infer(tensors=changed(change))) for name, change in WRONG.items()}
        | {"unknown model": await told(infer("unknown")), "no key": await told(infer(sent=()))},
    }
    await client.close()
    tell(seen)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
