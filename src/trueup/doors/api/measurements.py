"""GET /v1/deployments/{name}/measurements."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from pydantic import AwareDatetime
from starlette.responses import Response

from trueup.bootstrap import Services
from trueup.domain.measuring import Verdict
from trueup.domain.monitoring import KnownBy, MeasurementFilter, WindowKind
from trueup.doors.api import documents, handlers, schemas
from trueup.doors.api.edge import Work


def add_measurements(app: FastAPI, services: Services, work: Work, reader: Any) -> None:
    """The route. ``reader`` lets in whoever may read the deployment that the path names."""

    @app.get(
        "/v1/deployments/{name}/measurements",
        tags=["monitoring"],
        dependencies=[reader],
        response_model=schemas.MeasurementsAnswer,
        responses=documents.ERRORS,
    )
    async def measurements(where: Annotated[MeasurementFilter, Depends(_filter)]) -> Response:
        """Measurements that fulfil all conditions, latest windows first, as they are or were known."""
        return await work.run(lambda: handlers.reply({"measurements": services.measuring.listed(where)}))


def _filter(
    name: str,
    metric: Annotated[str | None, Query(max_length=100)] = None,
    field: Annotated[str | None, Query(max_length=200, description="a feature, or `score`")] = None,
    slice: Annotated[str | None, Query(max_length=500, description="FIELD=VALUE; empty: all rows")] = None,
    role: Annotated[str | None, Query(max_length=20)] = None,
    verdict: Verdict | None = None,
    window_kind: WindowKind | None = None,
    first: Annotated[date | None, Query(description="windows that begin on this day or later")] = None,
    last: Annotated[date | None, Query(description="windows that end on this day or earlier")] = None,
    at: Annotated[AwareDatetime | None, Query(description="as known at this instant; now unless given")] = None,
    known_by: KnownBy = KnownBy.RECORDED,
    history: Annotated[bool, Query(description="all that was ever known, not the latest of each figure alone")] = False,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
) -> MeasurementFilter:
    moment: datetime | None = at
    return MeasurementFilter(
        *(name, metric, field, slice, role, verdict, window_kind, first, last, moment, known_by, history, limit)
    )
