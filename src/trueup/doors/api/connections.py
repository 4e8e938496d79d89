"""HTTP connections with the bounds that uvicorn's own lack.

uvicorn's protocol on httptools waits for ever for a request's headers, keeps any number and size of them
(also as trailers), queues whatever is pipelined, and keeps an answer that nobody reads. Here each of these
is bounded by a setting, and what exceeds it costs the caller its connection, nobody else's.

And a request whose body came with its head is offered to the application as a plain call before a task
is made for it: a task, two events and three coroutines cost more than the rest of a small request. Where its
head is one that was read before (``heads.py``), the parser does not see it at all.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from contextvars import Context
from fcntl import ioctl
from functools import partial
from termios import FIONREAD
from typing import Any, cast

import msgspec
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from trueup.doors.api.heads import Heads
from trueup.doors.prompt import AnswersAtOnce
from trueup.settings import Limits
from trueup.telemetry import log

RETRY = b"retry-after: 1\r\n"
CLOSE = (b"connection", b"close")
FIRST_REQUEST_S = 1.0  # that a stopping server waits for the request of a connection just made


class BoundedConnection(HttpToolsProtocol):
    """One connection. ``bounded`` makes the class with its limits."""

    limits: Limits
    prompt: AnswersAtOnce | None
    heads: Heads
    _defaults: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")  # headers of every answer, and as they are sent
    _idle_since = 0.0  # of the loop's clock: when the last answer was sent
    _unstarted: ASGIApp | None = None  # of a request whose body is still in the bytes being read
    _read: object = None  # the scope of the last request that was read to its end
    _alone = b""  # what is being read, where it begins with a request
    _reading = False
    _earlier: list[RequestResponseCycle]  # requests that others are pipelined behind
    _slow: asyncio.TimerHandle | None = None  # runs while we wait for a request, or for the rest of one
    _unread: asyncio.TimerHandle | None = None  # runs while an answer waits for its caller
    _unsent = 0  # bytes of it, when the timer was set
    _head_bytes = 0
    _received = 0
    _refusal: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuses a connection too many; gives any other its time to send a request."""
        super().connection_made(transport)
        self._earlier = []
        if len(self.connections) > self.limits.connections:
            self._end(503, "too many connections; try again after a moment", RETRY)
        else:
            self._await()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets its timers."""
        self._calm()
        self._unwatch()
        super()._unset_keepalive_if_required()
        super().connection_lost(exc)
        for cycle in self._earlier:  # uvicorn tells the last request alone that its caller has gone
            cycle.disconnected = True
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and sees to it that what is incomplete has a deadline and a size."""
        before, answering = self.scope, self.cycle
        if before is self._read and (answering is None or answering.response_complete):  # between two requests
            if self._repeats(data):
                return
            self._alone = data
        self._received = len(data)
        self._reading = True
        super().data_received(data)
        self._reading, self._alone = False, b""
        app, self._unstarted = self._unstarted, None
        if app is not None and not self.transport.is_closing():  # the rest of its body is still to come
            super()._start_asgi_task(self.cycle, app)  # type: ignore[arg-type]
        scope, cycle = self.scope, self.cycle
        if scope is None or "method" not in scope:  # the head is incomplete
            self._head_bytes = self._head_bytes + len(data) if scope is before else self._head_size()
            if self._head_bytes > self.limits.header_bytes:
                self._end(431, "the request's headers are too large")
            else:
                self._await()
        elif cycle is answering and (cycle is None or cycle.response_complete):
            self._await()  # the rest of a body that was answered already, or empty lines
        else:
            self._head_bytes = 0
            self._calm()

    def on_headers_complete(self) -> None:
        """Lets the request through unless its head is too large, or too many wait before it."""
        if len(self.headers) > self.limits.headers:
            self._refuse(431, "the request has too many headers")
        most = self.limits.header_bytes
        if (self._head_bytes or self._received > most) and self._head_size() > most:
            self._refuse(431, "the request's headers are too large")
        if len(self.pipeline) >= self.limits.pipelined_requests:
            self._refuse(429, "too many requests wait on one connection")
        before = self.cycle
        super().on_headers_complete()
        self.headers = _Trailers()
        if self.pipeline:
            self._earlier.append(before)
        elif self._earlier:
            self._earlier = []

    def on_message_complete(self) -> None:
        """A request that is whole and has no task yet is answered at once, or gets its task."""
        super().on_message_complete()
        data, self._alone = self._alone, b""
        if not self.parser.should_upgrade():
            self._read = self.scope
        app, self._unstarted = self._unstarted, None
        if app is None or self.transport.is_closing():  # closing: it came behind the last one that is answered
            return
        if not self._is_taken(data):
            super()._start_asgi_task(self.cycle, app)  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        """The next request may come. On a connection that closes, what is unsent is watched."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._watch()
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            super()._start_asgi_task(cycle, app)
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:  # else the one that runs looks how long it was
            self._keep(self.timeout_keep_alive)

    def pause_writing(self) -> None:
        """The caller does not fetch its answer as fast as it is made."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """It has fetched most of it."""
        self._unwatch()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that was idle for its time. One that still fetches an answer is not idle."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_complete or self._slow is not None:
            self._keep(self.timeout_keep_alive)
        elif (left := self._idle_since + self.timeout_keep_alive - self.loop.time()) > 0:
            self._keep(left)
        elif self.transport.get_write_buffer_size():
            if self._unread is None:
                self._watch()
            self._keep(self.timeout_keep_alive)
        else:
            self.transport.close()

    def _keep(self, seconds: float) -> None:
        """One timer for all of a connection's pauses: setting one for each costs more than a small answer."""
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler, context=Context())

    def _unset_keepalive_if_required(self) -> None:
        """A request ends no timer; only the end of the connection does."""
        if self.transport.is_closing():
            super()._unset_keepalive_if_required()

    def shutdown(self) -> None:
        """Closes when idle; where a request waits unread, its answer closes the connection.

        Whoever has just connected could not know that the server stops, so a first request is waited for.
        """
        if (self.cycle is None or self.cycle.response_complete) and _unread(self.transport):
            return  # what is there is answered, with `Connection: close`
        if self.cycle is None and not self.transport.is_closing():
            self._calm()
            self._slow = self.loop.call_later(FIRST_REQUEST_S, self._too_slow)
            return
        super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, or was refused while its head was read."""
        status, text = self._refusal or (400, "the request is not valid HTTP")
        self._end(status, text)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        if self._reading and self.prompt is not None and not self.flow.write_paused:
            self._unstarted = app
        else:
            super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def _is_taken(self, data: bytes) -> bool:
        """Whether the application answers without a task. ``data`` is all that was read, if the request began it."""
        cycle = self.cycle
        if cycle.waiting_for_100_continue:
            return False
        body = bytes(cycle.body)
        if not self._takes(cast(Scope, cycle.scope), body, cycle):
            return False
        cycle.body = bytearray()
        if data and cycle.keep_alive and self._read is self.scope:
            self.heads.keep(data, cast(dict[str, Any], cycle.scope), len(body))
        return True

    def _repeats(self, data: bytes) -> bool:
        """Whether this is a request whose head was read before, and the application answers it without a task."""
        found = self.heads.found(data)
        if found is None or self.transport.is_closing() or self.flow.write_paused:
            return False
        head, body = found
        before, cycle = self.cycle, _Repeated(self.on_response_complete)
        self.cycle = cast(RequestResponseCycle, cycle)
        here = {"client": self.client, "server": self.server, "scheme": self.scheme, "state": self.app_state.copy()}
        if not self._takes({**head, **here}, body, self.cycle):
            self.cycle = before
            return False
        self._head_bytes = 0
        self._calm()
        return True

    def _takes(self, scope: Scope, body: bytes, cycle: RequestResponseCycle) -> bool:
        assert self.prompt is not None
        try:
            return self.prompt.at_once(scope, body, partial(self._respond, cycle))
        except Exception as error:  # its text may hold a caller's values
            log("api").error("request_failed", kind=type(error).__name__)
            self._end(500, "trueup failed on this request; the server's log tells more")
            return True

    def _respond(self, cycle: RequestResponseCycle, status: int, head: bytes, body: bytes) -> None:
        """What ``RequestResponseCycle.send`` does, for an answer that is whole."""
        answered, cycle.on_response = cycle.on_response, _nothing  # else connection and cycle hold each other
        if cycle.disconnected:
            return
        defaults = self.server_state.default_headers
        if defaults is not self._defaults[0]:  # uvicorn makes another list every second
            type(self)._defaults = (defaults, b"".join([b"%b: %b\r\n" % header for header in defaults]))
        stays = cycle.keep_alive and CLOSE not in defaults
        close = b"" if stays or CLOSE in defaults else b"connection: close\r\n"
        self.transport.write(b"%b%b%b%b\r\n%b" % (STATUS_LINE[status], self._defaults[1], head, close, body))
        cycle.response_started = cycle.response_complete = True
        if not stays:
            self.transport.close()
        answered()

    def _refuse(self, status: int, text: str) -> None:
        """Stops the parser, which then calls ``send_400_response``."""
        self._refusal = (status, text)
        raise ValueError(text)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _await(self) -> None:
        if self._slow is None and not self.transport.is_closing():
            self._slow = self.loop.call_later(self.limits.header_read_s, self._too_slow)

    def _calm(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        self._slow = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # a request before this one is being answered; its end sets the next timer
        if self._head_bytes:
            self._end(408, f"the request's headers did not arrive within {self.limits.header_read_s:g} s")
        else:
            self.transport.close()
        self._watch()

    def _watch(self) -> None:
        """Drops the connection unless its caller fetches something of what is unsent in time."""
        self._unwatch()
        self._unsent = self.transport.get_write_buffer_size()
        if self._unsent:
            self._unread = self.loop.call_later(self.timeout_keep_alive, self._check_unread)

    def _unwatch(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _check_unread(self) -> None:
        self._unread = None
        if self.transport.get_write_buffer_size() >= self._unsent:
            self.transport.abort()
        else:
            self._watch()

    def _end(self, status: int, text: str, more: bytes = b"") -> None:
        """Says why, and closes."""
        self._calm()
        if self.transport.is_closing():
            return
        body = msgspec.json.encode({"error": text})
        length = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + more + length + body)
        self.transport.close()


class _Repeated:
    """What is looked at of uvicorn's ``RequestResponseCycle``, for a request that is answered without a task."""

    __slots__ = ("disconnected", "keep_alive", "on_response", "response_complete", "response_started")
    message_event = asyncio.Event()  # nobody waits for more of the request

    def __init__(self, on_response: Callable[[], None]) -> None:
        self.on_response = on_response
        self.keep_alive = True
        self.disconnected = self.response_started = self.response_complete = False


class _Trailers(list[tuple[bytes, bytes]]):
    """Where header fields go that come behind the body: nowhere. They are no headers of the request."""

    def append(self, field: tuple[bytes, bytes]) -> None:
        """Drops it."""


def _nothing() -> None:
    """Nobody is told."""


def _unread(transport: asyncio.BaseTransport) -> bool:
    """Whether the kernel holds bytes that nobody has read yet."""
    count = array("i", [0])
    try:
        ioctl(transport.get_extra_info("socket").fileno(), FIONREAD, count)
    except (OSError, AttributeError, ValueError):
        return False
    return count[0] > 0


def bounded(limits: Limits, served: ASGIApp) -> type[BoundedConnection]:
    """The class of a server's connections."""
    prompt = served if isinstance(served, AnswersAtOnce) else None
    return type("BoundedConnection", (BoundedConnection,), {"limits": limits, "prompt": prompt, "heads": Heads()})


def allow_files(connections: int) -> None:
    """Raises the soft limit of open files, often 1,024, so far that the connections fit."""
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 512
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
