"""The one mapping between a contract's typed fields and the protocol's tensors.

========== ============================== ===========================================================
field      datatypes taken (first: shown) as
========== ============================== ===========================================================
float64    FP64, FP32, FP16               numbers; NaN is null where the field is nullable
                                          and does not allow NaN
int64      INT64 and narrower, UINT8-32   numbers
bool       BOOL                           true, false
string,    BYTES                          UTF-8 text
category
date       BYTES                          ISO day, 2026-11-20
timestamp  BYTES                          ISO instant with zone
decimal    BYTES                          digits and at most one point
========== ============================== ===========================================================

Every field is an input of shape [n] or [n, 1]. In JSON a null element is null. In binary and gRPC
a nullable field ``f`` may come with an input ``f.is_null`` (BOOL, true: null, whatever the element
says); a nullable field whose input is left out is null in every row. ``features`` [n, k] (FP64 or
FP32) stands for all k float64 features in contract order. Nothing else is converted: an INT64
tensor is no float64 field.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Decoded
from trueup.domain.contract import Contract, Field, FieldType, OutputKind
from trueup.doors.inference.oip.schemas import InputTensor, ModelMetadata, TensorMetadata
from trueup.errors import InvalidInput
from trueup.scoring.service import Resolved, Response

SERVER = "trueup"
MATRIX = "features"
IS_NULL = ".is_null"
_FLOATS = ("FP64", "FP32", "FP16")
_TAKEN: dict[FieldType, tuple[str, ...]] = {
    FieldType.FLOAT64: _FLOATS,
    FieldType.INT64: ("INT64", "INT32", "INT16", "INT8", "UINT32", "UINT16", "UINT8"),
    FieldType.BOOL: ("BOOL",),
}
_BYTES = ("BYTES",)
NUMPY: dict[str, str] = {
    "BOOL": "?",
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}
_INTEGER_RANGE = {n: (np.iinfo(k).min, np.iinfo(k).max) for n, k in NUMPY.items() if "INT" in n}
_FLAT: dict[str, Any] = {
    "FP": msgspec.json.Decoder(list[float | None]),
    "INT": msgspec.json.Decoder(list[int | None]),
    "BOOL": msgspec.json.Decoder(list[bool | None]),
    "BYTES": msgspec.json.Decoder(list[str | None]),
}
_NESTED: dict[str, Any] = {
    "FP": msgspec.json.Decoder(list[list[float | None]]),
    "INT": msgspec.json.Decoder(list[list[int | None]]),
    "BOOL": msgspec.json.Decoder(list[list[bool | None]]),
    "BYTES": msgspec.json.Decoder(list[list[str | None]]),
}
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NUMBERS = msgspec.json.Decoder(list[float])


def metadata(resolved: Resolved) -> ModelMetadata:
    """What a deployment takes and gives."""
    version, contract = resolved.champion.version, resolved.contract
    platform = version.artifacts[0].runtime if version.artifacts else "none"
    return ModelMetadata(
        name=resolved.deployment.name,
        versions=[version.version],
        platform=f"{SERVER}_{platform}",
        inputs=inputs_of(contract),
        outputs=outputs_of(contract),
        properties={"contract": f"{contract.name} {contract.version}", "contract_digest": contract.digest},
    )


def inputs_of(contract: Contract) -> list[TensorMetadata]:
    """The inputs a client sees: one a field."""
    return [TensorMetadata(f.name, _TAKEN.get(f.type, _BYTES)[0], [-1]) for f in contract.fields]


def outputs_of(contract: Contract) -> list[TensorMetadata]:
    """The outputs of a contract, in the order in which they are sent."""
    kind, classes = contract.output.kind, contract.output.classes
    found = [TensorMetadata("prediction_id", "BYTES", [-1]), TensorMetadata("status", "BYTES", [-1])]
    if kind is OutputKind.VECTOR:
        found.append(TensorMetadata("vector", "FP64", [-1, -1]))
    else:
        found.append(TensorMetadata("score", "FP64", [-1]))
    if kind is OutputKind.CLASS:
        found.append(TensorMetadata("class", "BYTES", [-1]))
        found.append(TensorMetadata("probabilities", "FP64", [-1, len(classes)]))
    if contract.decision is not None:
        found.append(TensorMetadata("decision", "BYTES", [-1]))
    if contract.expected_cost:
        found.append(TensorMetadata("expected_cost", "FP64", [-1]))
    return found


@dataclass(slots=True)
class Inputs:
    """The inputs of one request, their shapes checked; ``raw`` has each tensor's bytes, None where it is JSON."""

    tensors: Sequence[InputTensor]
    raw: Sequence[memoryview | None]
    rows: int

    @property
    def form(self) -> tuple[Any, ...]:
        """Requests of one form can be decoded as one."""
        return tuple((t.name, t.datatype, r is None) for t, r in zip(self.tensors, self.raw, strict=True))


def checked(tensors: Sequence[InputTensor], raw: Sequence[memoryview | None], most: int) -> Inputs:
    """The inputs, if their shapes agree. Raises InvalidInput."""
    n = None
    for tensor in tensors:
        rows = _rows(tensor, most)
        if n is None:
            n = rows
        elif rows != n:
            raise InvalidInput("the inputs differ in their number of rows")
    if n is None:
        raise InvalidInput("a request has at least one input")
    return Inputs(tensors, raw, n)


def decoded(decoder: Decoder, requests: Sequence[Inputs]) -> Decoded:
    """The instances of requests of one form, one after another.

    Raises InvalidInput when tensors do not fit their shapes or the contract's fields.
    """
    contract = decoder.contract
    by_name = contract.by_name
    rows = sum(request.rows for request in requests)
    columns: dict[str, Any] = {}
    matrix = None
    nulls: dict[str, NDArray[np.bool_]] = {}
    for place, tensor in enumerate(requests[0].tensors):
        name = tensor.name
        parts = [(request.tensors[place], request.raw[place], request.rows) for request in requests]
        if name in by_name:
            _once(name in columns)
            columns[name] = _joined([_column(*part, _TAKEN.get(by_name[name].type, _BYTES)) for part in parts])
        elif name == MATRIX:
            _once(matrix is not None)
            matrix = _matrix(contract, parts, rows)
        elif name.endswith(IS_NULL) and name.removesuffix(IS_NULL) in by_name:
            _once(name in nulls)
            mask = _joined([_column(*part, ("BOOL",)) for part in parts])
            if not isinstance(mask, np.ndarray):
                raise InvalidInput("an .is_null input has no nulls itself")
            nulls[name.removesuffix(IS_NULL)] = mask
        else:
            raise InvalidInput("an input has no field of its name", next_step="the model's metadata lists the inputs")
    for name, mask in nulls.items():
        if name not in columns:
            raise InvalidInput(f"{name}{IS_NULL} came without {name}")
        columns[name] = [None if gone else value for gone, value in zip(mask, _listed(columns[name]), strict=True)]
    if matrix is None:
        return decoder.columns(columns)
    _once(any(f.name in columns for f in _doubles(contract)))
    return decoder.matrix(matrix, columns)


def _joined(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in _listed(part)]


def _doubles(contract: Contract) -> list[Field]:
    return [f for f in contract.features if f.type is FieldType.FLOAT64]


def _once(again: bool) -> None:
    if again:
        raise InvalidInput("an input is given twice")


def _rows(tensor: InputTensor, most: int) -> int:
    """The tensor's rows, its shape checked before anything is allocated or multiplied."""
    shape = tensor.shape
    if not 1 <= len(shape) <= 2 or any(d < 0 for d in shape):
        raise InvalidInput("an input's shape must be [rows] or [rows, columns], neither negative")
    if shape[0] > most:
        raise InvalidInput(f"a request may have at most {most} instances", next_step="send smaller batches")
    if tensor.name != MATRIX and len(shape) == 2 and shape[1] != 1:
        raise InvalidInput("a field's input has one column", next_step=f"use the input {MATRIX} for a matrix")
    return shape[0]


def _column(tensor: InputTensor, raw: memoryview | None, rows: int, taken: Sequence[str]) -> Any:
    if tensor.datatype not in taken:
        raise InvalidInput(f"an input's datatype does not fit its field: {' or '.join(taken)} is expected")
    if raw is not None:
        return _unpacked(tensor.datatype, raw, rows)
    values = _json_values(tensor, rows)
    if tensor.datatype == "BYTES" or None in values:
        return values
    if "INT" in tensor.datatype:
        low, high = _INTEGER_RANGE[tensor.datatype]
        if any(not low <= v <= high for v in values):
            raise InvalidInput("an element lies outside of its tensor's datatype")
    return np.array(values, NUMPY[tensor.datatype] if tensor.datatype in ("BOOL", "FP64") else None)


def _json_values(tensor: InputTensor, rows: int) -> list[Any]:
    kind = "FP" if tensor.datatype.startswith("FP") else "INT" if "INT" in tensor.datatype else tensor.datatype
    if not isinstance(tensor.data, msgspec.Raw):
        raise InvalidInput("an input has no data")
    _countable(tensor.data, rows)
    if tensor.datatype == "FP16":
        raise InvalidInput("FP16 cannot be sent as JSON", next_step="send it binary, or as FP32")
    try:
        values: list[Any] = _FLAT[kind].decode(tensor.data)
    except msgspec.ValidationError:
        values = _flattened(kind, tensor)
    if len(values) != rows:
        raise InvalidInput("an input's data does not fill its shape")
    return values


def _countable(data: msgspec.Raw, elements: int) -> None:
    """Raises InvalidInput for more elements than the shape has, before millions of objects are made of them."""
    text = bytes(data)
    if text.count(b",") > elements and _TEXT.sub(b"", text).count(b",") > elements:
        raise InvalidInput("an input's data does not fill its shape")


def _flattened(kind: str, tensor: InputTensor) -> list[Any]:
    try:
        nested: list[list[Any]] = _NESTED[kind].decode(tensor.data)
    except msgspec.ValidationError:
        raise InvalidInput("an input's data does not fit its datatype") from None
    if len(tensor.shape) != 2 or any(len(row) != tensor.shape[1] for row in nested):
        raise InvalidInput("an input's data is nested otherwise than its shape")
    return [value for row in nested for value in row]


def _matrix(
    contract: Contract, parts: Sequence[tuple[InputTensor, memoryview | None, int]], rows: int
) -> NDArray[np.float64]:
    width = len(_doubles(contract))
    for tensor, raw, own in parts:
        if len(tensor.shape) != 2 or tensor.shape[1] != width:
            raise InvalidInput(f"{MATRIX} has one column for each of the {width} float64 features")
        if tensor.datatype not in _FLOATS:
            raise InvalidInput(f"{MATRIX} is {' or '.join(_FLOATS)}")
        if raw is None and len(parts) > 1 and not _is_flat(tensor, own * width):
            raise InvalidInput("a matrix that is decoded by itself")
    first, raw, _ = parts[0]
    if raw is not None:
        values = [_unpacked(t.datatype, r, n * width) for t, r, n in parts if r is not None]
        return np.concatenate(values).reshape(rows, width)
    if len(parts) == 1:
        return np.array(_matrix_values(first, rows * width), np.float64).reshape(rows, width)
    # One parse for all callers: each one's own elements were counted.
    texts = [bytes(t.data).strip()[1:-1] for t, _, _ in parts if isinstance(t.data, msgspec.Raw)]
    try:
        return np.array(_NUMBERS.decode(b"[" + b",".join(texts) + b"]"), np.float64).reshape(rows, width)
    except (msgspec.MsgspecError, ValueError):
        raise InvalidInput("an input's data does not fit its datatype") from None


def _is_flat(tensor: InputTensor, elements: int) -> bool:
    """Whether the data is one flat JSON list of so many elements (of numbers, which hold no comma or bracket)."""
    if not isinstance(tensor.data, msgspec.Raw):
        return False
    text = bytes(tensor.data)
    return text.count(b",") == elements - 1 and text.count(b"[") == 1 and b'"' not in text and elements > 0


def _matrix_values(tensor: InputTensor, elements: int) -> list[float]:
    if not isinstance(tensor.data, msgspec.Raw):
        raise InvalidInput("an input has no data")
    _countable(tensor.data, elements)
    try:
        values: list[float] = _NUMBERS.decode(tensor.data)
    except msgspec.ValidationError:
        values = _flattened("FP", tensor)
        if None in values:
            raise InvalidInput(f"{MATRIX} has no nulls in JSON", next_step="send the fields as inputs") from None
    if len(values) != elements:
        raise InvalidInput("an input's data does not fill its shape")
    return values


def _unpacked(datatype: str, raw: memoryview, elements: int) -> Any:
    """Little-endian elements; texts each behind a length of four bytes."""
    if datatype == "BYTES":
        return _texts(raw, elements)
    kind = np.dtype(NUMPY[datatype])
    if len(raw) != elements * kind.itemsize:
        raise InvalidInput("an input's bytes do not fill its shape")
    if datatype == "BOOL" and any(byte > 1 for byte in bytes(raw)):
        raise InvalidInput("a BOOL byte is 0 or 1")
    values = np.frombuffer(raw, kind)
    return values.astype(np.float64) if datatype.startswith("FP") else values.astype(kind.newbyteorder("="))


def _texts(raw: memoryview, elements: int) -> list[str]:
    texts, at = [], 0
    for _ in range(elements):
        if at + 4 > len(raw):
            raise InvalidInput("an input's bytes do not fill its shape")
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + length > len(raw):
            raise InvalidInput("an input's bytes do not fill its shape")
        try:
            texts.append(str(raw[at : at + length], "utf-8"))
        except UnicodeDecodeError:
            raise InvalidInput("a BYTES element is not UTF-8 text") from None
        at += length
    if at != len(raw):
        raise InvalidInput("an input's bytes do not fill its shape")
    return texts


def _listed(column: Any) -> list[Any]:
    return list(column.tolist() if isinstance(column, np.ndarray) else column)


def answered(contract: Contract, response: Response) -> dict[str, list[Any]]:
    """Every output by name, a value (or a list of k) for each row of the batch; None where there is none."""
    answers, n = response.receipt.answers, len(response.receipt.booked)
    ids = response.receipt.ids.tobytes().hex()
    found: dict[str, list[Any]] = {
        "prediction_id": [_uuid(ids[at : at + 32]) for at in range(0, 32 * n, 32)],
        "status": [str(s) for s in answers.status.tolist()],
    }
    arrays = {
        "score": answers.score,
        "vector": answers.outputs,
        "probabilities": answers.outputs,
        "class": answers.classes,
        "decision": answers.decision,
        "expected_cost": answers.expected_cost,
    }
    for output in outputs_of(contract)[2:]:
        values = arrays[output.name]
        found[output.name] = [None] * n if values is None else _finite(values)
    return found


def _finite(values: NDArray[Any]) -> list[Any]:
    listed: list[Any] = values.tolist()
    if values.dtype == object or np.isfinite(values).all():
        return listed
    return [v if not isinstance(v, float) or math.isfinite(v) else None for v in listed]


def _uuid(text: str) -> str:
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def json_data(values: list[Any]) -> list[Any]:
    """Flat, row-major."""
    return [v for row in values for v in row] if values and isinstance(values[0], list) else values


def binary_data(values: list[Any], datatype: str) -> bytes:
    """Little-endian; an absent number is NaN, an absent text is empty."""
    if datatype != "BYTES":
        return np.array([math.nan if v is None else v for v in json_data(values)], "<f8").tobytes()
    cells = [b"" if v is None else str(v).encode() for v in values]
    return b"".join(struct.pack("<I", len(cell)) + cell for cell in cells)
