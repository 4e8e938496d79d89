"""Alerts and silences over HTTP.

Whoever is limited to some deployments sees and handles the alerts that are labelled with one of these, and silences
only with a matcher `deployment="..."` of one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from trueup.alerts.matching import parse_matchers
from trueup.bootstrap import Services, alert_handling, utc_now
from trueup.domain.alert import Alert, Comparison, Matcher, Silence, State
from trueup.doors.api import documents, handlers
from trueup.doors.api.edge import Work
from trueup.doors.auth import Caller, Permission
from trueup.errors import Forbidden, no_alert, no_silence

_LIST = """
    SELECT alert_id, rule, state, value, active_at, fired_at, resolved_at, acknowledged_at, acknowledged_by,
           assigned_to, labels, annotations
    FROM alerts
    WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(rule)s::text IS NULL OR rule = %(rule)s)
      AND (%(deployments)s::text[] IS NULL OR deployment = ANY (%(deployments)s))
    ORDER BY array_position(ARRAY['firing', 'pending', 'inactive'], state), active_at, alert_id LIMIT %(limit)s
"""
_SILENCES = """
    SELECT silence_id, matchers, starts_at, ends_at, created_by, comment FROM silences
    WHERE ends_at > %(now)s ORDER BY silence_id DESC LIMIT 1000
"""


class AcknowledgeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What is being done about it."""

    comment: Annotated[str, msgspec.Meta(max_length=1_000)] = ""


class AssignRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Whose it is from now on."""

    to: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class SilenceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What nobody is told of, for how long, and why."""

    matchers: Annotated[list[str], msgspec.Meta(min_length=1, max_length=20)]
    lasting_s: Annotated[float, msgspec.Meta(gt=0, le=1e9)]
    comment: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]


class _Documented(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AlertAnswer(_Documented):
    """One instance of an alert rule."""

    alert_id: str = Field(description="BLAKE2b-128 (hex) of the labels")
    rule: str
    state: str = Field(description="pending, firing, or inactive for a while after its end")
    value: float | None
    active_at: datetime
    fired_at: datetime | None
    resolved_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    assigned_to: str | None
    labels: dict[str, str]
    annotations: dict[str, str]


class AlertsAnswer(_Documented):
    """Alerts, what fires first."""

    alerts: list[AlertAnswer]


class SilenceAnswer(_Documented):
    """One silence."""

    silence_id: int
    matchers: list[str]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str


class SilencesAnswer(_Documented):
    """Silences that are or will be in force, newest first."""

    silences: list[SilenceAnswer]


_ACKNOWLEDGE = documents.request_body(
    {"type": "object", "additionalProperties": False, "properties": {"comment": {"type": "string"}}},
    {"one": {"summary": "in hand", "value": {"comment": "looking at the feed"}}},
)
_ASSIGN = documents.request_body(
    {"type": "object", "required": ["to"], "additionalProperties": False, "properties": {"to": {"type": "string"}}},
    {"one": {"summary": "to somebody", "value": {"to": "ann"}}},
)
_SILENCE = documents.request_body(
    {
        "type": "object",
        "required": ["matchers", "lasting_s", "comment"],
        "additionalProperties": False,
        "properties": {
            "matchers": {"type": "array", "items": {"type": "string", "description": 'label="value", !=, =~ or !~'}},
            "lasting_s": {"type": "number"},
            "comment": {"type": "string"},
        },
    },
    {
        "one": {
            "summary": "for two hours",
            "value": {"matchers": ['alertname="ScoreDrift"'], "lasting_s": 7200, "comment": "a known change of feed"},
        }
    },
)


def add_alerts(app: FastAPI, services: Services, work: Work, allowed: Any) -> None:
    """Adds the paths; ``allowed`` makes the dependency that lets callers with a permission in."""
    handling = alert_handling(services)
    read, handle = [allowed(Permission.READ)], [allowed(Permission.HANDLE_ALERTS)]

    @app.get("/v1/alerts", tags=["alerts"], dependencies=read, response_model=AlertsAnswer, responses=documents.ERRORS)
    async def alerts(
        request: Request,
        state: State | None = None,
        rule: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 200,
    ) -> Response:
        """Alerts that are pending, firing or resolved a short while ago, of what the caller may read."""
        caller: Caller = request.state.caller
        return await work.run(lambda: _alerts(services, caller, state, rule, limit))

    @app.post(
        "/v1/alerts/{alert_id}/acknowledge",
        tags=["alerts"],
        dependencies=handle,
        response_model=AlertAnswer,
        responses=documents.ERRORS,
        openapi_extra=_ACKNOWLEDGE,
    )
    async def acknowledge(request: Request, alert_id: str) -> Response:
        """Takes an alert in hand: it is neither repeated nor escalated. The first one to do so stays it."""
        sent = handlers.parsed(await work.body(request), AcknowledgeRequest)
        caller: Caller = request.state.caller
        return await work.run(
            lambda: _answer(
                handling.acknowledge(alert_id, by=caller.actor, comment=sent.comment, may=_may_handle(caller))
            )
        )

    @app.post(
        "/v1/alerts/{alert_id}/assign",
        tags=["alerts"],
        dependencies=handle,
        response_model=AlertAnswer,
        responses=documents.ERRORS,
        openapi_extra=_ASSIGN,
    )
    async def assign(request: Request, alert_id: str) -> Response:
        """Says whose an alert is."""
        sent = handlers.parsed(await work.body(request), AssignRequest)
        caller: Caller = request.state.caller
        return await work.run(
            lambda: _answer(handling.assign(alert_id, sent.to, by=caller.actor, may=_may_handle(caller)))
        )

    @app.get(
        "/v1/silences", tags=["alerts"], dependencies=read, response_model=SilencesAnswer, responses=documents.ERRORS
    )
    async def silences(request: Request) -> Response:
        """Silences that are or will be in force."""
        caller: Caller = request.state.caller
        return await work.run(lambda: _silences(services, caller))

    @app.post(
        "/v1/silences",
        tags=["alerts"],
        status_code=201,
        dependencies=handle,
        response_model=SilenceAnswer,
        responses=documents.ERRORS,
        openapi_extra=_SILENCE,
    )
    async def silence(request: Request) -> Response:
        """Tells nobody of alerts that all matchers match, for a while."""
        sent = handlers.parsed(await work.body(request), SilenceRequest)
        caller: Caller = request.state.caller
        matchers = parse_matchers(sent.matchers)
        if not _covers(caller, Permission.HANDLE_ALERTS, matchers):
            raise Forbidden(
                "the silence would reach further than the caller may",
                next_step='add a matcher deployment="..." of a deployment that the key or token covers',
            )
        lasting = timedelta(seconds=sent.lasting_s)
        return await work.run(
            lambda: handlers.reply(
                _silence(handling.silence(matchers, lasting=lasting, by=caller.actor, comment=sent.comment)), 201
            )
        )

    @app.delete(
        "/v1/silences/{silence_id}",
        tags=["alerts"],
        dependencies=handle,
        response_model=SilenceAnswer,
        responses=documents.ERRORS,
    )
    async def unsilence(request: Request, silence_id: int) -> Response:
        """Ends a silence now; one that is over stays as it is."""
        caller: Caller = request.state.caller
        if not 0 < silence_id < 2**63:
            raise no_silence()

        def may(found: Silence) -> None:
            if not _covers(caller, Permission.HANDLE_ALERTS, found.matchers):
                raise no_silence()

        return await work.run(
            lambda: handlers.reply(_silence(handling.unsilence(silence_id, by=caller.actor, may=may)))
        )


def _alerts(services: Services, caller: Caller, state: State | None, rule: str | None, limit: int) -> Response:
    reach = caller.reach(Permission.READ)
    wanted = {
        "state": None if state is None else str(state),
        "rule": rule,
        "deployments": None if reach is None else sorted(reach),
        "limit": limit,
    }
    return handlers.reply({"alerts": services.queries.rows(_LIST, wanted)})


def _silences(services: Services, caller: Caller) -> Response:
    found = []
    for row in services.queries.rows(_SILENCES, {"now": utc_now()}):
        matchers = tuple(Matcher(m["label"], Comparison(m["comparison"]), m["value"]) for m in row["matchers"])
        if _covers(caller, Permission.READ, matchers):
            found.append({**row, "matchers": [str(m) for m in matchers]})
    return handlers.reply({"silences": found})


def _may_handle(caller: Caller) -> Callable[[Alert], None]:
    """An alert that the caller may not read is like none."""

    def may(alert: Alert) -> None:
        name = alert.labels.get("deployment")
        if not _reaches(caller, Permission.READ, name):
            raise no_alert()
        if not _reaches(caller, Permission.HANDLE_ALERTS, name):
            raise Forbidden(
                "the caller may handle alerts, but not this one", next_step="use a key or token that covers it"
            )

    return may


def _reaches(caller: Caller, permission: Permission, deployment: str | None) -> bool:
    """An alert without a deployment is everybody's: only who may for all deployments reaches it."""
    reach = caller.reach(permission)
    return reach is None or deployment in reach


def _covers(caller: Caller, permission: Permission, matchers: tuple[Matcher, ...]) -> bool:
    """Whether the matchers keep to deployments of the caller."""
    reach = caller.reach(permission)
    return reach is None or any(
        m.label == "deployment" and m.comparison is Comparison.EQUAL and m.value in reach for m in matchers
    )


def _answer(alert: Alert) -> Response:
    return handlers.reply(
        {
            "alert_id": alert.fingerprint,
            "rule": alert.rule,
            "state": str(alert.state),
            "value": alert.value,
            "active_at": alert.active_at,
            "fired_at": alert.fired_at,
            "resolved_at": alert.resolved_at,
            "acknowledged_at": alert.acknowledged_at,
            "acknowledged_by": alert.acknowledged_by,
            "assigned_to": alert.assigned_to,
            "labels": dict(alert.labels),
            "annotations": dict(alert.annotations),
        }
    )


def _silence(one: Silence) -> dict[str, Any]:
    return {
        "silence_id": one.silence_id,
        "matchers": [str(m) for m in one.matchers],
        "starts_at": one.starts_at,
        "ends_at": one.ends_at,
        "created_by": one.created_by,
        "comment": one.comment,
    }
