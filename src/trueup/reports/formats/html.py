"""A run as one page that needs nothing beside itself: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import DictLoader, Environment, StrictUndefined, Template
from markupsafe import Markup

from trueup.domain.report import CellKind, Chart, ChartKind, Column, ReportRun, Result, Shown
from trueup.errors import InvalidQuery
from trueup.reports.charts.drawing import pictures
from trueup.reports.writing import FIGURES, NARROW, day, heading, moment, tile_writer, writer

MAX_ROWS = 300  # of a table on a page; the other formats have them all
_DENSE = 9  # columns
_FOLDED = 12  # rows, from where on a table stands folded below its charts
_VERDICTS = ("ok", "drift", "breach", "provisional", "insufficient", "broken")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell as it is written, where it leads, and whether it is a figure."""

    text: str
    css: str = ""
    href: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row, and how the ledger rows behind it are asked for."""

    number: int
    cells: tuple[Cell, ...]
    href: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart: its heading and its pictures, or why there is none."""

    title: str
    unit: str
    pictures: tuple[tuple[str, Markup], ...]
    is_wide: bool
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """What stands on the page for one query."""

    query: str
    title: str
    digest: str
    heads: tuple[Cell, ...]
    rows: tuple[Row, ...]
    figures: tuple[Figure, ...]
    total: str
    left_out: str
    is_cut: bool
    is_tiles: bool
    is_dense: bool
    is_folded: bool


def html_of(run: ReportRun, public_url: str = "", *, with_links: bool = True) -> bytes:
    """The page, in UTF-8. Links lead to ``public_url``, or to the server that the page comes from."""
    page = _template().render(
        run=run,
        asked=run.asked,
        look=run.look,
        style=Markup(_style()),  # noqa: S704 - our own file
        sections=[_section(run, result, public_url if with_links else None) for result in run.results],
        parameters=_parameters(run),
        as_known=moment(run.asked.as_known_at),
        as_known_day=day(run.asked.as_known_at),
        made=moment(run.started_at),
    )
    return page.encode()


def policy() -> str:
    """The Content-Security-Policy under which the page is whole."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _section(run: ReportRun, result: Result, public_url: str | None) -> Section:
    columns = [(column, run.look.columns.get(column.name, Shown())) for column in result.columns]
    left_out = len(result.rows) - MAX_ROWS
    is_tiles = result.query in run.look.tiles
    figures = _figures(run, result)
    return Section(
        query=result.query,
        title=_title(result),
        digest=result.digest,
        heads=tuple(Cell(heading(column.name, shown), _css(column, shown)) for column, shown in columns),
        rows=_rows(run, result, columns, public_url, is_tiles=is_tiles),
        figures=figures,
        total=_count(len(result.rows)),
        left_out=_count(left_out) if left_out > 0 else "",
        is_cut=result.is_cut,
        is_tiles=is_tiles,
        is_dense=len(columns) > _DENSE,
        is_folded=bool(figures) and len(result.rows) > _FOLDED,
    )


def _title(result: Result) -> str:
    return result.title or result.query.replace("_", " ").capitalize()


def _count(n: int) -> str:
    return f"{n:,}".replace(",", NARROW)


def _rows(
    run: ReportRun, result: Result, columns: list[tuple[Column, Shown]], public_url: str | None, *, is_tiles: bool
) -> tuple[Row, ...]:
    shown_rows = result.rows[:MAX_ROWS]
    write_of = tile_writer if is_tiles else writer
    writers = [write_of(column, shown, [row[i] for row in shown_rows]) for i, (column, shown) in enumerate(columns)]
    links = [run.look.links.get(column.name, _DEFAULT_LINKS.get(column.name, "")) for column, _ in columns]
    has_behind = result.query in run.look.rows and public_url is not None
    rows = []
    for number, row in enumerate(shown_rows, start=1):
        cells = tuple(
            Cell(write(cell), _css(column, shown, cell), _filled(public_url, link, column.name, cell))
            for (column, shown), write, link, cell in zip(columns, writers, links, row, strict=True)
        )
        href = f"{public_url}/v1/report-runs/{run.run_id}/rows/{result.query}/{number}" if has_behind else ""
        rows.append(Row(number, cells, href, f"trueup report rows {run.run_id} {result.query} --row {number}"))
    return tuple(rows)


_DEFAULT_LINKS = {"prediction_id": "/v1/predictions/{prediction_id}"}


def _filled(public_url: str | None, link: str, column: str, cell: Any) -> str:
    if public_url is None or not link or cell is None:
        return ""
    return public_url + link.replace("{" + column + "}", quote(str(cell), safe=""))


def _css(column: Column, shown: Shown, cell: Any = None) -> str:
    if column.kind in FIGURES or shown.format is not None:
        return "figure"
    if column.name == "verdict" and cell in _VERDICTS:
        return f"verdict {cell}"
    return "moment" if column.kind in (CellKind.DATE, CellKind.TIMESTAMP) else ""


def _figures(run: ReportRun, result: Result) -> tuple[Figure, ...]:
    charts = [chart for chart in run.look.charts if chart.query == result.query]
    return tuple(
        _figure(chart, result, run.look.columns, f"{result.query}-{i}", is_alone=len(charts) == 1)
        for i, chart in enumerate(charts)
    )


def _figure(chart: Chart, result: Result, columns: Mapping[str, Shown], identity: str, *, is_alone: bool) -> Figure:
    shown = columns.get(chart.y[0], Shown())
    title = chart.title or _title(result)
    try:
        found = pictures(chart, result, columns, identity, is_alone=is_alone)
    except InvalidQuery as error:
        return Figure(title, chart.unit, (), is_alone, error.message)
    drawn = tuple((one.facet if len(found) > 1 else "", Markup(one.svg)) for one in found)  # noqa: S704 - written by an XML serializer
    is_wide = len(found) > 1 or chart.kind is ChartKind.HEAT or (is_alone and not chart.diagonal)
    return Figure(title, chart.unit or shown.unit, drawn, is_wide, "" if drawn else "nothing to draw")


def _parameters(run: ReportRun) -> list[tuple[str, str]]:
    given = run.asked.parameters.items()
    return [
        (name.replace("_", " "), "all" if value is None else str(value))
        for name, value in given
        if not name.startswith("row_")
    ]


@cache
def _style() -> str:
    return files("trueup.reports.formats").joinpath("report.css").read_text(encoding="utf-8")


@cache
def _template() -> Template:
    source = files("trueup.reports.formats").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(
        loader=DictLoader({"report.html": source}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")
