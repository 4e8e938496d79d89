"""A field's value from the text of a CSV cell: nothing is guessed, rounded or trimmed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from trueup.domain.contract import Field, FieldType

_INTEGER = re.compile(r"-?(0|[1-9]\d{0,399})\Z")
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,399})(\.\d{1,399})?([eE][+-]?\d{1,4})?\Z")
_BOOLEANS = {"true": True, "True": True, "false": False, "False": False}


def cell(f: Field, text: str) -> Any:
    """The cell as the contract's type where the text is exactly that, else the text itself."""
    if text == "":
        return None
    convert = _CONVERT.get(f.type)
    return text if convert is None else convert(text)


def _integer(text: str) -> Any:
    return int(text) if _INTEGER.match(text) else text


def _float(text: str) -> Any:
    if _INTEGER.match(text):
        exact = int(text)
        return float(exact) if abs(exact) <= 2**53 else exact
    return float(text) if _NUMBER.match(text) else text


_CONVERT: dict[FieldType, Callable[[str], Any]] = {
    FieldType.INT64: _integer,
    FieldType.FLOAT64: _float,
    FieldType.BOOL: lambda text: _BOOLEANS.get(text, text),
}
