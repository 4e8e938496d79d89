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
from dataclasses import dataclass
from types import NoneType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Booked, Decoded
from trueup.domain.contract import Contract, FieldType, OutputKind
from trueup.doors.inference.asks import prediction_ids
from trueup.doors.inference.oip.schemas import InputTensor, ModelMetadata, NestedTensor, Scalar, TensorMetadata
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
_FLAT = msgspec.json.Decoder(list[Scalar])
_NESTED = msgspec.json.Decoder(list[list[Scalar]])
_KINDS: dict[str, frozenset[type]] = {
    "BOOL": frozenset({bool, NoneType}),
    "BYTES": frozenset({str, NoneType}),
    **{
        name: frozenset({int, NoneType} if "INT" in name else {int, float, NoneType})
        for name in NUMPY
        if name != "BOOL"
    },
}
encode = msgspec.json.Encoder().encode


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


class Mapping:
    """What a contract looks like in tensors, made once for each revision of a deployment."""

    def __init__(self, contract: Contract) -> None:
        self.outputs = outputs_of(contract)
        self.doubles = frozenset(f.name for f in contract.features if f.type is FieldType.FLOAT64)
        self.taken = {f.name: _TAKEN.get(f.type, _BYTES) for f in contract.fields}
        self.flat = all(len(output.shape) == 1 for output in self.outputs)
        heads = [f'{{"name":"{o.name}","datatype":"{o.datatype}","shape":[1],"data":[%b]}}' for o in self.outputs]
        self.row = f"[{','.join(heads)}]".encode()


def mapping(resolved: Resolved) -> Mapping:
    """The mapping of a loaded revision."""
    return resolved.decoder.once(Mapping)


@dataclass(slots=True)
class Inputs:
    """The inputs of one request, their shapes checked; ``raw`` has each tensor's bytes, None where it is data."""

    tensors: Sequence[InputTensor]
    raw: Sequence[memoryview | None]
    rows: int

    @property
    def form(self) -> tuple[Any, ...]:
        """Requests of one form can be decoded as one."""
        return tuple([(t.name, t.datatype, r is None) for t, r in zip(self.tensors, self.raw, strict=True)])


def checked(tensors: Sequence[InputTensor | NestedTensor], raw: Sequence[memoryview | None], most: int) -> Inputs:
    """The inputs, if their shapes agree. Raises InvalidInput."""
    n = -1
    for tensor in tensors:
        rows = _rows(tensor, most)
        if rows != n:
            if n >= 0:
                raise InvalidInput("the inputs differ in their number of rows")
            n = rows
    if n < 0:
        raise InvalidInput("a request has at least one input")
    return Inputs([t if type(t) is InputTensor else _flat(t) for t in tensors], raw, n)  # type: ignore[arg-type]


def _flat(tensor: NestedTensor) -> InputTensor:
    """The tensor with its data in a row, if it is nested as its shape says."""
    data = msgspec.UNSET if isinstance(tensor.data, msgspec.UnsetType) else _elements(tensor.data, tensor.shape)
    return InputTensor(tensor.name, tensor.shape, tensor.datatype, data, tensor.parameters)


def _elements(data: msgspec.Raw, shape: Sequence[int]) -> list[Scalar]:
    try:
        flat: list[Scalar] = _FLAT.decode(data)
        return flat
    except (msgspec.ValidationError, ValueError):
        pass
    try:
        nested: list[list[Scalar]] = _NESTED.decode(data)
    except (msgspec.ValidationError, ValueError):
        raise InvalidInput("an input's data does not fit its datatype") from None
    if len(shape) != 2 or any(len(row) != shape[1] for row in nested):
        raise InvalidInput("an input's data is nested otherwise than its shape")
    return [value for row in nested for value in row]


def decoded(decoder: Decoder, requests: Sequence[Inputs]) -> Decoded:
    """The instances of requests of one form, one after another.

    Raises InvalidInput when tensors do not fit their shapes or the contract's fields.
    """
    about = decoder.once(Mapping)
    columns: dict[str, Any] = {}
    matrix = None
    nulls: dict[str, NDArray[np.bool_]] = {}
    for place, tensor in enumerate(requests[0].tensors):
        name = tensor.name
        if name in about.taken:
            _once(name in columns)
            columns[name] = _column(requests, place, about.taken[name])
        elif name == MATRIX:
            _once(matrix is not None)
            matrix = _matrix(requests, place, len(about.doubles))
        elif name.endswith(IS_NULL) and name.removesuffix(IS_NULL) in about.taken:
            _once(name.removesuffix(IS_NULL) in nulls)
            mask = _column(requests, place, ("BOOL",))
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
    _once(not about.doubles.isdisjoint(columns))
    return decoder.matrix(matrix, columns)


def _once(again: bool) -> None:
    if again:
        raise InvalidInput("an input is given twice")


def _rows(tensor: InputTensor | NestedTensor, most: int) -> int:
    """The tensor's rows, its shape checked before anything is allocated or multiplied."""
    shape = tensor.shape
    if not 1 <= len(shape) <= 2 or min(shape) < 0:
        raise InvalidInput("an input's shape must be [rows] or [rows, columns], neither negative")
    if shape[0] > most:
        raise InvalidInput(f"a request may have at most {most} instances", next_step="send smaller batches")
    if len(shape) == 2 and shape[1] != 1 and tensor.name != MATRIX:
        raise InvalidInput("a field's input has one column", next_step=f"use the input {MATRIX} for a matrix")
    return shape[0]


def _column(requests: Sequence[Inputs], place: int, taken: Sequence[str]) -> Any:
    """One field's values of all requests: an array, or a list where they are texts or some are null."""
    datatype = requests[0].tensors[place].datatype
    if datatype not in taken:
        raise InvalidInput(f"an input's datatype does not fit its field: {' or '.join(taken)} is expected")
    if requests[0].raw[place] is not None:
        return _joined([_unpacked(datatype, r.raw[place], r.rows) for r in requests])
    values, kinds = _values(requests, place, datatype, 1)
    if datatype == "BYTES" or NoneType in kinds:
        return values
    if "INT" in datatype and values:
        low, high = _INTEGER_RANGE[datatype]
        if min(values) < low or max(values) > high:
            raise InvalidInput("an element lies outside of its tensor's datatype")
    try:
        return np.array(values, NUMPY[datatype] if datatype in ("BOOL", "FP64") else None)
    except OverflowError:  # an integer beyond every double
        raise InvalidInput("an input's data does not fit its datatype") from None


def _values(requests: Sequence[Inputs], place: int, datatype: str, width: int) -> tuple[list[Any], set[type]]:
    """The elements of all requests, each one's own counted, and of which types they are."""
    if datatype == "FP16":
        raise InvalidInput("FP16 cannot be sent as JSON", next_step="send it binary, or as FP32")
    values: list[Any] = []
    for request in requests:
        data = request.tensors[place].data
        if not isinstance(data, list):
            raise InvalidInput("an input has no data")
        if len(data) != request.rows * width:
            raise InvalidInput("an input's data does not fill its shape")
        values += data
    kinds = set(map(type, values))
    if not kinds <= _KINDS[datatype]:
        raise InvalidInput("an input's data does not fit its datatype")
    return values, kinds


def _matrix(requests: Sequence[Inputs], place: int, width: int) -> NDArray[np.float64]:
    tensors = [request.tensors[place] for request in requests]
    if any(len(tensor.shape) != 2 or tensor.shape[1] != width for tensor in tensors):
        raise InvalidInput(f"{MATRIX} has one column for each of the {width} float64 features")
    datatype = tensors[0].datatype
    if datatype not in _FLOATS:
        raise InvalidInput(f"{MATRIX} is {' or '.join(_FLOATS)}")
    if requests[0].raw[place] is not None:
        block = np.concatenate([_unpacked(datatype, r.raw[place], r.rows * width) for r in requests])
        return block.reshape(-1, width)
    values, kinds = _values(requests, place, datatype, width)
    if NoneType in kinds:
        raise InvalidInput(f"{MATRIX} has no nulls in JSON", next_step="send the fields as inputs")
    try:
        return np.array(values, np.float64).reshape(-1, width)
    except OverflowError:  # an integer beyond every double
        raise InvalidInput("an input's data does not fit its datatype") from None


def _joined(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in _listed(part)]


def _unpacked(datatype: str, raw: memoryview | None, elements: int) -> Any:
    """Little-endian elements; texts each behind a length of four bytes."""
    assert raw is not None
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


def answered(resolved: Resolved, response: Response) -> dict[str, list[Any]]:
    """Every output by name, a value (or a list of k) for each row of the batch; None where there is none."""
    answers, n = response.receipt.answers, len(response.receipt.booked)
    found: dict[str, list[Any]] = {
        "prediction_id": prediction_ids(response),
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
    for output in mapping(resolved).outputs[2:]:
        values = arrays[output.name]
        found[output.name] = [None] * n if values is None else _finite(values)
    return found


def written(resolved: Resolved, response: Response) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The beginning of every caller's answer as JSON, and for each row its outputs and what follows them."""
    about, values = mapping(resolved), answered(resolved, response)
    cells = [[encode(v) for v in values[output.name]] for output in about.outputs]
    head = {"model_name": resolved.deployment.name, "model_version": resolved.champion.version.version}
    repeated = (response.receipt.booked == Booked.REPEATED).tolist()
    tails = (b',"parameters":{"repeated":0}', b',"parameters":{"repeated":1}')
    rows = [(about.row % row, tails[again]) for row, again in zip(zip(*cells, strict=True), repeated, strict=True)]
    return encode(head)[:-1] + b',"outputs":', rows


def _finite(values: NDArray[Any]) -> list[Any]:
    listed: list[Any] = values.tolist()
    if values.dtype == object or np.isfinite(values).all():
        return listed
    return [v if not isinstance(v, float) or math.isfinite(v) else None for v in listed]


def json_data(values: list[Any]) -> list[Any]:
    """Flat, row-major."""
    return [v for row in values for v in row] if values and isinstance(values[0], list) else values


def binary_data(values: list[Any], datatype: str) -> bytes:
    """Little-endian; an absent number is NaN, an absent text is empty."""
    if datatype != "BYTES":
        return np.array([math.nan if v is None else v for v in json_data(values)], "<f8").tobytes()
    cells = [b"" if v is None else str(v).encode() for v in values]
    return b"".join(struct.pack("<I", len(cell)) + cell for cell in cells)
