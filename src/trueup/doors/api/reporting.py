"""`/v1/reports` and `/v1/report-runs`: reports over HTTP.

A report's SQL may read every deployment, so that whoever is limited to some may neither run one nor read a run.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from fastapi import Depends, FastAPI, Path, Query, Request
from starlette.responses import Response

from trueup.bootstrap import Services
from trueup.domain.report import ReportFormat
from trueup.doors.api import documents, handlers, schemas
from trueup.doors.api.edge import Work
from trueup.doors.auth import Caller, Permission
from trueup.errors import Forbidden, InvalidQuery
from trueup.reports.formats import rendered
from trueup.reports.formats.document import document_of, report_document, result_document

if TYPE_CHECKING:
    pass

_FILE = {"schema": {"type": "string", "format": "binary"}}
_KINDS = (
    *("text/html", "text/csv", "application/zip", "application/pdf"),
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
)
_FILES: dict[int | str, dict[str, Any]] = {
    **documents.ERRORS,
    200: {
        "description": "the run in the format that the path ends with",
        "content": {
            "application/json": {"schema": {"type": "object", "additionalProperties": True}},
            **dict.fromkeys(_KINDS, _FILE),
        },
    },
}
_RUN_SCHEMA: dict[str, Any] = {
    "title": "RunReport",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "parameters": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
        "as_known_at": {"type": "string", "format": "date-time", "description": "know what was known at this moment"},
        "as_known_on": {
            "type": "string",
            "format": "date",
            "description": "know what was known by the end of this day",
        },
        "known_by": {"type": "string", "enum": ["recorded", "observed"], "default": "recorded"},
    },
}
_RUN_EXAMPLES = {
    "daily": {"summary": "as known on a day", "value": {"parameters": {"k": 100}, "as_known_on": "2026-11-20"}}
}


class RunRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a run is asked for."""

    parameters: dict[str, str | int | float | bool | None] = {}
    as_known_at: schemas.Moment | None = None
    as_known_on: date | None = None
    known_by: Literal["recorded", "observed"] = "recorded"

    def moment(self) -> datetime | None:
        """The moment whose knowledge counts; None: now. Raises InvalidQuery."""
        from trueup.reports.running import end_of  # with what reads SQL; a server may never be asked for a report

        if self.as_known_at is not None and self.as_known_on is not None:
            raise InvalidQuery("as_known_at or as_known_on, not both")
        return self.as_known_at if self.as_known_on is None else end_of(self.as_known_on)


def add_reports(app: FastAPI, services: Services, work: Work, allowed: Any) -> None:
    """Adds the paths; ``allowed`` makes the dependency that lets callers in by permission."""
    _add_reports(app, services, work, allowed)
    _add_runs(app, services, work, [allowed(Permission.READ), Depends(_reads_everything)])


def _add_reports(app: FastAPI, services: Services, work: Work, allowed: Any) -> None:
    @app.get(
        "/v1/reports",
        tags=["reports"],
        dependencies=[allowed(Permission.READ), Depends(_reads_everything)],
        response_model=schemas.ReportsAnswer,
        responses=documents.READING,
    )
    async def reports() -> Response:
        """The reports there are, with their parameters and schedules."""
        found = await work.run(services.reports.all)
        return handlers.reply({"reports": [report_document(report) for report in found.values()]})

    @app.post(
        "/v1/reports/{report}/runs",
        tags=["reports"],
        status_code=201,
        dependencies=[allowed(Permission.RUN_REPORTS), Depends(_reads_everything)],
        response_model=schemas.ReportRunAnswer,
        responses=documents.ERRORS,
        openapi_extra=documents.request_body(_RUN_SCHEMA, _RUN_EXAMPLES),
    )
    async def run_report(request: Request, report: Annotated[str, Path(max_length=100)]) -> Response:
        """Runs a report and keeps the run; its figures are at `/v1/report-runs/{run_id}`."""
        asked = handlers.parsed(await work.body(request), RunRequest)
        caller: Caller = request.state.caller
        made = await work.run(
            lambda: services.reports.run(
                report, asked.parameters, by=caller.actor, as_known_at=asked.moment(), known_by=asked.known_by
            )
        )
        return handlers.reply({k: v for k, v in document_of(made).items() if k != "queries"}, 201)


def _add_runs(app: FastAPI, services: Services, work: Work, read: list[Any]) -> None:
    @app.get(
        "/v1/report-runs",
        tags=["reports"],
        dependencies=read,
        response_model=schemas.ReportRunsAnswer,
        responses=documents.ERRORS,
    )
    async def report_runs(
        name: Annotated[str | None, Query(max_length=100)] = None, limit: Annotated[int, Query(ge=1, le=1_000)] = 50
    ) -> Response:
        """Runs, the latest first, without their figures."""
        return handlers.reply({"runs": await work.run(lambda: services.reports.runs(name, limit))})

    @app.get(
        "/v1/report-runs/{run_id}.{kind}",
        tags=["reports"],
        dependencies=read,
        response_class=Response,
        responses=_FILES,
    )
    async def report_run_file(run_id: int, kind: ReportFormat) -> Response:
        """A past run exactly as it was, as html, csv (a zip of several), xlsx, pdf or json."""
        made = await work.run(
            lambda: rendered(services.reports.show(run_id), kind, services.settings.reports.public_url)
        )
        shown = "inline" if kind in (ReportFormat.HTML, ReportFormat.PDF, ReportFormat.JSON) else "attachment"
        headers = {"content-disposition": f'{shown}; filename="{made.name}"'}
        if kind is ReportFormat.HTML:
            from trueup.reports.formats.html import policy

            headers["content-security-policy"] = policy()
        return Response(made.content, media_type=made.media_type, headers=headers)

    @app.get(
        "/v1/report-runs/{run_id}",
        tags=["reports"],
        dependencies=read,
        response_model=schemas.ReportRunAnswer,
        responses=documents.ERRORS,
    )
    async def report_run(run_id: int) -> Response:
        """A past run with its figures."""
        return handlers.reply(document_of(await work.run(lambda: services.reports.show(run_id))))

    @app.get(
        "/v1/report-runs/{run_id}/rows/{query}/{row}",
        tags=["reports"],
        dependencies=read,
        response_model=schemas.ReportRowsAnswer,
        responses=documents.ERRORS,
    )
    async def report_rows(
        run_id: int, query: Annotated[str, Path(max_length=100)], row: Annotated[int, Path(ge=1)]
    ) -> Response:
        """The ledger rows behind one row of a run's figures."""
        return handlers.reply(result_document(await work.run(lambda: services.reports.rows(run_id, query, row))))


async def _reads_everything(request: Request) -> None:
    caller: Caller = request.state.caller
    if caller.reach(Permission.READ) is not None:
        raise Forbidden(
            "a caller limited to some deployments may not use reports, which read all",
            next_step="use a key that covers every deployment",
        )
