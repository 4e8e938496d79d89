"""What a chart draws, out of the rows of its query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trueup.domain.report import CellKind, Chart, ChartKind, Result
from trueup.errors import InvalidQuery
from trueup.reports.charts.scales import day_label, seconds_of

MAX_SERIES = 12
MAX_FACETS = 24
MAX_POINTS = 5_000
_LARGEST = 1e100
_FIGURES = (CellKind.INTEGER, CellKind.NUMBER)
_MOMENTS = (CellKind.DATE, CellKind.TIMESTAMP)


@dataclass(frozen=True, slots=True)
class Point:
    """One mark. ``x`` is a figure, seconds since 1970, or the index of a category; ``y`` None is a gap."""

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one name, in the order of the rows."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """All that one picture shows. ``categories`` where x has no scale; ``left_out``: series there was no room for."""

    facet: str
    series: tuple[Series, ...]
    categories: tuple[str, ...] | None
    x_kind: CellKind
    left_out: int = 0


def drawn(chart: Chart, result: Result) -> list[Drawn]:
    """The pictures of a chart, one a facet. Raises InvalidQuery where a column is missing or holds no figures."""
    places = _places(chart, result)
    rows = result.rows[:MAX_POINTS]
    facets: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        facets.setdefault(str(row[places[chart.facet]]) if chart.facet else "", []).append(row)
    x_kind = result.columns[places[chart.x]].kind
    is_banded = chart.kind in (ChartKind.BAR, ChartKind.STACKED, ChartKind.HEAT) or x_kind not in (*_FIGURES, *_MOMENTS)
    return [
        _drawn(chart, places, name, own, x_kind, is_banded=is_banded) for name, own in list(facets.items())[:MAX_FACETS]
    ]


def _places(chart: Chart, result: Result) -> dict[str, int]:
    places = {}
    figures = (*chart.y, chart.low, chart.high)
    for name in filter(None, (chart.x, *chart.y, chart.series, chart.facet, chart.low, chart.high)):
        try:
            places[name] = result.place(name)
        except KeyError:
            raise InvalidQuery(f"chart of {chart.query}: the query has no column {name}") from None
        if name in figures and not _has_figures(result, places[name]):
            raise InvalidQuery(f"chart of {chart.query}: column {name} holds no figures")
    return places


def _has_figures(result: Result, place: int) -> bool:
    return result.columns[place].kind in _FIGURES or all(row[place] is None for row in result.rows)


def _drawn(
    chart: Chart,
    places: dict[str, int],
    facet: str,
    rows: list[tuple[Any, ...]],
    x_kind: CellKind,
    *,
    is_banded: bool,
) -> Drawn:
    rows = [row for row in rows if row[places[chart.x]] is not None]
    index = {value: i for i, value in enumerate(dict.fromkeys(row[places[chart.x]] for row in rows))}

    def place(row: tuple[Any, ...]) -> float:
        x = row[places[chart.x]]
        return index[x] if is_banded else seconds_of(x) if x_kind in _MOMENTS else float(x)

    named: dict[str, list[Point]] = {}
    for row in rows:
        for y in chart.y:
            name = _name(row[places[chart.series]]) if chart.series else y.replace("_", " ")
            band = (_finite(row[places[chart.low]]), _finite(row[places[chart.high]])) if chart.low else (None, None)
            named.setdefault(name, []).append(Point(place(row), _finite(row[places[y]]), *band))
    kept = list(named.items())[: None if chart.kind is ChartKind.HEAT else MAX_SERIES]
    return Drawn(
        facet,
        tuple(Series(name, tuple(points)) for name, points in kept),
        tuple(_category(value, x_kind) for value in index) if is_banded else None,
        x_kind,
        len(named) - len(kept),
    )


def _finite(value: float | None) -> float | None:
    """The figure, or a gap where it is so large that no distance can be told."""
    return value if value is not None and abs(value) < _LARGEST else None


def _name(value: Any) -> str:
    return "–" if value is None else str(value)


def _category(value: Any, kind: CellKind) -> str:
    return day_label(value) if kind in _MOMENTS else str(value)
