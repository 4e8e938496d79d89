"""A bare ASGI callable in front of the FastAPI application: same process, same port.

Takes the paths of the inference protocols and hands every other one on. It knows no server:
whatever speaks ASGI can run it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from trueup.bootstrap import Services
from trueup.doors.auth import ApiKeys, Permission
from trueup.doors.inference import errors
from trueup.doors.inference.asking import Inference
from trueup.doors.inference.gather import Gather
from trueup.doors.inference.oip import tensors
from trueup.doors.inference.oip.rest import EXTENSIONS, Call, RestInference
from trueup.doors.inference.wire import ClientGone, Reply, headers_of, packed, read_body, send_reply, unpacked
from trueup.errors import InvalidInput, NotFound, Overloaded, TrueupError, Unauthenticated
from trueup.telemetry import log

_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?/?\Z")
_REPOSITORY = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)\Z")
_PLAIN = (b"", b"identity")
_Handler = Callable[["Request"], Awaitable[Reply]]


@dataclass(slots=True)
class Request:
    """One HTTP request as far as it is read."""

    headers: dict[bytes, bytes]
    receive: Receive
    model: str = ""
    version: str | None = None
    action: str = ""


class Front:
    """The inference paths; what they do not cover goes to ``behind``."""

    def __init__(self, behind: ASGIApp, services: Services, keys: ApiKeys, draining: Callable[[], bool]) -> None:
        self._behind = behind
        self._services = services
        self._keys = keys
        self._draining = draining
        self._limits = services.settings.limits
        self._in_flight = 0
        self._inference: Inference | None = None
        self._rest: RestInference | None = None
        self._plain: dict[str, _Handler] = {
            "/v2": self._server,
            "/v2/": self._server,
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            "/v2/models": self._models,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or not scope["path"].startswith("/v2"):
            await self._behind(scope, receive, send)
            return
        headers = headers_of(scope)
        try:
            reply = await self._reply(scope["method"], scope["path"], headers, receive)
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
            self._inference = Inference(self._services, Gather(self._services.scoring, self._limits))
            self._rest = RestInference(self._inference)
        return self._inference

    async def _reply(self, method: str, path: str, headers: dict[bytes, bytes], receive: Receive) -> Reply:
        request = Request(headers, receive)
        try:
            handler, verbs = self._route(path, request)
            if method not in verbs:
                raise errors.NotAllowed("the method is not allowed here", allow=", ".join(verbs))
            return await handler(request)
        except TrueupError as error:
            return errors.answer(error)
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception as error:  # its text may hold a caller's values
            log("inference").error("request_failed", kind=type(error).__name__)
            return errors.unexpected()

    def _route(self, path: str, request: Request) -> tuple[_Handler, tuple[str, ...]]:
        if path in self._plain:
            return self._plain[path], ("GET", "HEAD")
        if path == "/v2/repository/index":
            return self._index, ("POST",)
        found = _MODEL.match(path)
        if found is not None:
            request.model, request.version = unquote(found[1]), found[2] and unquote(found[2])
            if found[3] == "/infer":
                return self._infer, ("POST",)
            return (self._model_ready if found[3] else self._model), ("GET", "HEAD")
        found = _REPOSITORY.match(path)
        if found is not None:
            request.model, request.action = unquote(found[1]), found[2]
            return self._load, ("POST",)
        raise NotFound("no such path")

    async def _infer(self, request: Request) -> Reply:
        if self._in_flight >= self._limits.inferences_in_flight:
            raise Overloaded("too many requests are in flight", next_step="try again after a moment")
        self._in_flight += 1
        try:
            await self._allow(request, Permission.SCORE)
            body = await self._body(request)
            length = request.headers.get(b"inference-header-content-length")
            if length is not None and not (length.isdigit() and len(length) < 12):
                raise InvalidInput("Inference-Header-Content-Length is a number of bytes")
            key = request.headers.get(b"idempotency-key")
            call = Call(
                request.model,
                request.version,
                None if length is None else int(length),
                None if key is None else key.decode("latin-1"),
            )
            rest = self._rest or RestInference(self.inference)
            return await rest.infer(call, body)
        finally:
            self._in_flight -= 1

    async def _body(self, request: Request) -> bytes:
        body = await read_body(request.receive, request.headers, self._limits.body_bytes)
        encoding = request.headers.get(b"content-encoding", b"").lower()
        return unpacked(body, encoding, self._limits.body_bytes) if body and encoding not in _PLAIN else body

    async def _allow(self, request: Request, permission: Permission) -> None:
        """Raises Unauthenticated, Forbidden."""
        authorization = request.headers.get(b"authorization", b"")
        text = authorization[7:] if authorization[:7].lower() == b"bearer " else request.headers.get(b"x-api-key", b"")
        if not text:
            raise Unauthenticated("an API key is needed", next_step="send `Authorization: Bearer tu_...`")
        shown = text.decode("latin-1").strip()
        key = self._keys.known(shown)
        if key is None:
            key = await asyncio.get_running_loop().run_in_executor(None, self._keys.authenticate, shown)
        key.require(permission)

    async def _live(self, _: Request) -> Reply:
        return _json({"live": True})

    async def _ready(self, _: Request) -> Reply:
        ready = not self._draining() and self._services.is_ready(await _in_thread(self._services.ping))
        return _json({"live": True, "ready": ready}, 200 if ready else 503)

    async def _server(self, _: Request) -> Reply:
        return _json({"name": tensors.SERVER, "version": _version(), "extensions": EXTENSIONS})

    async def _models(self, request: Request) -> Reply:
        await self._allow(request, Permission.READ)
        found = await _in_thread(self._services.registry.deployments)
        return _json({"models": [d.name for d in found]})

    async def _model(self, request: Request) -> Reply:
        await self._allow(request, Permission.READ)
        return _json(tensors.metadata(await self.inference.resolved(request.model, request.version)))

    async def _model_ready(self, request: Request) -> Reply:
        await self._allow(request, Permission.READ)
        found = await self.inference.resolved(request.model, request.version)
        ready = found.champion.scorer is not None or found.deployment.serving.fallback is not None
        return _json({"name": request.model, "ready": ready}, 200 if ready else 503)

    async def _index(self, request: Request) -> Reply:
        await self._allow(request, Permission.READ)
        body = await self._body(request)
        only_ready = False
        if body.strip():
            try:
                only_ready = msgspec.json.decode(body, type=dict[str, bool]).get("ready", False)
            except (msgspec.MsgspecError, UnicodeError):
                raise InvalidInput("the body is a JSON object with `ready`, or empty") from None
        return _json(await _in_thread(lambda: self.inference.index(only_ready=only_ready)))

    async def _load(self, request: Request) -> Reply:
        await self._allow(request, Permission.DEPLOY)
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
