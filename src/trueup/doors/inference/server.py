"""A bare ASGI callable in front of the FastAPI application: same process, same port.

Takes the paths of the inference protocols and hands every other one on. It knows no server:
whatever speaks ASGI can run it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from trueup.bootstrap import Services
from trueup.doors.auth import Authenticator, Caller, Permission
from trueup.doors.inference import errors
from trueup.doors.inference.asking import Inference
from trueup.doors.inference.gather import Gather
from trueup.doors.inference.mlflow import keys
from trueup.doors.inference.mlflow.errors import MLFLOW
from trueup.doors.inference.mlflow.rest import Invocations, InvocationsCall
from trueup.doors.inference.oip import tensors
from trueup.doors.inference.oip.rest import EXTENSIONS, Call, RestInference
from trueup.doors.inference.records import RecordsCall, RecordsInference
from trueup.doors.inference.wire import ClientGone, Reply, headers_of, packed, read_body, send_reply, unpacked
from trueup.doors.readiness import Readiness
from trueup.errors import InvalidInput, NotFound, Overloaded, TrueupError, Unauthenticated
from trueup.telemetry import log

_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?/?\Z")
_REPOSITORY = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)\Z")
_RECORDS = re.compile(r"/v1/deployments/([^/]+)/score\Z")
_PLAIN = (b"", b"identity")
_Handler = Callable[["Request"], Awaitable[Reply]]


@dataclass(slots=True)
class Request:
    """One HTTP request as far as it is read."""

    headers: dict[bytes, bytes]
    receive: Receive
    peer: str | None = None
    query: bytes = b""
    model: str = ""
    version: str | None = None
    action: str = ""
    held: int = 0  # bytes of its body in memory
    shape: errors.Shape = errors.OPEN_INFERENCE  # of its errors


class Front:
    """The inference paths; what they do not cover goes to ``behind``."""

    def __init__(self, behind: ASGIApp, services: Services, keys: Authenticator, draining: Callable[[], bool]) -> None:
        self._behind = behind
        self._services = services
        self._keys = keys
        self._readiness = Readiness(services, draining)
        self._limits = services.settings.limits
        self._in_flight = 0
        self._held = 0
        self._inference: Inference | None = None
        self._rest: RestInference | None = None
        self._records: RecordsInference | None = None
        self._invocations: Invocations | None = None
        self._plain: dict[str, _Handler] = {
            "/v2": self._server,
            "/v2/": self._server,
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            "/v2/models": self._models,
        }
        self._mlflow: dict[str, tuple[_Handler, tuple[str, ...]]] = {
            "/invocations": (self._invoke, ("POST",)),
            "/ping": (self._ping, ("GET", "HEAD")),
            "/health": (self._ping, ("GET", "HEAD")),
            "/version": (self._release, ("GET", "HEAD")),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._behind(scope, receive, send)
            return
        path: str = scope["path"]
        headers = headers_of(scope)
        request = Request(headers, receive, scope["client"][0] if scope.get("client") else None, scope["query_string"])
        if not self._takes(scope["method"], path, request):
            await self._behind(scope, receive, send)
            return
        try:
            with self._services.telemetry.request(_door(path, request), headers) as observed:
                reply = await self._reply(scope["method"], path, request)
                observed.answered(reply.status, reply.outcome)
                reply.headers += observed.headers()
        except ClientGone:
            return
        if b"accept-encoding" in headers:
            packed(reply, headers[b"accept-encoding"])
        await send_reply(send, reply, head=scope["method"] == "HEAD")

    async def drain(self) -> None:
        """Waits until every accepted request is answered and booked."""
        while self._in_flight:
            await asyncio.sleep(0.005)
        if self._inference is not None:
            await self._inference.gather.drain()

    @property
    def inference(self) -> Inference:
        """The handlers, with a gatherer of the running event loop."""
        if self._inference is None:
            self._inference = Inference(
                self._services, Gather(self._services.scoring, self._limits, self._services.telemetry)
            )
            self._rest = RestInference(self._inference)
            self._records = RecordsInference(self._inference)
            self._invocations = Invocations(self._inference, self._services)
        return self._inference

    def _takes(self, method: str, path: str, request: Request) -> bool:
        """Whether a path is one of ours, and whose protocol it speaks."""
        if path.startswith("/v2"):
            return True
        if path in self._mlflow:
            request.shape = MLFLOW
            return True
        found = _RECORDS.match(path) if method == "POST" else None
        if found is None:
            return False
        request.model, request.shape = found[1], errors.RECORDS
        return True

    async def _reply(self, method: str, path: str, request: Request) -> Reply:
        try:
            handler, verbs = self._route(path, request)
            if method not in verbs:
                raise errors.NotAllowed("the method is not allowed here", allow=", ".join(verbs))
            return await handler(request)
        except TrueupError as error:
            errors.let_go(error)
            return request.shape.answer(error)
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception as error:  # its text may hold a caller's values
            log("inference").error("request_failed", kind=type(error).__name__)
            errors.let_go(error)
            return request.shape.unexpected()

    def _route(self, path: str, request: Request) -> tuple[_Handler, tuple[str, ...]]:
        if request.shape is errors.RECORDS:
            return self._score_records, ("POST",)
        if request.shape is MLFLOW:
            return self._mlflow[path]
        if path in self._plain:
            return self._plain[path], ("GET", "HEAD")
        if path == "/v2/repository/index":
            return self._index, ("POST",)
        found = _MODEL.match(path)
        if found is not None:
            request.model, request.version = found[1], found[2]
            if found[3] == "/infer":
                return self._infer, ("POST",)
            return (self._model_ready if found[3] else self._model), ("GET", "HEAD")
        found = _REPOSITORY.match(path)
        if found is not None:
            request.model, request.action = found[1], found[2]
            return self._load, ("POST",)
        raise NotFound("no such path")

    @contextmanager
    def _admitted(self, request: Request) -> Iterator[None]:
        """Counts a request for as long as the block lasts. Raises Overloaded."""
        if self._in_flight >= self._limits.inferences_in_flight:
            raise Overloaded("too many requests are in flight", next_step="try again after a moment")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._held -= request.held

    async def _score_records(self, request: Request) -> Reply:
        with self._admitted(request):
            caller = await self._allow(request, Permission.SCORE, request.model)
            body = await self._body(request)
            call = RecordsCall(request.model, _key(request), partial(self._keys.spend, caller))
            records = self._records or RecordsInference(self.inference)
            return await records.score(call, body)

    async def _invoke(self, request: Request) -> Reply:
        with self._admitted(request):
            caller = await self._allow(request, Permission.SCORE)
            invocations = self._invocations or Invocations(self.inference, self._services)
            name = await invocations.deployment(request.headers, request.query, caller)
            caller.require(Permission.SCORE, name)
            body = await self._body(request)
            kind = request.headers.get(b"content-type", b"").decode("latin-1")
            call = InvocationsCall(name, kind, _key(request), partial(self._keys.spend, caller))
            return await invocations.score(call, body)

    async def _ping(self, request: Request) -> Reply:
        reply = await self._ready(request)
        return Reply(reply.status, b"\n" if reply.status == 200 else b"", outcome=reply.outcome)

    async def _release(self, _: Request) -> Reply:
        return Reply(200, _version().encode(), [(b"content-type", b"text/plain; charset=utf-8")])

    async def _infer(self, request: Request) -> Reply:
        with self._admitted(request):
            caller = await self._allow(request, Permission.SCORE, request.model)
            body = await self._body(request)
            length = request.headers.get(b"inference-header-content-length")
            if length is not None and not (length.isdigit() and len(length) < 12):
                raise InvalidInput("Inference-Header-Content-Length is a number of bytes")
            call = Call(
                request.model,
                request.version,
                None if length is None else int(length),
                _key(request),
                partial(self._keys.spend, caller),
            )
            rest = self._rest or RestInference(self.inference)
            return await rest.infer(call, body)

    async def _body(self, request: Request) -> bytes:
        most = self._limits.body_bytes
        body = await read_body(request.receive, request.headers, most, partial(self._hold, request))
        encoding = request.headers.get(b"content-encoding", b"").lower()
        if not body or encoding in _PLAIN:
            return body
        body = unpacked(body, encoding, most)
        self._hold(request, len(body))
        return body

    def _hold(self, request: Request, size: int) -> None:
        """Counts bytes in memory until the request is answered. Raises Overloaded."""
        request.held += size
        self._held += size
        if self._held > self._limits.bodies_bytes:
            raise Overloaded("too many large bodies at once", next_step="try again after a moment")

    async def _allow(self, request: Request, permission: Permission, deployment: str | None = None) -> Caller:
        """Who is calling. Raises Unauthenticated, Forbidden, RateLimited."""
        authorization = request.headers.get(b"authorization", b"")
        text = authorization[7:] if authorization[:7].lower() == b"bearer " else request.headers.get(b"x-api-key", b"")
        if not text and request.shape is MLFLOW:
            text = keys.password(request.headers)
        if not text:
            raise Unauthenticated("an API key is needed", next_step="send `Authorization: Bearer tu_...`")
        shown = text.decode("latin-1").strip()
        caller = self._keys.known(shown)
        if caller is None:
            caller = await _in_thread(partial(self._keys.authenticate, shown, request.peer))
        caller.require(permission, deployment)
        return caller

    async def _live(self, _: Request) -> Reply:
        return _json({"live": True})

    async def _ready(self, _: Request) -> Reply:
        ready = await self._readiness.ready()
        return _json({"live": True, "ready": ready}, 200 if ready else 503)

    async def _server(self, _: Request) -> Reply:
        return _json({"name": tensors.SERVER, "version": _version(), "extensions": EXTENSIONS})

    async def _models(self, request: Request) -> Reply:
        caller = await self._allow(request, Permission.READ)
        found = await _in_thread(self._services.registry.deployments)
        return _json({"models": [d.name for d in found if caller.may(Permission.READ, d.name)]})

    async def _model(self, request: Request) -> Reply:
        await self._allow(request, Permission.READ, request.model)
        return _json(tensors.metadata(await self.inference.resolved(request.model, request.version)))

    async def _model_ready(self, request: Request) -> Reply:
        await self._allow(request, Permission.READ, request.model)
        found = await self.inference.resolved(request.model, request.version)
        ready = found.champion.scorer is not None or found.deployment.serving.fallback is not None
        return _json({"name": request.model, "ready": ready}, 200 if ready else 503)

    async def _index(self, request: Request) -> Reply:
        caller = await self._allow(request, Permission.READ)
        with self._admitted(request):
            body = await self._body(request)
        only_ready = False
        if body.strip():
            try:
                only_ready = msgspec.json.decode(body, type=dict[str, bool]).get("ready", False)
            except (msgspec.MsgspecError, UnicodeError):
                raise InvalidInput("the body is a JSON object with `ready`, or empty") from None
        reads = partial(caller.may, Permission.READ)
        return _json(await _in_thread(lambda: self.inference.index(only_ready=only_ready, shown=reads)))

    async def _load(self, request: Request) -> Reply:
        await self._allow(request, Permission.DEPLOY, request.model)
        with self._admitted(request):
            await self._body(request)
        await _in_thread(lambda: self.inference.reload(request.model, load=request.action == "load"))
        return _json({})


def _door(path: str, request: Request) -> str:
    if request.shape is errors.RECORDS:
        return "records"
    if path.endswith("/infer"):
        return "rest"
    if request.shape is MLFLOW:
        return "invocations" if path == "/invocations" else "health"
    return "health" if path.startswith("/v2/health/") else "api"


def _key(request: Request) -> str | None:
    key = request.headers.get(b"idempotency-key")
    return None if key is None else key.decode("latin-1")


async def _in_thread(call: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call)


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(value))


def _version() -> str:
    from importlib.metadata import version

    return version("trueup")
