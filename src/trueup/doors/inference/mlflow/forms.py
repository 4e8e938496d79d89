"""The forms in which MLflow's clients send instances: four of JSON, and CSV.

===================== ==========================================================================
form                  what it holds
===================== ==========================================================================
`dataframe_split`     `columns` (left out: the contract's fields in their order), `data`: rows of
                      values; `index` is not used
`dataframe_records`   rows as objects
`instances`           rows as objects, or as arrays in the contract's order
`inputs`              columns as an object of arrays (or of single values), or as `instances`
CSV                   a header of field names, an empty cell is a null
===================== ==========================================================================

Each becomes rows of named values, which the contract's own decoder reads: a row's meaning does not
depend on its form. MLflow's helpers write a frame's missing values as ``NaN``, which is no JSON: it is
taken as a float, which the contract reads as null unless the field allows NaN.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import msgspec

from trueup.contracts.cells import cell
from trueup.contracts.decoding import Decoder
from trueup.contracts.values import JsonNumber
from trueup.domain.batch import Decoded
from trueup.domain.contract import Contract
from trueup.doors.api.edge import more_than
from trueup.doors.api.errors import BodyTooLarge
from trueup.doors.inference.errors import MOST_FIELDS
from trueup.doors.inference.mlflow.errors import UnsupportedMedia
from trueup.errors import InvalidInput
from trueup.settings import Limits

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_LANGUAGE = ("messages", "prompt", "input")
_PARAMS = frozenset({"idempotency_key", "event_time", "reasons", "timeout", "details"})
_JSON = msgspec.json.Decoder(float_hook=JsonNumber)
Row = dict[str, Any]


def rows_of(body: bytes, content_type: str, contract: Contract, limits: Limits) -> tuple[list[Row], dict[str, Any]]:
    """The instances by field name, and ``params``. Raises InvalidInput, BodyTooLarge, UnsupportedMedia."""
    kind, _, parameters = content_type.partition(";")
    _check_parameters(parameters)
    if kind.strip().lower() == "text/csv":
        return _bounded(_csv(body, contract, limits), limits), {}
    if kind.strip().lower() != "application/json":
        raise UnsupportedMedia("the content type is neither application/json nor text/csv")
    most = limits.request_rows * (len(contract.fields) + 1) + 1_000
    if more_than(body, b",", most) or more_than(body, b"[", most):
        raise BodyTooLarge("the request has too many elements", next_step="send smaller batches")
    document = _document(body)
    forms = [name for name in FORMS if name in document]
    if len(forms) != 1:
        if any(name in document for name in _LANGUAGE):
            raise InvalidInput("this server scores instances, not prompts", next_step=_ONE_FORM)
        raise InvalidInput("the body holds not exactly one form of instances", next_step=_ONE_FORM)
    params = {} if document.get("params") is None else document["params"]
    if not isinstance(params, dict) or not set(params) <= _PARAMS or not set(document) <= {*FORMS, "params"}:
        raise InvalidInput(
            "the body holds one form and params alone", next_step=f"params are {', '.join(sorted(_PARAMS))}"
        )
    return _bounded(_READ[forms[0]](document[forms[0]], contract), limits), params


def decoded(decoder: Decoder, requests: Sequence[Sequence[Row]]) -> Decoded:
    """The instances of all requests, one after another."""
    return decoder.records([row for rows in requests for row in rows])


_ONE_FORM = f"send one of {', '.join(FORMS)}"


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = _parsed(body)
    except (msgspec.DecodeError, ValueError, ArithmeticError):
        raise InvalidInput("the body is not valid JSON", next_step=_ONE_FORM) from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    if not isinstance(document, dict):
        raise InvalidInput("the body is no JSON object", next_step=_ONE_FORM)
    return document


def _parsed(body: bytes) -> Any:
    """JSON, whose numbers may also be ``NaN``, ``Infinity`` and ``-Infinity``."""
    try:
        return _JSON.decode(body)
    except msgspec.DecodeError:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
    return json.loads(body.decode(), parse_float=JsonNumber)


def _check_parameters(parameters: str) -> None:
    for parameter in filter(None, map(str.strip, parameters.split(";"))):
        name, _, value = parameter.partition("=")
        if name.strip().lower() != "charset" or value.strip(' "').lower() != "utf-8":
            raise UnsupportedMedia("only UTF-8 is taken, and no other parameter of the content type")


def _bounded(rows: list[Row], limits: Limits) -> list[Row]:
    if len(rows) > limits.request_rows:
        raise BodyTooLarge(
            f"a request may have at most {limits.request_rows} instances", next_step="send smaller batches"
        )
    if not rows:
        raise InvalidInput("a request has at least one instance")
    return rows


def _split(frame: Any, contract: Contract) -> list[Row]:
    if not isinstance(frame, dict) or not set(frame) <= {"columns", "index", "data"}:
        raise InvalidInput("dataframe_split is an object of columns, index and data")
    names, data, index = frame.get("columns"), frame.get("data"), frame.get("index")
    if names is None:
        names = [f.name for f in contract.fields]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidInput("columns is an array of names")
    if not isinstance(data, list) or (index is not None and (not isinstance(index, list) or len(index) != len(data))):
        raise InvalidInput("data is an array of rows, and index has one entry a row")
    return _named(names, data)


def _records(rows: Any, _: Contract) -> list[Row]:
    if not isinstance(rows, list):
        raise InvalidInput("dataframe_records is an array of objects")
    _check_each(rows, lambda row: isinstance(row, dict), "an object")
    return rows


def _listed(rows: Any, contract: Contract) -> list[Row]:
    if not isinstance(rows, list):
        raise InvalidInput("instances are an array of rows")
    names = [f.name for f in contract.fields]
    whole = f"an object or an array of {len(names)} values, one for each field of the contract"
    _check_each(rows, lambda row: isinstance(row, dict) or _is_row(row, len(names)), whole)
    return [row if isinstance(row, dict) else dict(zip(names, row, strict=True)) for row in rows]


def _inputs(inputs: Any, contract: Contract) -> list[Row]:
    if not isinstance(inputs, dict):
        return _listed(inputs, contract)
    columns = {name: values if isinstance(values, list) else [values] for name, values in inputs.items()}
    if len(set(map(len, columns.values()))) > 1:
        raise InvalidInput("the columns differ in length", next_step="send one value a row in every column")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


_READ: dict[str, Callable[[Any, Contract], list[Row]]] = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _listed,
    "inputs": _inputs,
}


def _named(names: Sequence[str], rows: list[Any]) -> list[Row]:
    if len(set(names)) != len(names):
        raise InvalidInput("two columns have one name")
    _check_each(rows, lambda row: _is_row(row, len(names)), f"an array of {len(names)} values")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _is_row(row: Any, width: int) -> bool:
    return isinstance(row, list) and len(row) == width


def _check_each(rows: list[Any], fits: Callable[[Any], bool], wanted: str) -> None:
    """Raises InvalidInput that names every row that does not fit, up to a bound."""
    wrong = [i for i, row in enumerate(rows) if not fits(row)]
    if wrong:
        more = f" and {len(wrong) - MOST_FIELDS} more" if len(wrong) > MOST_FIELDS else ""
        raise InvalidInput(f"a row is {wanted}; these are not: {', '.join(map(str, wrong[:MOST_FIELDS]))}{more}")


def _csv(body: bytes, contract: Contract, limits: Limits) -> list[Row]:
    try:
        reader = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        header = next(reader, None)
        if header is None:
            raise InvalidInput("the body is empty", next_step="the first line names the columns")
        if len(set(header)) != len(header) or not set(header) <= set(contract.by_name):
            raise InvalidInput(
                "the header names other columns than the contract's fields, or one twice",
                next_step="write it without an index: to_csv(index=False)",
            )
        lines = list(islice(filter(None, reader), limits.request_rows + 1))
    except (csv.Error, UnicodeError):
        raise InvalidInput("the body is no CSV in UTF-8") from None
    fields = [contract.by_name[name] for name in header]
    return [{f.name: cell(f, row[f.name]) for f in fields} for row in _named(header, lines)]
