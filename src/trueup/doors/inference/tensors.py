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
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Booked, Decoded
from trueup.domain.contract import Contract, FieldType, OutputKind
from trueup.doors.inference.schemas import InputTensor, TensorMetadata
from trueup.errors import InvalidInput
from trueup.scoring.service import Response

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
_NUMBERS = msgspec.json.Decoder(list[float])


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


def decoded(decoder: Decoder, tensors: Sequence[InputTensor], raw: Sequence[memoryview | None], most: int) -> Decoded:
    """The instances of a request; ``raw`` has each tensor's bytes, None where it is in the JSON.

    Raises InvalidInput when tensors do not fit one another or the contract's fields.
    """
    by_name = decoder.contract.by_name
    columns: dict[str, Any] = {}
    nulls: dict[str, NDArray[np.bool_]] = {}
    n = None
    for tensor, data in zip(tensors, raw, strict=True):
        rows = _rows(tensor, most)
        if n is None:
            n = rows
        elif rows != n:
            raise InvalidInput("the inputs differ in their number of rows")
        name = tensor.name
        if name in by_name:
            _once(name in columns)
            taken = _TAKEN.get(by_name[name].type, _BYTES)
            columns[name] = _column(tensor, data, rows, taken)
        elif name == MATRIX:
            for place, column in _matrix(decoder.contract, tensor, data, rows):
                _once(place in columns)
                columns[place] = column
        elif name.endswith(IS_NULL) and name.removesuffix(IS_NULL) in by_name:
            _once(name in nulls)
            nulls[name.removesuffix(IS_NULL)] = np.array(_column(tensor, data, rows, ("BOOL",)), bool)
        else:
            raise InvalidInput("an input has no field of its name", next_step="the model's metadata lists the inputs")
    for name, mask in nulls.items():
        if name not in columns:
            raise InvalidInput(f"{name}{IS_NULL} came without {name}")
        columns[name] = [None if gone else value for gone, value in zip(mask, _listed(columns[name]), strict=True)]
    return decoder.columns(columns)


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
    if tensor.datatype == "FP16":
        raise InvalidInput("FP16 cannot be sent as JSON", next_step="send it binary, or as FP32")
    try:
        values: list[Any] = _FLAT[kind].decode(tensor.data)
    except msgspec.ValidationError:
        values = _flattened(kind, tensor)
    if len(values) != rows:
        raise InvalidInput("an input's data does not fill its shape")
    return values


def _flattened(kind: str, tensor: InputTensor) -> list[Any]:
    try:
        nested: list[list[Any]] = _NESTED[kind].decode(tensor.data)
    except msgspec.ValidationError:
        raise InvalidInput("an input's data does not fit its datatype") from None
    if len(tensor.shape) != 2 or any(len(row) != tensor.shape[1] for row in nested):
        raise InvalidInput("an input's data is nested otherwise than its shape")
    return [value for row in nested for value in row]


def _matrix(contract: Contract, tensor: InputTensor, raw: memoryview | None, rows: int) -> list[tuple[str, Any]]:
    names = [f.name for f in contract.features if f.type is FieldType.FLOAT64]
    if len(tensor.shape) != 2 or tensor.shape[1] != len(names):
        raise InvalidInput(f"{MATRIX} has one column for each of the {len(names)} float64 features")
    if tensor.datatype not in _FLOATS:
        raise InvalidInput(f"{MATRIX} is {' or '.join(_FLOATS)}")
    if raw is not None:
        flat = _unpacked(tensor.datatype, raw, rows * len(names))
    else:
        flat = np.array(_matrix_values(tensor, rows * len(names)), np.float64)
    block = np.asarray(flat).reshape(rows, len(names))
    return [(name, block[:, place]) for place, name in enumerate(names)]


def _matrix_values(tensor: InputTensor, elements: int) -> list[float]:
    if not isinstance(tensor.data, msgspec.Raw):
        raise InvalidInput("an input has no data")
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


def answered(contract: Contract, response: Response) -> dict[str, NDArray[Any]]:
    """Every output by name: float64 (n,) or (n, k), or object (n,) of str."""
    assert (response.receipt.booked < Booked.CONFLICT).all()
    answers, n = response.receipt.answers, response.received
    ids = [_uuid(one) for one in response.receipt.ids.tobytes().hex(" ", 16).split()] if n else []
    found: dict[str, NDArray[Any]] = {
        "prediction_id": np.array(ids, object),
        "status": np.array([str(s) for s in answers.status], object),
    }
    for output in outputs_of(contract)[2:]:
        values = {
            "score": answers.score,
            "vector": answers.outputs,
            "probabilities": answers.outputs,
            "class": answers.classes,
            "decision": answers.decision,
            "expected_cost": answers.expected_cost,
        }[output.name]
        if values is None:
            values = np.full(n, None, object) if output.datatype == "BYTES" else np.full(n, np.nan)
        found[output.name] = values
    return found


def _uuid(text: str) -> str:
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def json_data(values: NDArray[Any]) -> list[Any]:
    """Flat, row-major; what is no number or no text is null, because JSON has neither."""
    flat: list[Any] = values.reshape(-1).tolist()
    if values.dtype == object:
        return flat
    return [v if math.isfinite(v) else None for v in flat]


def binary_data(values: NDArray[Any]) -> bytes:
    """Little-endian; NaN stays, an absent text is empty."""
    if values.dtype != object:
        return values.astype("<f8").tobytes()
    cells = [b"" if v is None else str(v).encode() for v in values.tolist()]
    return b"".join(struct.pack("<I", len(cell)) + cell for cell in cells)
