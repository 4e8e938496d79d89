"""Figures, days and moments as people read them in a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import date, datetime
from typing import Any

from trueup.domain.report import CellKind, Column, FigureFormat, Shown

NARROW = "\u202f"  # between groups of three digits, and before a unit
MINUS = "\u2212"
NOTHING = "–"
FIGURES = (CellKind.INTEGER, CellKind.NUMBER)
_LONG = 1e7  # from here on a large figure is written 12.3 m
_SHORT = ((1e12, "tn"), (1e9, "bn"), (1e6, "m"), (1e3, "k"))

Writer = Callable[[Any], str]


def writer(column: Column, shown: Shown, cells: Iterable[Any]) -> Writer:
    """Writes the cells of one column, its figures with the same number of decimals."""
    if column.kind is CellKind.TIMESTAMP:
        return lambda cell: NOTHING if cell is None else str(cell)[:16].replace("T", " ")
    if column.kind is CellKind.BOOLEAN:
        return lambda cell: NOTHING if cell is None else "yes" if cell else "no"
    if column.kind not in FIGURES:
        return lambda cell: NOTHING if cell is None else str(cell)
    decimals = _decimals(shown.format, column.kind, [cell for cell in cells if cell is not None])
    is_share = shown.format is FigureFormat.SHARE
    return lambda cell: NOTHING if cell is None else figure(cell, decimals, is_share=is_share)


def tile_writer(column: Column, shown: Shown, cells: Iterable[Any]) -> Writer:
    """As ``writer``, for figures that stand large: long ones are shortened."""
    plain = writer(column, shown, cells)

    def write(cell: Any) -> str:
        is_long = column.kind in FIGURES and cell is not None and abs(cell) >= _LONG
        return short(cell, shown.format) if is_long and shown.format is not FigureFormat.SHARE else plain(cell)

    return write


def figure(value: float, decimals: int, *, is_share: bool = False) -> str:
    """Digits in groups of three, with a real minus sign; a share as a percentage."""
    text = f"{value * 100 if is_share else value:,.{decimals}f}"
    if text.startswith("-"):
        text = text.strip("-") if not text.strip("-0.,") else MINUS + text[1:]
    return text.replace(",", NARROW) + (f"{NARROW}%" if is_share else "")


def short(value: float, format_: FigureFormat | None) -> str:
    """A figure at an axis: 1.2 bn, 340 k, 12 %."""
    if format_ is FigureFormat.SHARE:
        return f"{_plain(value * 100)}{NARROW}%"
    for size, name in _SHORT:
        if abs(value) >= size * 0.9995:
            return f"{_plain(value / size)}{NARROW}{name}"
    return _plain(value)


def day(value: date) -> str:
    """15 February 2021."""
    return f"{value.day} {value:%B %Y}"


def moment(value: datetime) -> str:
    """15 February 2021, 06:30 UTC."""
    return f"{day(value)}, {value:%H:%M} UTC"


def heading(name: str, shown: Shown) -> str:
    """What stands above a column: its title and unit, or its name in words."""
    title = shown.title or name.replace("_", " ")
    return f"{title}, {shown.unit}" if shown.unit else title


def _plain(value: float) -> str:
    text = f"{value:.4g}"
    return text.replace("-", MINUS) if "e" not in text else f"{value:.2g}".replace("-", MINUS)


def _decimals(format_: FigureFormat | None, kind: CellKind, values: list[float]) -> int:
    largest = max((abs(value) for value in values), default=0.0)
    if format_ is FigureFormat.SHARE:
        return 1 if largest == 0 or largest * 100 >= 1 else 3
    if format_ is FigureFormat.MONEY:
        return 0 if largest >= 1_000 else 2
    if format_ is FigureFormat.INTEGER or kind is CellKind.INTEGER or largest == 0:
        return 0
    return min(max(3 - math.floor(math.log10(largest)), 0), 4 if largest >= 0.005 else 6)
