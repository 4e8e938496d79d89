"""Rows of the database as plain JSON values of bounded size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from trueup.domain.report import CellKind, Column

MAX_CELL = 10_000  # characters
_CUT = "…"


def plain(value: Any) -> Any:
    """None, bool, int, float, or text. NaN and infinity, which JSON has not, become None; durations seconds."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        exponent = value.as_tuple().exponent
        return float(value) if isinstance(exponent, int) and exponent < 0 else int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, timedelta):
        return value.total_seconds()
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC)
        return moment.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        value = bytes(value).hex()
    elif isinstance(value, list | dict | tuple):
        value = json.dumps(value, default=str, ensure_ascii=False, separators=(", ", ": "))
    text = str(value)
    return text if len(text) <= MAX_CELL else text[:MAX_CELL] + _CUT


def columns_of(names: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> tuple[Column, ...]:
    """The columns of rows as the database gave them: a kind holds for all cells that are not null, or it is text."""
    names = list(names)
    kinds: list[CellKind | None] = [None] * len(names)
    for row in rows:
        kinds = [_joined(kind, cell) for kind, cell in zip(kinds, row, strict=True)]
    return tuple(Column(name, kind or CellKind.TEXT) for name, kind in zip(names, kinds, strict=True))


def _joined(kind: CellKind | None, cell: Any) -> CellKind | None:
    found = _kind(cell)
    if found is None or found is kind:
        return kind
    if kind is None:
        return found
    return CellKind.NUMBER if {kind, found} == {CellKind.INTEGER, CellKind.NUMBER} else CellKind.TEXT


def _kind(cell: Any) -> CellKind | None:
    if cell is None:
        return None
    if isinstance(cell, bool):
        return CellKind.BOOLEAN
    if isinstance(cell, datetime):
        return CellKind.TIMESTAMP
    if isinstance(cell, date):
        return CellKind.DATE
    value = plain(cell)
    if isinstance(value, int):
        return CellKind.INTEGER
    return CellKind.NUMBER if isinstance(value, float | None) else CellKind.TEXT


def size_of(row: tuple[Any, ...]) -> int:
    """Roughly how many bytes a row takes."""
    return sum(len(cell) + 3 if isinstance(cell, str) else 12 for cell in row)
