"""GET /metrics: what Prometheus collects."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.responses import Response

from trueup.bootstrap import Services
from trueup.doors.api import documents
from trueup.doors.auth import Caller, Permission
from trueup.errors import Forbidden
from trueup.telemetry.exposition import Exposition

_bearer = HTTPBearer(auto_error=False, scheme_name="MetricsToken", description="TRUEUP_METRICS_TOKEN, or an API key")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="an API key, `tu_...`")
_TEXT = {"schema": {"type": "string"}}
_PAGE = {"description": "the metrics", "content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}}


def add_metrics(app: FastAPI, services: Services, reader: Callable[..., Awaitable[None]]) -> None:
    """The route. ``reader`` lets in whoever may read; the token of the settings does it without the database.

    A scrape has a thread of its own, so that it is answered while all others wait for the ledger.
    """
    thread = ThreadPoolExecutor(1, "trueup-scrape")
    settings = services.settings
    token = None if settings.metrics_token is None else settings.metrics_token.get_secret_value().encode()

    async def scraper(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        header: Annotated[str | None, Security(_header)],
    ) -> None:
        shown = b"" if bearer is None else bearer.credentials.encode("latin-1", "replace")
        if token is None or not hmac.compare_digest(shown, token):
            await reader(request, bearer, header)
            caller: Caller = request.state.caller
            if caller.reach(Permission.READ) is not None:  # a scrape tells of every deployment
                raise Forbidden(
                    "a caller limited to some deployments may not read all metrics",
                    next_step="use a reader of everything, or TRUEUP_METRICS_TOKEN",
                )

    guarded: list[Any] = [] if settings.metrics_open else [Depends(scraper)]

    @app.get(
        "/metrics",
        tags=["health"],
        dependencies=guarded,
        response_class=Response,
        responses={**documents.READING, 200: _PAGE},
    )
    async def metrics(request: Request) -> Response:
        """Prometheus's text format, or OpenMetrics where it is accepted."""
        telemetry = services.telemetry
        found = Exposition(telemetry.metrics, telemetry.workers, version("trueup"))
        accepted = request.headers.get("accept", "")
        page, content_type = await asyncio.get_running_loop().run_in_executor(thread, found.page, accepted)
        return Response(page, headers={"content-type": content_type})
