"""A run as CSV: one query is a file, several are a zip of files.

Texts that a spreadsheet would take for a formula begin with an apostrophe; JSON has them as they are.
"""

from __future__ import annotations

import csv
import io
import zipfile
from typing import Any

from trueup.domain.report import ReportRun, Result

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can hold


def csv_of(run: ReportRun) -> bytes:
    """UTF-8 with a header, lines end with CR LF (RFC 4180)."""
    if len(run.results) == 1:
        return _lines(run.results[0])
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as files:
        for result in run.results:
            files.writestr(zipfile.ZipInfo(f"{result.query}.csv", _EARLIEST), _lines(result), zipfile.ZIP_DEFLATED)
    return held.getvalue()


def _lines(result: Result) -> bytes:
    held = io.StringIO(newline="")
    writer = csv.writer(held)
    writer.writerow([_cell(column.name) for column in result.columns])
    writer.writerows([_cell(cell) for cell in row] for row in result.rows)
    return held.getvalue().encode()


def _cell(cell: Any) -> Any:
    if isinstance(cell, bool):
        return str(cell).lower()
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
