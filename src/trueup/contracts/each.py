"""Rows of plain Python values as columns in stored form, where nothing about them is unusual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from trueup.contracts.values import EXACT_IN_DOUBLE, Fault, JsonNumber, stored
from trueup.domain.contract import Field, FieldType, Storage


class Unusual(Exception):
    """Something is wrong or unusual: the values must be looked at one by one."""


class _Absent:
    """What a row holds in place of a field that it lacks."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()

_NONE = type(None)
_PLAIN: dict[FieldType, frozenset[type]] = {
    FieldType.FLOAT64: frozenset({float}),
    FieldType.INT64: frozenset({int}),
    FieldType.BOOL: frozenset({bool}),
    FieldType.STRING: frozenset({str}),
    FieldType.CATEGORY: frozenset({str}),
}


def listed(fields: Sequence[Field], rows: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """The rows' values by field. Raises Unusual for a row that is no dict or has a field of another name."""
    if not set(map(type, rows)) <= {dict}:
        raise Unusual
    names = [f.name for f in fields]
    if set(map(len, rows)) == {len(names)}:
        try:
            return {name: [row[name] for row in rows] for name in names}
        except KeyError:  # so many fields, but one of another name
            raise Unusual from None
    known = set(names)
    if any(not row.keys() <= known for row in rows):
        raise Unusual
    return {name: [row.get(name, ABSENT) for row in rows] for name in names}


def column(f: Field, values: Sequence[Any], max_chars: int) -> tuple[Sequence[Any], list[bool] | None]:
    """One field's values in stored form and which of them are null, None where none is. Raises Unusual."""
    kinds = set(map(type, values))
    if kinds and kinds <= _PLAIN.get(f.type, frozenset()):
        return values, None
    if _Absent in kinds:
        values = [None if v is ABSENT else v for v in values]
        kinds = kinds - {_Absent} | {_NONE}
    nulls = None
    if _NONE in kinds:
        if not f.nullable:
            raise Unusual
        nulls = [v is None for v in values]
    return _filled(f, values, kinds - {_NONE}, max_chars), nulls


def _filled(f: Field, values: Sequence[Any], kinds: set[type], max_chars: int) -> Sequence[Any]:
    """The stored form, with something harmless where null."""
    if f.type is FieldType.FLOAT64:
        return _doubles(values, kinds)
    if kinds <= _PLAIN.get(f.type, frozenset()):
        return values if f.storage is Storage.TEXTS else [0 if v is None else v for v in values]
    try:
        found = [stored(f, v, max_chars) for v in values]
    except Fault:
        raise Unusual from None
    return found if f.storage is Storage.TEXTS else [0 if v is None else v for v in found]


def _doubles(values: Sequence[Any], kinds: set[type]) -> list[Any]:
    if not kinds <= {float, int, JsonNumber}:
        raise Unusual
    if int in kinds and any(type(v) is int and abs(v) > EXACT_IN_DOUBLE for v in values):
        raise Unusual
    return [float("nan") if v is None else float(v) for v in values]
