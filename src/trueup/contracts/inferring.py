"""A first contract from what a model says of itself. Review it: a model knows no ranges and no keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trueup.contracts.reading import RESERVED, checked
from trueup.domain.contract import Contract, Field, FieldType, Output, OutputKind
from trueup.errors import ContractError, InvalidFile, MissingExtra

_MLFLOW_TYPES = {
    "double": FieldType.FLOAT64,
    "float": FieldType.FLOAT64,
    "integer": FieldType.INT64,
    "long": FieldType.INT64,
    "boolean": FieldType.BOOL,
    "string": FieldType.STRING,
    "datetime": FieldType.TIMESTAMP,
}


def infer_from_mlflow(uri: str, *, name: str = "model") -> Contract:
    """From the signature of an MLflow model (folder or ``models:/`` address).

    Raises ContractError without a column signature, InvalidFile when it cannot be read.
    """
    try:
        from mlflow.models import get_model_info
    except ImportError:
        raise MissingExtra("mlflow", "reading an MLflow signature") from None
    try:
        signature = get_model_info(str(uri)).signature
    except Exception:  # MLflow may raise anything of its stores
        raise InvalidFile("MLflow cannot read the model", next_step="check the folder or address") from None
    if signature is None or signature.inputs is None or signature.inputs.is_tensor_spec():
        raise ContractError("the model has no column signature", next_step="log it with infer_signature")
    return _contract(name, [_mlflow_field(column) for column in signature.inputs])


def _mlflow_field(column: Any) -> Field:
    kind = _MLFLOW_TYPES.get(getattr(column.type, "name", ""))
    if kind is None or not column.name:
        raise ContractError("the signature has a column without a name or of a type that no field has")
    return Field(_identifier(column.name), kind, nullable=not column.required)


def infer_from_onnx(path: str | Path, *, name: str = "model") -> Contract:
    """From an ONNX graph with one numeric input (n, features); features are called ``f0``, ``f1``, ...

    Raises ContractError for other inputs, InvalidFile when it is no ONNX model.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtra("onnx", "reading an ONNX graph") from None
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # the parser of untrusted bytes may raise anything
        raise InvalidFile("the file is not an ONNX model") from None
    stored = {initializer.name for initializer in graph.initializer}
    inputs = [i for i in graph.input if i.name not in stored]
    if len(inputs) != 1:
        raise ContractError("the ONNX model has several inputs", next_step="write the contract by hand")
    shape = inputs[0].type.tensor_type.shape.dim
    if len(shape) != 2 or not shape[1].dim_value:
        raise ContractError("the ONNX input has no fixed number of features", next_step="write the contract by hand")
    return _contract(name, [Field(f"f{i}", FieldType.FLOAT64) for i in range(shape[1].dim_value)])


def _contract(name: str, fields: list[Field]) -> Contract:
    return checked(Contract(_identifier(name), 1, tuple(fields), Output(OutputKind.PROBABILITY)))


def _identifier(name: str) -> str:
    """The nearest name a contract allows."""
    plain = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")[:50]
    plain = plain if plain[:1].isalpha() else f"f_{plain}"
    return f"{plain}_" if plain in RESERVED else plain
