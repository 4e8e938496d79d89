"""A bare ASGI callable in front of the FastAPI application: same process, same port.

Takes the paths of the inference protocols and hands every other one on. It knows no server:
whatever speaks ASGI can run it. A server that offers a whole request by ``at_once`` saves it a task.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from trueup.bootstrap import Services
from trueup.doors.auth import Authenticator, Caller, Permission
from trueup.doors.inference import errors, records
from trueup.doors.inference.asking import Arrival, Asked, Inference
from trueup.doors.inference.exchange import Exchange
from trueup.doors.inference.gather import Gather
from trueup.doors.inference.mlflow.errors import MLFLOW
from trueup.doors.inference.mlflow.rest import Invocations, InvocationsCall
from trueup.doors.inference.oip import rest, tensors
from trueup.doors.inference.oip.rest import EXTENSIONS, Call
from trueup.doors.inference.records import RecordsCall
from trueup.doors.inference.request import MODEL, Request, door_of, request_of, target_of
from trueup.doors.inference.wire import ClientGone, Reply, packed, read_body, send_reply, unpacked
from trueup.doors.prompt import Respond
from trueup.doors.readiness import Readiness
from trueup.errors import InvalidInput, NotFound, Overloaded, TrueupError, Unauthenticated
from trueup.scoring.service import Resolved
from trueup.telemetry.requests import current

_REPOSITORY = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)\Z")
_PLAIN = (b"", b"identity")
_Handler = Callable[["Request"], Awaitable[Reply]]


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
        request = request_of(scope, receive)
        if not self._takes(scope["method"], path, request):
            await self._behind(scope, receive, send)
            return
        headers = request.headers
        try:
            with self._services.telemetry.request(door_of(path, request), headers) as observed:
                reply = await self._reply(scope["method"], path, request)
                observed.answered(reply.status, reply.outcome)
                reply.headers += observed.headers()
        except ClientGone:
            return
        if b"accept-encoding" in headers:
            packed(reply, headers[b"accept-encoding"])
        await send_reply(send, reply, head=scope["method"] == "HEAD")

    def at_once(self, scope: Scope, body: bytes, respond: Respond) -> bool:
        """Takes a scoring request of which everything is known from memory, and leaves any other to ``__call__``."""
        target = target_of(scope["path"]) if scope["method"] == "POST" else None
        if target is None or len(body) > self._limits.body_bytes:
            return False
        request = request_of(scope, target=target)
        headers = request.headers
        resolved = self.inference.at_hand(request.model, request.version)
        shown = request.shown
        if resolved is None or not shown or headers.get(b"content-encoding", b"") not in _PLAIN:
            return False
        caller, refused = self._known(shown)
        if caller is None and refused is None:
            return False
        observed = self._services.telemetry.request(door_of(scope["path"], request), headers)
        exchange = Exchange(request, observed, respond, self._leave)
        with observed.here():
            try:
                self._submit(self._read(request, caller, refused, resolved, body), exchange)
            except Exception as error:
                exchange.set_exception(error)
        return True

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
            self._invocations = Invocations(self._inference, self._services)
        return self._inference

    def _takes(self, method: str, path: str, request: Request) -> bool:
        """Whether a path is one of ours, and whose protocol it speaks."""
        if path.startswith("/v2"):
            return True
        if path in self._mlflow:
            request.shape = MLFLOW
            return True
        target = target_of(path) if method == "POST" else None
        if target is None:
            return False
        request.shape, request.model, request.version = target
        return True

    async def _reply(self, method: str, path: str, request: Request) -> Reply:
        try:
            handler, verbs = self._route(path, request)
            if method not in verbs:
                raise errors.NotAllowed("the method is not allowed here", allow=", ".join(verbs))
            return await handler(request)
        except ClientGone:
            raise
        except Exception as error:
            return request.shape.of(error)

    def _route(self, path: str, request: Request) -> tuple[_Handler, tuple[str, ...]]:
        if request.shape is errors.RECORDS:
            return self._score, ("POST",)
        if request.shape is MLFLOW:
            return self._mlflow[path]
        if path in self._plain:
            return self._plain[path], ("GET", "HEAD")
        if path == "/v2/repository/index":
            return self._index, ("POST",)
        found = MODEL.match(path)
        if found is not None:
            request.model, request.version = found[1], found[2]
            if found[3] == "/infer":
                return self._score, ("POST",)
            return (self._model_ready if found[3] else self._model), ("GET", "HEAD")
        found = _REPOSITORY.match(path)
        if found is not None:
            request.model, request.action = found[1], found[2]
            return self._load, ("POST",)
        raise NotFound("no such path")

    @contextmanager
    def _admitted(self, request: Request) -> Iterator[None]:
        """Counts a request for as long as the block lasts. Raises Overloaded."""
        try:
            self._enter()
            yield
        finally:
            self._leave(request)

    def _enter(self) -> None:
        """Counts a request in. Raises Overloaded; ``_leave`` is owed all the same."""
        self._in_flight += 1
        if self._in_flight > self._limits.inferences_in_flight:
            raise Overloaded("too many requests are in flight", next_step="try again after a moment")

    def _leave(self, request: Request) -> None:
        """Counts it out, with its body."""
        self._in_flight -= 1
        self._held -= request.held

    async def _score(self, request: Request) -> Reply:
        with self._admitted(request):
            caller = await self._allow(request, Permission.SCORE, request.model)
            body = await self._body(request)
            arrival = Arrival.now()
            resolved = await self.inference.resolved(request.model, request.version)
            asked = self._asked(request, caller, resolved, body, arrival)
            return asked.write(await self.inference.gather.score(asked.asks))

    def _read(
        self, request: Request, caller: Caller | None, refused: TrueupError | None, resolved: Resolved, body: bytes
    ) -> Asked:
        """What ``_score`` does before it waits. Raises as that does."""
        arrival = Arrival.now()
        self._enter()
        if caller is None:
            raise refused or Unauthenticated("an API key is needed")
        caller.require(Permission.SCORE, request.model)
        self._hold(request, len(body))
        current().resolved(resolved.deployment.name)
        return self._asked(request, caller, resolved, body, arrival)

    def _known(self, shown: str) -> tuple[Caller | None, TrueupError | None]:
        """Who is calling, or why nobody may; neither where only the database knows."""
        try:
            return self._keys.known(shown), None
        except TrueupError as error:
            return None, error

    def _submit(self, asked: Asked, exchange: Exchange[Request]) -> None:
        exchange.asked = asked
        gather = self.inference.gather
        if gather.fits_a_batch(asked.asks):
            gather.submit(asked.asks[0], exchange)
        else:
            exchange.follow(gather.score(asked.asks))

    def _asked(self, request: Request, caller: Caller, resolved: Resolved, body: bytes, arrival: Arrival) -> Asked:
        spend = partial(self._keys.spend, caller)
        if request.shape is errors.RECORDS:
            return records.asked(self.inference, RecordsCall(request.key, spend), body, resolved, arrival)
        length = request.headers.get(b"inference-header-content-length")
        if length is not None and not (length.isdigit() and len(length) < 12):
            raise InvalidInput("Inference-Header-Content-Length is a number of bytes")
        call = Call(None if length is None else int(length), request.key, spend)
        return rest.asked(self.inference, call, body, resolved, arrival)

    async def _invoke(self, request: Request) -> Reply:
        with self._admitted(request):
            caller = await self._allow(request, Permission.SCORE)
            invocations = self._invocations or Invocations(self.inference, self._services)
            name = await invocations.deployment(request.headers, request.query, caller)
            caller.require(Permission.SCORE, name)
            body = await self._body(request)
            kind = request.headers.get(b"content-type", b"").decode("latin-1")
            call = InvocationsCall(name, kind, request.key, partial(self._keys.spend, caller))
            return await invocations.score(call, body)

    async def _ping(self, request: Request) -> Reply:
        reply = await self._ready(request)
        return Reply(reply.status, b"\n" if reply.status == 200 else b"", outcome=reply.outcome)

    async def _release(self, _: Request) -> Reply:
        return Reply(200, _version().encode(), [(b"content-type", b"text/plain; charset=utf-8")])

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
        shown = request.shown
        if not shown:
            raise Unauthenticated("an API key is needed", next_step="send `Authorization: Bearer tu_...`")
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


async def _in_thread(call: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call)


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(value))


def _version() -> str:
    from importlib.metadata import version

    return version("trueup")
