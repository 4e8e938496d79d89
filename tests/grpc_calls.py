"""Inference requests for the gRPC door's tests, typed or raw, and a client on a real socket."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from serving import Served
from trueup.doors.auth import ApiRole
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb
from trueup.doors.inference.grpc.generated.open_inference_pb2_grpc import GRPCInferenceServiceStub

NUMPY = {"BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2",
         "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}  # fmt: skip
FIELDS = {"BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
          "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
          "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
          "BYTES": "bytes_contents"}  # fmt: skip
Tensor = tuple[str, str, Sequence[Any]]  # name, datatype, elements


def raw_bytes(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(v)) + v for v in values)
    return np.array(values, NUMPY[datatype]).tobytes()


def infer_request(*inputs: Tensor, raw: bool, rows: int | None = None, **parameters: Any) -> pb.ModelInferRequest:
    """A request to the model ``t``; elements beyond one a row make the input a matrix."""
    request = pb.ModelInferRequest(model_name="t")
    n = len(inputs[0][2]) if rows is None else rows
    for name, datatype, values in inputs:
        shape = [n] if len(values) == n else [n, len(values) // n]
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            request.raw_input_contents.append(raw_bytes(datatype, values))
        else:
            getattr(tensor.contents, FIELDS[datatype]).extend(values)
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def values(answer: pb.ModelInferResponse, name: str) -> list[Any]:
    """An output's elements, whichever way they came."""
    place = [o.name for o in answer.outputs].index(name)
    output = answer.outputs[place]
    if not answer.raw_output_contents:
        return list(getattr(output.contents, FIELDS[output.datatype]))
    assert not output.HasField("contents")
    data = answer.raw_output_contents[place]
    if output.datatype != "BYTES":
        return np.frombuffer(data, NUMPY[output.datatype]).tolist()  # type: ignore[no-any-return]
    found = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


class Client:
    """The generated client, with a key."""

    def __init__(self, door: Served) -> None:
        self.door = door
        self.channel = grpc.insecure_channel(f"127.0.0.1:{door.grpc.port}")
        self.stub = GRPCInferenceServiceStub(self.channel)

    def metadata(self, role: ApiRole = ApiRole.ADMIN, **more: str) -> list[tuple[str, str]]:
        found = [("authorization", f"Bearer {self.door.keys[role]}")]
        return found + [(name.replace("_", "-"), value) for name, value in more.items()]

    def infer(self, request: pb.ModelInferRequest, timeout: float = 60, **metadata: str) -> pb.ModelInferResponse:
        answer: pb.ModelInferResponse = self.stub.ModelInfer(
            request, metadata=self.metadata(ApiRole.SCORER, **metadata), timeout=timeout
        )
        return answer

    def refused(self, request: pb.ModelInferRequest, code: grpc.StatusCode, text: str = "", **more: Any) -> str:
        """The details of the refusal, which must have the code and hold the text."""
        return refused(lambda: self.infer(request, **more), code, text)


def refused(call: Any, code: grpc.StatusCode, text: str = "") -> str:
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert error.value.code() is code, error.value
    assert text in error.value.details()
    return str(error.value.details())


@contextmanager
def calling(door: Served) -> Iterator[Client]:
    """A client for as long as the block lasts."""
    client = Client(door)
    with client.channel:
        yield client
