"""Every form of body as the same thing: the records that it stands for, as JSON.

A value is copied as the bytes that were sent, so the contract's decoder treats it alike in all forms, and
requests of different forms are decoded together.

CSV has no types. A cell is a number or a boolean where its field is one and its text is exactly that, null where
it is empty, and otherwise a text, which the decoder refuses where it expects something else. A row with another
number of values than there are columns becomes a null, which the decoder refuses as no instance.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Decoded
from trueup.domain.contract import Contract, Field, FieldType
from trueup.doors.api.errors import BodyTooLarge
from trueup.doors.inference.mlflow.schemas import FORMS, LANGUAGE_MODEL, PARAMETERS, Body, Split
from trueup.errors import InvalidInput

_BODY = msgspec.json.Decoder(Body)
_SPLIT = msgspec.json.Decoder(Split)
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_ROWS = msgspec.json.Decoder(list[list[msgspec.Raw]])
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,399})(\.\d{1,399})?([eE][+-]?\d{1,4})?\Z", re.ASCII)
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,399})\Z", re.ASCII)
_BOOLEANS = {"true": b"true", "True": b"true", "false": b"false", "False": b"false"}
_ENCODED_BOUND = "save the frame with `index=False`, as UTF-8, with a header"
T = TypeVar("T")


@dataclass(slots=True)
class Frame:
    """The instances of one request: ``records`` has ``rows`` JSON objects with commas between, and no brackets."""

    records: bytes
    rows: int
    params: dict[str, Any] = field(default_factory=dict)


def decoded(decoder: Decoder, requests: Sequence[bytes]) -> Decoded:
    """The instances of all requests, one after another. Raises InvalidInput."""
    return decoder.json(b"[" + b",".join(requests) + b"]")


def of_json(body: bytes, contract: Contract, most: int) -> Frame:
    """A JSON body of at most ``most`` instances. Raises InvalidInput, BodyTooLarge."""
    document = _body(body)
    given = [name for name in FORMS if getattr(document, name) is not msgspec.UNSET]
    if len(given) != 1:
        raise InvalidInput(
            f"the body has {len(given)} of {', '.join(FORMS)}", next_step="send exactly one of them, and `params`"
        )
    params = document.params or {}
    if not set(params) <= set(PARAMETERS):
        raise InvalidInput("params has a member that is not known", next_step=f"known are {', '.join(PARAMETERS)}")
    form = given[0]
    raw = bytes(getattr(document, form))
    _check_size(raw, most, len(contract.fields) + 1)
    read = {"dataframe_split": _split, "dataframe_records": _records}.get(form, _tensors)
    found = read(raw, contract)
    return Frame(_bounded(found, most), len(found), params)


def of_csv(body: bytes, contract: Contract, most: int) -> Frame:
    """A CSV body with a header. Raises InvalidInput, BodyTooLarge."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput("the body is not UTF-8", next_step=_ENCODED_BOUND) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(reader, None)
        if not names:
            raise InvalidInput("the CSV has no header", next_step=_ENCODED_BOUND)
        row = _template(names)
        cells = [_cell_of(contract.by_name.get(name)) for name in names]
        found: list[bytes] = []
        for values in reader:
            if len(found) >= most:
                raise _too_many(most)
            if len(values) == len(cells):
                found.append(row % tuple(cell(text) for cell, text in zip(cells, values, strict=True)))
            elif values:  # an empty line is none
                found.append(b"null")
    except csv.Error:
        raise InvalidInput(f"line {reader.line_num} is no CSV", next_step="check quotes and lengths of cells") from None
    return Frame(_bounded(found, most), len(found))


def _body(body: bytes) -> Body:
    found = _read(_BODY, body, "the body is a JSON object with exactly one of " + ", ".join(FORMS))
    if any(getattr(found, name) is not msgspec.UNSET for name in LANGUAGE_MODEL):
        raise InvalidInput(
            "messages, prompt and input are a language model's; deployments here score typed instances",
            next_step=f"send one of {', '.join(FORMS)}",
        )
    return found


def _split(raw: bytes, contract: Contract) -> list[bytes]:
    found = _read(_SPLIT, raw, "dataframe_split has data (a list of rows), and columns and index if you like")
    if found.index is not None and len(found.index) != len(found.data):
        raise InvalidInput("dataframe_split has another number of index entries than of rows")
    return _objects(_names(contract) if found.columns is None else found.columns, found.data)


def _records(raw: bytes, _: Contract) -> list[bytes]:
    return [bytes(one) for one in _read(_ELEMENTS, raw, "dataframe_records is a list of objects")]


def _tensors(raw: bytes, contract: Contract) -> list[bytes]:
    """``instances`` or ``inputs``: records, rows in contract order, columns by name, one record, or one column."""
    names = _names(contract)
    if raw[:1] == b"{":
        return _columns(_read(_MEMBERS, raw, "instances and inputs are a list, or an object of columns"))
    elements = _read(_ELEMENTS, raw, "instances and inputs are a list, or an object of columns")
    opening = {bytes(one)[:1] for one in elements}
    if b"{" in opening:
        return [bytes(one) for one in elements]
    if b"[" in opening:
        return _objects(names, _read(_ROWS, raw, "a row of instances or inputs is a list of values"))
    if len(names) != 1:
        raise InvalidInput(
            "a list of single values stands for one field, and the contract has several",
            next_step="send rows, records or columns by name",
        )
    return _objects(names, [[one] for one in elements])


def _columns(members: dict[str, msgspec.Raw]) -> list[bytes]:
    """Columns by name; where no value is a list, the object is one record."""
    listed = {name: bytes(raw)[:1] == b"[" for name, raw in members.items()}
    if not any(listed.values()):
        return [_template(members) % tuple(members.values())] if members else []
    if not all(listed.values()):
        raise InvalidInput("some columns are lists of values and some are not")
    columns = [_read(_ELEMENTS, raw, "a column is a list of values") for raw in members.values()]
    if len({len(column) for column in columns}) > 1:
        raise InvalidInput("the columns differ in length", next_step="send one value a row in every column")
    return _objects(members, list(zip(*columns, strict=True)))


def _objects(names: Iterable[str], rows: Sequence[Sequence[msgspec.Raw]]) -> list[bytes]:
    """Each row as a JSON object, null where it has another number of values."""
    row, width = _template(names), len(list(names))
    return [row % tuple(values) if len(values) == width else b"null" for values in rows]


def _template(names: Iterable[str]) -> bytes:
    """An object with a place for each value."""
    listed = list(names)
    if len(set(listed)) != len(listed):
        raise InvalidInput("two columns have one name", next_step="rename one")
    try:
        return b"{" + b",".join(_encode(name).replace(b"%", b"%%") + b":%b" for name in listed) + b"}"
    except UnicodeEncodeError:
        raise InvalidInput("a column's name is no Unicode text") from None


def _names(contract: Contract) -> list[str]:
    return [f.name for f in contract.fields]


def _cell_of(f: Field | None) -> Callable[[str], bytes]:
    """How a field's cells become JSON."""
    if f is not None and f.type is FieldType.BOOL:
        return lambda text: _BOOLEANS.get(text) or _text(text)
    if f is not None and f.type in (FieldType.FLOAT64, FieldType.INT64):
        exact = _NUMBER if f.type is FieldType.FLOAT64 else _INTEGER
        return lambda text: text.encode() if exact.match(text) else _text(text)
    return _text


def _text(text: str) -> bytes:
    return _encode(text) if text else b"null"


def _read(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw, wanted: str) -> T:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        raise InvalidInput(wanted, next_step="nothing else may be in it") from None
    except (msgspec.DecodeError, UnicodeError, ValueError):
        raise InvalidInput("the body is not valid JSON", next_step="a missing value is null, never NaN") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None


def _check_size(raw: bytes, most: int, width: int) -> None:
    """Refuses what holds more values than so many instances have, before anything is made of it."""
    if raw.count(b",") > most * width and _TEXT.sub(b"", raw).count(b",") > most * width:
        raise _too_many(most)


def _bounded(found: list[bytes], most: int) -> bytes:
    if len(found) > most:
        raise _too_many(most)
    if not found:
        raise InvalidInput("the request has no instance")
    return b",".join(found)


def _too_many(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"a request may have at most {most} instances", next_step="send smaller batches")
