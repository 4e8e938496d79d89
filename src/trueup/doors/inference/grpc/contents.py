"""Tensors as gRPC carries them: typed contents or raw bytes, in and out.

Typed contents become the little-endian bytes that raw contents are, in the thread that decodes them. So both
are held against shape, datatype and contract by the same code, and have the same score.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Decoded
from trueup.doors.inference.gather import Decode
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb
from trueup.doors.inference.oip import tensors
from trueup.doors.inference.oip.schemas import InputTensor, Parameter, TensorMetadata
from trueup.errors import InvalidInput

_FIELD_OF = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_ELSEWHERE = ("shared_memory_region", "classification")  # both ask for the output in another form


@dataclass(frozen=True, slots=True)
class Payload:
    """What a request's tensors are to the gatherer: ``Inference.score`` takes these four."""

    rows: int
    decode: Decode
    form: Hashable
    payload: Any


@dataclass(frozen=True, slots=True)
class _Typed:
    """Inputs whose shapes are checked, and the contents of each."""

    inputs: tensors.Inputs
    contents: Sequence[pb.InferTensorContents]


def payload_of(request: pb.ModelInferRequest, most: int) -> Payload:
    """The request's tensors, not decoded yet; ``most`` rows. Raises InvalidInput."""
    described = [InputTensor(i.name, list(i.shape), i.datatype) for i in request.inputs]
    if any("shared_memory_region" in i.parameters for i in request.inputs):
        raise InvalidInput("shared memory is not offered", next_step="send the tensors in the request")
    if request.raw_input_contents:
        if any(i.HasField("contents") for i in request.inputs):
            raise InvalidInput("a request has raw contents or typed contents, not both")
        if len(request.raw_input_contents) != len(described):
            raise InvalidInput("raw_input_contents has one entry for each input")
        inputs = tensors.checked(described, [memoryview(raw) for raw in request.raw_input_contents], most)
        return Payload(inputs.rows, tensors.decoded, inputs.form, inputs)
    inputs = tensors.checked(described, [None] * len(described), most)
    return Payload(inputs.rows, _decoded, inputs.form, _Typed(inputs, [i.contents for i in request.inputs]))


def _decoded(decoder: Decoder, requests: Sequence[_Typed]) -> Decoded:
    """The instances of typed requests of one form, one after another. Raises InvalidInput."""
    return tensors.decoded(
        decoder,
        [
            tensors.Inputs(
                r.inputs.tensors,
                [memoryview(_packed(t, c)) for t, c in zip(r.inputs.tensors, r.contents, strict=True)],
                r.inputs.rows,
            )
            for r in requests
        ],
    )


def _packed(tensor: InputTensor, contents: pb.InferTensorContents) -> bytes:
    """The elements as raw contents hold them."""
    expected = _FIELD_OF.get(tensor.datatype)
    if expected is None:
        raise InvalidInput("an input's datatype has no typed contents", next_step="send it as raw contents")
    for field, _ in contents.ListFields():
        if field.name != expected:
            raise InvalidInput(f"the contents of {tensor.datatype} are {expected}, and no other field")
    values = getattr(contents, expected)
    if len(values) != math.prod(tensor.shape):
        raise InvalidInput("an input's contents do not fill its shape")
    if tensor.datatype == "BYTES":
        return b"".join([part for value in values for part in (struct.pack("<I", len(value)), value)])
    try:
        return np.fromiter(values, tensors.NUMPY[tensor.datatype], len(values)).tobytes()
    except OverflowError:
        raise InvalidInput("an element lies outside of its tensor's datatype") from None


def parameters_of(found: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    """Parameters of all five kinds by name. Raises InvalidInput for one without a value."""
    values = {}
    for name, one in found.items():
        kind = one.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidInput("a parameter has no value")
        values[name] = getattr(one, kind)
    return values


def wanted(request: pb.ModelInferRequest, about: Sequence[TensorMetadata]) -> list[TensorMetadata]:
    """The outputs that are asked for, in that order. Raises InvalidInput for one that the model has not."""
    if not request.outputs:
        return list(about)
    by_name = {output.name: output for output in about}
    found = []
    for output in request.outputs:
        if output.name not in by_name:
            raise InvalidInput("an output is asked for that the model has not")
        if any(name in output.parameters for name in _ELSEWHERE):
            raise InvalidInput("outputs come as tensors in the answer, in no other form")
        found.append(by_name[output.name])
    return found


def add_output(answer: pb.ModelInferResponse, about: TensorMetadata, values: list[Any], *, raw: bool) -> None:
    """Puts an output into the answer: a value, or a list of k values, for each row."""
    shape = [len(values), *about.shape[1:]]
    if about.shape[1:] == [-1]:
        shape[1] = len(values[0]) if values else 0
    output = answer.outputs.add(name=about.name, datatype=about.datatype, shape=shape)
    if raw:
        answer.raw_output_contents.append(tensors.binary_data(values, about.datatype))
    elif about.datatype == "BYTES":
        output.contents.bytes_contents.extend(b"" if v is None else str(v).encode() for v in values)
    else:
        flat = tensors.json_data(values)
        output.contents.fp64_contents.extend(math.nan if v is None else v for v in flat)
