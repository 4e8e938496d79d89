"""The HTTP door: the application, and starting, draining and stopping its server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from uuid import UUID

from fastapi import Depends, FastAPI, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from trueup.bootstrap import Services
from trueup.domain.batch import Status
from trueup.doors.api import documents, handlers, schemas, truth
from trueup.doors.api.admin import AdminApart
from trueup.doors.api.edge import Edge, Work
from trueup.doors.api.errors import answer, shaped, status_of
from trueup.doors.api.measurements import add_measurements
from trueup.doors.api.scraping import add_metrics
from trueup.doors.api.workers import add_workers
from trueup.doors.auth import Authenticator, Caller, Gate, Permission, PostgresApiKeys, open_gate
from trueup.doors.collector import calm_collector
from trueup.doors.inference.server import Front
from trueup.doors.listening import address_of, listening
from trueup.doors.readiness import Readiness
from trueup.doors.serving import Beside, Server, configured
from trueup.doors.tls import grpc_credentials
from trueup.doors.workers.reports import Reports, reporting
from trueup.errors import MissingExtra, TrueupError, Unauthenticated, Unavailable
from trueup.ports import PredictionFilter
from trueup.postgres import Pool
from trueup.settings import Settings
from trueup.telemetry.requests import current

if TYPE_CHECKING:
    from trueup.doors.inference.grpc.server import GrpcServer

__all__ = ["Server", "calm_collector", "configured", "create_app", "serve"]

_bearer = HTTPBearer(auto_error=False, description="an API key, `tu_...`, or a token of the OpenID Connect issuer")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="an API key, `tu_...`")


def create_app(services: Services, keys: Authenticator | None = None, reports: Path | None = None) -> FastAPI:
    """The application over open services. ``app.state.draining`` True makes it not ready."""
    app = FastAPIOffline(  # the documentation's viewer comes from here, not from somebody's network
        title="trueup",
        description="Every prediction is booked before it is answered, and trued up with the real outcome.",
        version="1",
        redoc_url=None,
        static_url="/docs/viewer",
        generate_unique_id_function=lambda route: route.name,  # what generated clients call the operation
    )
    work = Work(services.settings.limits)
    app.state.draining = False
    app.state.work = work
    app.state.reports = Reports(reporting(services, lambda: bool(app.state.draining)), reports)
    known = keys or Gate(PostgresApiKeys(Pool(services.urls.owner, size=2, application="trueup-keys")))
    _add_health(app, services, work)
    _add_scoring(app, services, work, _guard(known, work))
    _add_reading(app, services, work, _guard(known, work))
    add_measurements(app, services, work, _guard(known, work)(Permission.READ, of_deployment=True))
    add_workers(app, work, app.state.reports, _guard(known, work)(Permission.READ))
    add_metrics(app, services, _guard(known, work)(Permission.READ).dependency)
    _add_error_handlers(app)
    app.add_middleware(Edge, work=work, telemetry=services.telemetry)
    return app


class Guard(Protocol):
    """Makes the dependency that lets a caller with the permission in, into ``request.state.caller``."""

    def __call__(self, permission: Permission, *, of_deployment: bool = False) -> Any:
        """``of_deployment``: for the deployment that the path names."""
        ...


def _guard(keys: Authenticator, work: Work) -> Guard:
    def allowed(permission: Permission, *, of_deployment: bool = False) -> Any:
        async def caller(
            request: Request,
            bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
            header: Annotated[str | None, Security(_header)],
        ) -> None:
            text = bearer.credentials if bearer is not None else header
            if not text:
                raise Unauthenticated(
                    "an API key is needed", next_step="send `Authorization: Bearer tu_...` or `X-API-Key: tu_...`"
                )
            peer = request.client.host if request.client is not None else None
            found = keys.known(text)
            if found is None:
                found = await work.run(partial(keys.authenticate, text, peer))
            found.require(permission, request.path_params["name"] if of_deployment else None)
            request.state.caller = found

        return Depends(caller)

    return allowed


def _add_health(app: FastAPI, services: Services, work: Work) -> None:
    readiness = Readiness(services, lambda: bool(app.state.draining))

    @app.get("/health/live", tags=["health"], response_model=schemas.Health)
    async def live() -> Response:
        """The process answers."""
        return handlers.reply({"status": "live"})

    @app.get(
        "/health/ready", tags=["health"], response_model=schemas.Health, responses={503: {"model": schemas.Health}}
    )
    async def ready() -> Response:
        """Everything a prediction depends on answers, and the server is not stopping."""
        if app.state.draining:
            return handlers.reply({"status": "draining"}, 503)
        checks = await readiness.checks()
        good = services.is_ready(checks)
        found = {"status": "ready" if good else "not ready", "checks": checks}
        return handlers.reply({**found, "deployments": services.scoring.models.counts()}, 200 if good else 503)


def _add_scoring(app: FastAPI, services: Services, work: Work, allowed: Guard) -> None:
    @app.post(
        "/v1/deployments/{name}/score",
        tags=["scoring"],
        dependencies=[allowed(Permission.SCORE, of_deployment=True)],
        response_model=schemas.Answer | schemas.BatchAnswer,
        responses=documents.ERRORS,
        openapi_extra=documents.request_body(documents.SCORE_SCHEMA, documents.SCORE_EXAMPLES),
    )
    async def score(name: str) -> Response:
        """Scores one instance or a batch; the answer comes after the ledger has committed it.

        With an idempotency key a retry gets the first answer; the same key with other content is
        a conflict. In a batch each row is answered or refused on its own.
        """
        # Here for the document alone: the inference front, which gathers batches, takes these requests.
        raise Unavailable("scoring is answered by the inference front")

    @app.post(
        "/v1/outcomes",
        tags=["outcomes"],
        dependencies=[allowed(Permission.RECORD_OUTCOMES)],
        response_model=schemas.OutcomesAnswer,
        responses=documents.ERRORS,
        openapi_extra=documents.request_body(documents.OUTCOMES_SCHEMA, documents.OUTCOMES_EXAMPLES),
    )
    async def record_outcomes(request: Request) -> Response:
        """Records real outcomes, all or none unless `all_or_none` is false. What was said before changes nothing."""
        body = await work.body(request)
        caller: Caller = request.state.caller
        return await work.run(lambda: truth.record_outcomes(services, body, caller))

    @app.post(
        "/v1/actions",
        tags=["actions"],
        dependencies=[allowed(Permission.RECORD_OUTCOMES)],
        response_model=schemas.ActionsAnswer,
        responses=documents.ERRORS,
        openapi_extra=documents.request_body(documents.ACTIONS_SCHEMA, documents.ACTIONS_EXAMPLES),
    )
    async def record_actions(request: Request) -> Response:
        """Records what was done about items of a deployment, all or none. The same key again changes nothing."""
        body = await work.body(request)
        caller: Caller = request.state.caller
        return await work.run(lambda: truth.record_actions(services, body, caller))

    @app.post(
        "/v1/deployments",
        tags=["deployments"],
        status_code=201,
        dependencies=[allowed(Permission.DEPLOY)],
        response_model=schemas.DeploymentAnswer,
        responses=documents.ERRORS,
        openapi_extra=documents.request_body(documents.DEPLOY_SCHEMA, documents.DEPLOY_EXAMPLES),
    )
    async def deploy(request: Request) -> Response:
        """Makes a version of a model answer under a name. Its files must lie in the server's store."""
        body = await work.body(request)
        caller: Caller = request.state.caller
        return await work.run(lambda: handlers.deploy(services, body, caller))


def _add_reading(app: FastAPI, services: Services, work: Work, allowed: Guard) -> None:
    read = [allowed(Permission.READ)]

    @app.get(
        "/v1/deployments",
        tags=["deployments"],
        dependencies=read,
        response_model=schemas.DeploymentsAnswer,
        responses=documents.ERRORS,
    )
    async def deployments(request: Request) -> Response:
        """The newest revision of every deployment that the caller may read."""
        caller: Caller = request.state.caller
        return await work.run(lambda: handlers.deployments(services, caller))

    @app.get(
        "/v1/deployments/{name}",
        tags=["deployments"],
        dependencies=[allowed(Permission.READ, of_deployment=True)],
        response_model=schemas.DeploymentState,
        responses=documents.ERRORS,
    )
    async def deployment(name: str) -> Response:
        """The newest revision of one deployment."""
        return await work.run(lambda: handlers.deployment(services, name))

    @app.get(
        "/v1/contracts/{name}",
        tags=["contracts"],
        dependencies=read,
        response_model=schemas.ContractAnswer,
        responses=documents.ERRORS,
    )
    async def contract(request: Request, name: str, version: Annotated[int | None, Query(ge=1)] = None) -> Response:
        """A contract, its newest version unless one is named."""
        caller: Caller = request.state.caller
        return await work.run(lambda: handlers.contract(services, name, version, caller))

    @app.get(
        "/v1/predictions",
        tags=["predictions"],
        dependencies=read,
        response_model=schemas.PredictionsAnswer,
        responses=documents.ERRORS,
    )
    async def predictions(request: Request, where: Annotated[PredictionFilter, Depends(_filter)]) -> Response:
        """Predictions that fulfil all conditions, newest events first."""
        caller: Caller = request.state.caller
        return await work.run(lambda: handlers.predictions(services, where, caller))

    @app.get(
        "/v1/predictions/{prediction_id}",
        tags=["predictions"],
        dependencies=read,
        response_model=schemas.PredictionAnswer,
        responses=documents.ERRORS,
    )
    async def prediction(request: Request, prediction_id: UUID) -> Response:
        """One prediction with its fields, reasons and outcome."""
        caller: Caller = request.state.caller
        return await work.run(lambda: handlers.prediction(services, prediction_id, caller))


def _filter(
    deployment: Annotated[str | None, Query(max_length=100)] = None,
    business_key: Annotated[str | None, Query(max_length=200)] = None,
    event_from: Annotated[date | None, Query(description="first event day")] = None,
    event_until: Annotated[date | None, Query(description="last event day")] = None,
    status: Status | None = None,
    decision: Annotated[str | None, Query(max_length=100)] = None,
    min_score: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 50,
) -> PredictionFilter:
    return PredictionFilter(deployment, business_key, event_from, event_until, status, decision, min_score, limit)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(TrueupError)
    async def ours(_: Request, error: TrueupError) -> Response:
        current().answered(*status_of(error))
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # pydantic's own document repeats what was sent; only place, code and rule leave the server.
        fields = [
            {"row": 0, "field": ".".join(str(part) for part in e["loc"][1:2]), "code": e["type"], "expected": e["msg"]}
            for e in error.errors()
        ]
        return shaped(422, "invalid_request", "a parameter is wrong", "mend the named fields", fields=fields)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        headers = dict(error.headers) if error.headers else None
        return shaped(error.status_code, code, str(error.detail), "/docs lists what there is", headers=headers)


def serve(
    services: Services,
    *,
    host: str,
    port: int,
    drain_s: float = 2.0,
    started: Callable[[list[str]], None],
    shared: bool = False,
    reports: Path | None = None,
) -> bool:
    """Serves until a signal says stop; ``started`` gets the addresses once it listens on all.

    ``shared``: other workers listen on the same port, and ``reports`` is where each tells how it is.
    Whether everything that was accepted was answered.
    """
    settings = services.settings
    with open_gate(services) as gate, ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(listening(host, port, shared=shared))]
        app = create_app(services, gate, reports)
        calm_collector()
        services.open_spool()
        services.telemetry.start(settings.data_dir / "run")
        front = Front(app, services, gate, lambda: bool(app.state.draining))
        served: ASGIApp = front
        if settings.admin_port is not None:
            sockets.append(
                open_sockets.enter_context(listening(settings.admin_host, settings.admin_port, shared=shared))
            )
            served = AdminApart(front, sockets[1].getsockname()[1])
        grpc = _grpc_server(services, gate, lambda: bool(app.state.draining), host, shared=shared)
        beside = None if grpc is None else Beside(lambda: grpc.start(front.inference), grpc.stop)
        server = _Announcing(configured(served, settings), app.state, front.drain, drain_s, beside)
        server.announce = lambda: started(_addresses(sockets[0], settings, grpc))
        services.scoring.models.start(settings.ready_within_s)
        app.state.reports.start()
        try:
            server.run(sockets)
        finally:
            app.state.reports.stop()
        return server.clean


def _addresses(http: socket.socket, settings: Settings, grpc: GrpcServer | None) -> list[str]:
    found = [address_of("http" if settings.tls.certificate is None else "https", http)]
    return found if grpc is None else [*found, f"grpc://{grpc.address}"]


def _grpc_server(
    services: Services, gate: Authenticator, draining: Callable[[], bool], host: str, *, shared: bool
) -> GrpcServer | None:
    """The gRPC door where its port is set. Raises MissingExtra."""
    settings = services.settings
    if settings.grpc_port is None:
        return None
    try:
        from trueup.doors.inference.grpc.server import GrpcServer
    except ImportError:
        raise MissingExtra("grpc", "the gRPC door") from None
    credentials = None if settings.tls.certificate is None else grpc_credentials(settings.tls)
    port = settings.grpc_port
    return GrpcServer(services, gate, draining, host=host, port=port, credentials=credentials, share_port=shared)


class _Announcing(Server):
    announce: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says that it listens."""
        await super().startup(sockets)
        self.announce()
