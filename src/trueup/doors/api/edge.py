"""The outermost layer of the HTTP door: admission, security headers, and the last catch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trueup.doors.api.errors import BodyTooLarge, BodyTooSlow, answer, outcome_of, status_of, unexpected
from trueup.doors.headers import API_HEADERS, VIEWER_HEADERS
from trueup.errors import Overloaded
from trueup.settings import Limits
from trueup.telemetry import log
from trueup.telemetry.requests import Observed, Telemetry

BODY_READ_S = 30.0
BODIES_AT_ONCE = 8  # so many bodies of the largest size may be in memory together

_DOCUMENTATION = "/docs"  # the viewer has scripts and styles, all of this server

T = TypeVar("T")


class Work:
    """Runs blocking calls of the core in a bounded number of threads, for a bounded number of requests."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._in_flight = 0
        self._body_bytes = 0
        self._threads: anyio.CapacityLimiter | None = None

    def admit(self) -> None:
        """Counts one request in. Raises Overloaded at the bound; then ``leave`` must not be called."""
        if self._in_flight >= self._limits.requests_in_flight:
            raise Overloaded("too many requests are in flight", next_step="try again after a moment")
        self._in_flight += 1

    def leave(self) -> None:
        """Counts one request out."""
        self._in_flight -= 1

    async def run(self, call: Callable[[], T]) -> T:
        """``call`` in a thread. A caller that goes away does not stop it: what is booked is booked."""
        if self._threads is None:  # made here because it belongs to the running event loop
            self._threads = anyio.CapacityLimiter(self._limits.pool_connections)
        return await anyio.to_thread.run_sync(call, limiter=self._threads)

    async def body(self, request: Request) -> bytes:
        """The whole body. Raises BodyTooLarge as soon as it is, BodyTooSlow, Overloaded."""
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limits.body_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        held = 0
        try:
            async with asyncio.timeout(BODY_READ_S):
                async for chunk in request.stream():
                    held += len(chunk)
                    self._body_bytes += len(chunk)
                    if held > self._limits.body_bytes:
                        raise self._too_large()
                    if self._body_bytes > BODIES_AT_ONCE * self._limits.body_bytes:
                        raise Overloaded("too many large bodies at once", next_step="try again after a moment")
                    chunks.append(chunk)
        except TimeoutError:
            raise BodyTooSlow(f"the body did not arrive within {BODY_READ_S:.0f} s") from None
        finally:
            self._body_bytes -= held
        return b"".join(chunks)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"a body may have at most {self._limits.body_bytes} bytes", next_step="send smaller batches"
        )


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, work: Work, telemetry: Telemetry) -> None:
        self._app = app
        self._work = work
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admits, adds headers, and turns anything unforeseen into a plain 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._telemetry.request(_door(scope["path"]), dict(scope["headers"])) as observed:
            await self._admitted(scope, receive, _Sender(send, scope["path"], observed))

    async def _admitted(self, scope: Scope, receive: Receive, sender: _Sender) -> None:
        if not scope["path"].startswith("/v1/"):  # health must answer under load too
            await self._guarded(scope, receive, sender)
            return
        try:
            self._work.admit()
        except Overloaded as error:
            sender.observed.answered(*status_of(error))
            await answer(error)(scope, receive, sender)
            return
        try:
            await self._guarded(scope, receive, sender)
        finally:
            self._work.leave()

    async def _guarded(self, scope: Scope, receive: Receive, sender: _Sender) -> None:
        try:
            await self._app(scope, receive, sender)
        except ClientDisconnect:
            return
        except Exception as error:  # whatever it is, its text may hold a caller's values
            log("api").error("request_failed", kind=type(error).__name__, method=scope["method"], at=_places(error))
            if not sender.started:
                sender.observed.answered(500, "internal")
                await unexpected()(scope, receive, sender)


class _Sender:
    """Adds the headers to the response's start, remembers that it started, and tells what it was."""

    def __init__(self, send: Send, path: str, observed: Observed) -> None:
        self._send = send
        self.observed = observed
        self._headers = VIEWER_HEADERS if path.startswith(_DOCUMENTATION) else API_HEADERS
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            status = message["status"]
            if status != self.observed.status:  # whoever raised an error has said which
                self.observed.answered(status, outcome_of(status))
            own = list(message.get("headers", []))
            named = {name for name, _ in own}  # a page with a policy of its own keeps it
            added = [(name, value) for name, value in self._headers if name not in named]
            message = {**message, "headers": [*own, *added, *self.observed.headers()]}
        await self._send(message)


def more_than(document: bytes, mark: bytes, most: int) -> bool:
    """Whether a mark of JSON (such as ``,``) stands more than ``most`` times outside of texts.

    Found out before the document is decoded, because millions of elements are as many objects; and without
    a regular expression, which takes fifty times the document's size.
    """
    if document.count(mark) <= most:
        return False
    bare = document.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 2 * most + 2_000:  # so many texts alone are too many
        return True
    return sum(part.count(mark) for part in bare.split(b'"')[::2]) > most


def _door(path: str) -> str:
    if path.startswith("/v1/"):
        return "records" if path.endswith("/score") else "api"
    return "health" if path.startswith("/health/") or path == "/metrics" else "api"


def _places(error: BaseException) -> str:
    """Where it was raised: modules and lines, no text of the error."""
    import traceback

    frames: list[Any] = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
