"""A report and a run of one as JSON documents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trueup.domain.report import ReportRun, Result

if TYPE_CHECKING:
    from trueup.reports.reading import Report


def json_of(run: ReportRun) -> bytes:
    """The document, in UTF-8."""
    return json.dumps(document_of(run), ensure_ascii=False, indent=1).encode() + b"\n"


def document_of(run: ReportRun) -> dict[str, Any]:
    """What a run is of, and its figures, as plain JSON values."""
    asked = run.asked
    return {
        "run_id": run.run_id,
        "name": asked.name,
        "title": run.look.title,
        "audience": run.look.audience,
        "description": run.look.description,
        "parameters": dict(asked.parameters),
        "as_known_at": asked.as_known_at.isoformat(),
        "known_by": asked.known_by,
        "asked_by": asked.by,
        "due_at": None if asked.due_at is None else asked.due_at.isoformat(),
        "started_at": run.started_at.isoformat(),
        "duration_ms": run.duration_ms,
        "file_digest": run.file_digest,
        "row_counts": run.row_counts,
        "is_cut": run.is_cut,
        "error": run.error or None,
        "queries": {result.query: result_document(result) for result in run.results},
    }


def result_document(result: Result) -> dict[str, Any]:
    """One query's rows, as a list of values each, in the order of its columns."""
    return {
        "title": result.title,
        "digest": result.digest,
        "columns": [{"name": column.name, "kind": str(column.kind)} for column in result.columns],
        "rows": [list(row) for row in result.rows],
        "is_cut": result.is_cut,
    }


def report_document(report: Report) -> dict[str, Any]:
    """What a report is of, what may be asked of it, and when it runs. Who is told is not for everybody to read."""
    return {
        "name": report.name,
        "title": report.look.title,
        "audience": report.look.audience,
        "description": report.look.description,
        "parameters": [
            {
                "name": p.name,
                "type": str(p.type),
                "required": p.required,
                "default": None if p.default is None else str(p.default),
                "description": p.description,
            }
            for p in report.file.parameters
            if not p.name.startswith("row_")
        ],
        "queries": [query.name for query in report.queries],
        "schedule": report.schedule,
        "formats": [str(format_) for format_ in report.formats],
        "digest": report.file.digest,
    }
