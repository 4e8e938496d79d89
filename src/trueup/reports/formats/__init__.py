"""What a run is made into: a page, a document, a workbook, files of values. The same run is always the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trueup.domain.report import ReportFormat, ReportRun
from trueup.reports.formats.delimited import csv_of
from trueup.reports.formats.document import json_of
from trueup.reports.formats.xlsx import xlsx_of

__all__ = ["Rendered", "rendered"]

_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A file: its content, what it is, and a name for it."""

    content: bytes
    media_type: str
    name: str


def rendered(run: ReportRun, format_: ReportFormat, public_url: str = "") -> Rendered:
    """The run in a format; ``public_url`` begins the links to rows. Raises MissingExtra."""
    make, media_type, ending = _MAKERS[format_]
    if format_ is ReportFormat.CSV and len(run.results) != 1:
        media_type, ending = "application/zip", "csv.zip"
    name = f"{run.asked.name}-{run.asked.as_known_at:%Y-%m-%d}-{run.run_id}.{ending}"
    return Rendered(make(run, public_url.rstrip("/")), media_type, name)


def _html(run: ReportRun, public_url: str) -> bytes:
    from trueup.reports.formats.html import html_of

    return html_of(run, public_url)


def _pdf(run: ReportRun, public_url: str) -> bytes:
    from trueup.reports.formats.pdf import pdf_of

    return pdf_of(run, public_url)


_MAKERS: dict[ReportFormat, tuple[Callable[[ReportRun, str], bytes], str, str]] = {
    ReportFormat.HTML: (_html, "text/html; charset=utf-8", "html"),
    ReportFormat.PDF: (_pdf, "application/pdf", "pdf"),
    ReportFormat.XLSX: (lambda run, _: xlsx_of(run), _XLSX, "xlsx"),
    ReportFormat.CSV: (lambda run, _: csv_of(run), "text/csv; charset=utf-8", "csv"),
    ReportFormat.JSON: (lambda run, _: json_of(run), "application/json", "json"),
}
