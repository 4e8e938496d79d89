"""`GET /v1/server`: the processes behind this port, and which models each holds."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from trueup.doors.api import documents, handlers, schemas
from trueup.doors.api.edge import Work
from trueup.doors.auth import Caller, Permission
from trueup.doors.workers.reports import Reports


def add_workers(app: FastAPI, work: Work, reports: Reports, allowed: Any) -> None:
    """Adds the path; ``allowed`` is the dependency that lets readers in."""

    @app.get(
        "/v1/server",
        tags=["health"],
        dependencies=[allowed],
        response_model=schemas.ServerAnswer,
        responses=documents.READING,
    )
    async def server(request: Request) -> Response:
        """Every worker with its memory and models; a model's memory is by how much the process grew to load it."""
        caller: Caller = request.state.caller
        found = await work.run(reports.all)
        for worker in found:
            worker["models"] = [m for m in worker["models"] if caller.may(Permission.READ, m["deployment"])]
        return handlers.reply({"workers": found})
