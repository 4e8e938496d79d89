"""A run as an Excel workbook: a sheet that says what it is, then one a query. No cell is ever a formula."""

from __future__ import annotations

import io
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from trueup.domain.report import CellKind, Column, FigureFormat, ReportRun, Result, Shown
from trueup.errors import MissingExtra
from trueup.reports.writing import FIGURES, day, heading, moment

if TYPE_CHECKING:
    from xlsxwriter.workbook import Workbook
    from xlsxwriter.worksheet import Worksheet

MAX_ROWS = 1_048_000  # a sheet has 1,048,576
_MAX_TEXT = 32_767
_NUMBERS = {
    FigureFormat.SHARE: "0.0%",
    FigureFormat.MONEY: "#,##0.00",
    FigureFormat.INTEGER: "#,##0",
    FigureFormat.NUMBER: "#,##0.0000",
}
_KINDS = {
    CellKind.INTEGER: "#,##0",
    CellKind.NUMBER: "General",
    CellKind.DATE: "yyyy-mm-dd",
    CellKind.TIMESTAMP: "yyyy-mm-dd hh:mm:ss",
}
_EXACT = 10**15  # Excel keeps 15 digits; longer whole numbers are texts


def xlsx_of(run: ReportRun) -> bytes:
    """The workbook's bytes. Raises MissingExtra."""
    try:
        import xlsxwriter
    except ImportError:
        raise MissingExtra("xlsx", "an Excel workbook") from None
    held = io.BytesIO()
    safe = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(held, safe) as book:
        book.set_properties({"title": run.look.title, "created": run.started_at.replace(tzinfo=None)})
        _about(book, run)
        used = {"about"}
        for result in run.results:
            _sheet(book, run, result, _sheet_name(result.query, used))
    return held.getvalue()


def _about(book: Workbook, run: ReportRun) -> None:
    sheet = book.add_worksheet("About")
    sheet.hide_gridlines(2)
    sheet.set_column(0, 0, 22)
    sheet.set_column(1, 1, 90)
    sheet.write_string(0, 0, run.look.title, book.add_format({"bold": True, "font_size": 16, "font_color": "#1f3a5f"}))
    name = book.add_format({"font_color": "#5d6b78", "valign": "top"})
    text = book.add_format({"text_wrap": True, "valign": "top"})
    for i, (what, said) in enumerate(_facts(run), start=2):
        sheet.write_string(i, 0, what, name)
        sheet.write_string(i, 1, said[:_MAX_TEXT], text)


def _facts(run: ReportRun) -> list[tuple[str, str]]:
    asked = run.asked
    return [
        ("For", run.look.audience),
        ("What it says", run.look.description),
        ("As known at", moment(asked.as_known_at)),
        ("Known by", f"what was {asked.known_by}"),
        *((f"Parameter {name}", "any" if value is None else str(value)) for name, value in asked.parameters.items()),
        ("Run", f"{run.run_id}, {day(run.started_at)}, for {asked.by}"),
        ("File", f"{asked.name}.sql, SHA-256 {run.file_digest}"),
        *((f"Query {result.query}", _size(result)) for result in run.results),
    ]


def _size(result: Result) -> str:
    return f"{len(result.rows):,} rows{', cut' if result.is_cut else ''}, SHA-256 {result.digest}"


def _sheet(book: Workbook, run: ReportRun, result: Result, name: str) -> None:
    sheet = book.add_worksheet(name)
    head = book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top", "font_color": "#1f3a5f"})
    for place, column in enumerate(result.columns):
        shown = run.look.columns.get(column.name, Shown())
        title = heading(column.name, shown)
        sheet.write_string(0, place, title, head)
        number = _NUMBERS[shown.format] if shown.format and column.kind in FIGURES else _KINDS.get(column.kind, "@")
        sheet.set_column(place, place, _width(result, place, title), book.add_format({"num_format": number}))
    for y, row in enumerate(result.rows[:MAX_ROWS], start=1):
        for x, (column, cell) in enumerate(zip(result.columns, row, strict=True)):
            _write(sheet, y, x, column, cell)
    sheet.freeze_panes(1, 0)
    sheet.repeat_rows(0)
    sheet.fit_to_pages(1, 0)
    if result.rows:
        sheet.autofilter(0, 0, min(len(result.rows), MAX_ROWS), len(result.columns) - 1)


def _write(sheet: Worksheet, y: int, x: int, column: Column, cell: Any) -> None:
    if cell is None:
        return
    if isinstance(cell, bool):
        sheet.write_boolean(y, x, cell)
    elif isinstance(cell, int | float) and abs(cell) < _EXACT:
        sheet.write_number(y, x, cell)
    elif column.kind in (CellKind.DATE, CellKind.TIMESTAMP) and (at := _moment(cell)) is not None:
        sheet.write_datetime(y, x, at)
    else:
        sheet.write_string(y, x, str(cell)[:_MAX_TEXT])


def _moment(cell: str) -> date | datetime | None:
    """The day or moment, where Excel's calendar has it."""
    found = datetime.fromisoformat(cell).replace(tzinfo=None)
    return found if found.year >= 1900 else None


def _width(result: Result, place: int, title: str) -> float:
    longest = max((len(str(row[place])) for row in result.rows[:200] if row[place] is not None), default=0)
    return float(min(max(longest + 2, min(len(title), 18) + 2, 9), 60))


def _sheet_name(query: str, used: set[str]) -> str:
    """At most 31 characters, and none twice."""
    name, number = query[:31], 2
    while name.lower() in used:
        name, number = f"{query[:28]}_{number}", number + 1
    used.add(name.lower())
    return name
