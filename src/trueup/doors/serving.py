"""The life of a network server: listening, saying "not ready", draining, stopping.

1. a first SIGTERM makes readiness false; requests are still answered, each with ``Connection: close``
   so that its caller moves to another server
2. after ``drain_s`` the socket closes; connections that the kernel had accepted by then are answered too
3. what is in flight is answered, then batches are booked
4. the services are closed by whoever opened them
SIGINT (a person at the keyboard) skips the wait, a second signal skips the rest, a third ends the process.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from array import array
from collections.abc import Awaitable, Callable, Sequence
from fcntl import ioctl
from termios import FIONREAD
from types import FrameType
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trueup.errors import InvalidInput
from trueup.telemetry import log

CONNECTIONS = 1_000
BACKLOG = 2_048
SHUTDOWN_S = 30
CLOSE = (b"connection", b"close")


class Stopping(Protocol):
    """Where the server says that it is going: ``draining`` True makes it not ready."""

    draining: bool


class Connection(HttpToolsProtocol):
    """A connection that is not closed while a request waits in it unread."""

    def shutdown(self) -> None:
        """Closes when idle; else the next answer closes it."""
        if (self.cycle is None or self.cycle.response_complete) and _unread(self.transport):
            return  # what is there is answered, with `Connection: close`
        super().shutdown()


class Server(uvicorn.Server):
    """uvicorn that stops in the order of the module's docstring. ``drain`` waits for what is being booked."""

    def __init__(
        self, config: uvicorn.Config, state: Stopping, drain: Callable[[], Awaitable[None]], drain_s: float
    ) -> None:
        super().__init__(config)
        self._state = state
        self._drain = drain
        self._drain_s = drain_s
        self._held: list[socket.socket] = []
        self.clean = True  # False once something that was accepted was given up

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal."""
        first = not self._state.draining
        self._state.draining = True
        self._say_close()
        if sig == signal.SIGTERM and first and self._drain_s > 0:
            timer = threading.Timer(self._drain_s, self._stop)
            timer.daemon = True
            timer.start()
            return
        if self.force_exit:
            os._exit(1)
        if self.should_exit:
            self.force_exit = True
        self._stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening, and keeps a hold of the sockets for step 2."""
        await super().startup(sockets)
        self._held = [one.dup() for one in sockets or ()]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Steps 2 and 3."""
        self._say_close()
        for server in self.servers:
            server.close()
        await self._accept_the_last()
        await super().shutdown(sockets)
        if self.force_exit or self.server_state.tasks:
            self.clean = False
            log("serving").error("stopped_early", requests=len(self.server_state.tasks))
            return
        try:
            async with asyncio.timeout(SHUTDOWN_S):
                await self._drain()
        except TimeoutError:
            self.clean = False
            log("serving").error("not_drained", after_s=SHUTDOWN_S)

    async def _accept_the_last(self) -> None:
        """Connections that the kernel has accepted and nobody has taken yet would be reset by closing."""
        loop, config = asyncio.get_running_loop(), self.config

        def connection() -> asyncio.Protocol:
            kind: Any = config.http_protocol_class
            made: asyncio.Protocol = kind(config, self.server_state, self.lifespan.state, loop)
            return made

        taken = [one for held in self._held for one in _waiting(held)]
        self._held = []
        for one in taken:
            await loop.connect_accepted_socket(connection, one, ssl=config.ssl)

    def _say_close(self) -> None:
        if CLOSE not in self.config.encoded_headers:
            self.config.encoded_headers.append(CLOSE)
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]

    def _stop(self) -> None:
        self.should_exit = True


def configured(served: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves it."""
    return uvicorn.Config(
        served,
        loop="uvloop",
        http=Connection,
        proxy_headers=False,  # nothing is decided by where a request says it comes from
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=30,
        lifespan="off",
    )


def listening(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket; ``shared`` with other processes of this user, among which the kernel spreads connections.

    Raises InvalidInput where the address cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
    except OSError:
        raise InvalidInput("the host is no address of this machine", next_step="set TRUEUP_HOST") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise InvalidInput(
            f"port {port} cannot be listened on ({error.strerror})", next_step="set TRUEUP_PORT, or 0 for any"
        ) from None
    return made


def address_of(scheme: str, one: socket.socket) -> str:
    """The address that was bound, which for port 0 only the socket knows."""
    host, port = one.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def calm_collector() -> None:
    """What is loaded now stays: the garbage collector need not walk through it while requests wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _unread(transport: asyncio.BaseTransport) -> bool:
    """Whether the kernel holds bytes that nobody has read yet."""
    count = array("i", [0])
    try:
        ioctl(transport.get_extra_info("socket").fileno(), FIONREAD, count)
    except (OSError, AttributeError, ValueError):
        return False
    return count[0] > 0


def _waiting(held: socket.socket) -> Sequence[socket.socket]:
    """Takes every connection out of the queue, and closes the socket right after."""
    taken: list[socket.socket] = []
    held.setblocking(False)
    try:
        while len(taken) < BACKLOG:
            one, _ = held.accept()
            one.setblocking(False)
            taken.append(one)
    except OSError:  # nobody waits any more
        pass
    finally:
        held.close()
    return taken
