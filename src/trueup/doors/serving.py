"""The life of a network server: listening, saying "not ready", draining, stopping.

1. a first SIGTERM makes readiness false; requests are still answered, each with ``Connection: close``
   so that its caller moves to another server
2. after ``drain_s`` the socket takes no new connection and then closes; those that the kernel had accepted by
   then, or was about to, are answered too
3. what is in flight is answered, then batches are booked
4. the services are closed by whoever opened them
SIGINT (a person at the keyboard) skips the wait, a second signal skips the rest, a third ends the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from trueup.doors.api.connections import CLOSE, allow_files, bounded
from trueup.doors.headers import TRANSPORT_SECURITY
from trueup.doors.listening import BACKLOG, accept_waiting, refuse_beginners
from trueup.doors.tls import Certificates
from trueup.settings import Settings
from trueup.telemetry import log

SHUTDOWN_S = 30
HANDSHAKE_S = 0.1  # in which connections that were begun are completed


class Stopping(Protocol):
    """Where the server says that it is going: ``draining`` True makes it not ready."""

    draining: bool


@dataclass(frozen=True, slots=True)
class Beside:
    """Another door of the same process: opened before the HTTP address is announced, closed with it."""

    start: Callable[[], Awaitable[None]]
    stop: Callable[[float], Coroutine[Any, Any, None]]  # after at most so many seconds


class Server(uvicorn.Server):
    """uvicorn that stops in the order of the module's docstring. ``drain`` waits for what is being booked."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: Stopping,
        drain: Callable[[], Awaitable[None]],
        drain_s: float,
        beside: Beside | None = None,
    ) -> None:
        super().__init__(config)
        self._beside = beside
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
        """Opens the door beside, starts listening, and keeps a hold of the sockets for step 2."""
        if self._beside is not None:
            await self._beside.start()
        try:
            await super().startup(sockets)
        except BaseException:  # uvicorn exits where its own port is taken
            if self._beside is not None:
                await self._beside.stop(0)
            raise
        self._held = [one.dup() for one in sockets or ()]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Steps 2 and 3, both within ``SHUTDOWN_S``."""
        began = time.monotonic()
        self._say_close()
        await self._begin_no_connection()
        for server in self.servers:
            server.close()
        await self._accept_the_last()
        beside = None if self._beside is None else asyncio.create_task(self._beside.stop(SHUTDOWN_S))
        await super().shutdown(sockets)
        if beside is not None and self._beside is not None:
            await (self._beside.stop(0) if self.force_exit else beside)
        if self.force_exit or self.server_state.tasks:
            self.clean = False
            log("serving").error("stopped_early", requests=len(self.server_state.tasks))
            return
        try:
            async with asyncio.timeout(max(1.0, began + SHUTDOWN_S - time.monotonic())):
                await self._drain()
        except TimeoutError:
            self.clean = False
            log("serving").error("not_drained", after_s=SHUTDOWN_S)

    async def _begin_no_connection(self) -> None:
        """Closing a socket resets whoever connected in the same moment: so nobody begins to, and then it closes."""
        for held in self._held:
            refuse_beginners(held)
        await asyncio.sleep(HANDSHAKE_S)

    async def _accept_the_last(self) -> None:
        """Connections that the kernel has accepted and nobody has taken yet would be reset by closing."""
        loop, config = asyncio.get_running_loop(), self.config

        def connection() -> asyncio.Protocol:
            kind: Any = config.http_protocol_class
            made: asyncio.Protocol = kind(config, self.server_state, self.lifespan.state, loop)
            return made

        taken = [one for held in self._held for one in accept_waiting(held)]
        self._held = []
        for one in taken:
            await loop.connect_accepted_socket(connection, one, ssl=config.ssl)

    def _say_close(self) -> None:
        if CLOSE not in self.config.encoded_headers:
            self.config.encoded_headers.append(CLOSE)
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]

    def _stop(self) -> None:
        self.should_exit = True


def configured(served: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves it. Raises InvalidInput where the certificate cannot be used."""
    allow_files(settings.limits.connections)
    config = uvicorn.Config(
        served,
        loop="uvloop",
        http=bounded(settings.limits, served),
        ws="none",
        proxy_headers=False,  # nothing is decided by where a request says it comes from
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=30,
        lifespan="off",
    )
    if settings.tls.certificate is not None:
        certificates = Certificates(settings.tls)

        async def refresh() -> None:
            await asyncio.to_thread(certificates.refresh)

        config.ssl_context_factory = lambda *_: certificates.context
        config.callback_notify, config.timeout_notify = refresh, settings.tls.reload_s
        config.headers = [TRANSPORT_SECURITY]
    return config
