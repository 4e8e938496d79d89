"""The Open Inference Protocol's documents, as msgspec reads and writes them. A field left out is never null."""

from __future__ import annotations

from typing import Any

import msgspec

Parameter = str | int | float | bool
Parameters = dict[str, Parameter]


Scalar = int | float | str | bool | None


class InputTensor(msgspec.Struct, gc=False):
    """One input as sent; ``data`` flat and row-major."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Scalar] | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET


class NestedTensor(msgspec.Struct, gc=False):
    """The same with data that is left unread until the shape is known to fit."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET


class RequestedOutput(msgspec.Struct, gc=False):
    """One output that is asked for."""

    name: str
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET


class InferRequest(msgspec.Struct, gc=False):
    """An inference request, or the JSON in front of its binary tensors."""

    inputs: list[InputTensor]
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET
    outputs: list[RequestedOutput] | msgspec.UnsetType = msgspec.UNSET


class NestedRequest(msgspec.Struct, gc=False):
    """The same where some tensor's data is nested."""

    inputs: list[NestedTensor]
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET
    outputs: list[RequestedOutput] | msgspec.UnsetType = msgspec.UNSET


class OutputTensor(msgspec.Struct, gc=False):
    """One output. ``data`` unset: the bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: Any | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET


class InferResponse(msgspec.Struct, gc=False):
    """The answer to one request."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET


class TensorMetadata(msgspec.Struct, gc=False):
    """Name, datatype and shape (-1: any number) of an input or output."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, gc=False):
    """What a deployment takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str]
