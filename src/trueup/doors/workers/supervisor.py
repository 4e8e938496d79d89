"""Keeps several workers on one port: starts them, starts again those that end, stops all.

1. *reserve* the ports, so that they are known (port 0) and nobody else's
2. *start* the workers: new processes, each with its number in ``TRUEUP_WORKER``, its own connections and models;
   the kernel spreads new connections among those that listen
3. *announce* the addresses once, when all listen
4. *restart* a worker that ends, after a growing wait, at most ``restarts`` times in a row
5. *stop* on a signal: all workers say "not ready", answer what they have accepted, and end; a second signal
   leaves them ``FORCE_S``, a third ends them at once

The supervisor opens the database and holds it (``cli/running.py``); it serves no request. When it is killed,
the workers notice by the end of a pipe, drain and end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from trueup.doors.listening import listening
from trueup.doors.serving import SHUTDOWN_S
from trueup.doors.workers.order import WORKER, Order
from trueup.doors.workers.reports import path_of
from trueup.settings import Settings
from trueup.telemetry import log

BACK_OFF_S = 0.5  # before the first restart; doubled for each that follows
LONGEST_S = 30.0
STEADY_S = 60.0  # a worker that lived so long has not failed in a row
FORCE_S = 5.0


@dataclass(slots=True)
class _Worker:
    number: int
    process: asyncio.subprocess.Process | None = None
    listens: bool = False
    failures: int = 0
    gone: bool = False


@dataclass
class Supervisor:
    """Runs as many processes as the settings say; ``announce`` gets the addresses once all of them listen."""

    settings: Settings
    drain_s: float
    announce: Callable[[list[str]], None]
    clean: bool = True
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _signals: int = 0
    _announced: bool = False
    _ports: dict[str, str] = field(default_factory=dict)
    _kept: list[_Worker] = field(default_factory=list)

    def run(self) -> bool:
        """Until a signal says stop. Whether all workers ended as they should. Raises InvalidInput, Unavailable for an
        address that cannot be had."""
        with ExitStack() as until_the_end:
            for name, (host, port) in self._doors().items():
                listening(host, port).close()  # a port that another program shares on purpose is taken, too
                reserved = until_the_end.enter_context(listening(host, port, shared=True))
                self._ports[name] = str(reserved.getsockname()[1])
            folder = until_the_end.enter_context(TemporaryDirectory(prefix="trueup-"))
            asyncio.run(self._run(Path(folder)))
        return self.clean

    def _doors(self) -> dict[str, tuple[str, int]]:
        """Host and port of each door, by the variable that tells a worker its port."""
        s = self.settings
        ports = {
            "TRUEUP_PORT": (s.host, s.port),
            "TRUEUP_ADMIN_PORT": (s.admin_host, s.admin_port),
            "TRUEUP_GRPC_PORT": (s.host, s.grpc_port),
        }
        return {name: (host, port) for name, (host, port) in ports.items() if port is not None}

    async def _run(self, folder: Path) -> None:
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self._signalled, sig)
        lifeline, ours = os.pipe()
        try:
            self._kept = [_Worker(number) for number in range(1, self.settings.workers + 1)]
            await asyncio.gather(*(self._keep(one, lifeline, folder) for one in self._kept))
        finally:
            os.close(ours)
            os.close(lifeline)

    async def _keep(self, one: _Worker, lifeline: int, folder: Path) -> None:
        """Steps 2 to 4 of one worker, until it is to stop or has failed too often."""
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._life(one, lifeline, folder)
            path_of(folder, one.number).unlink(missing_ok=True)
            if self._stopping.is_set():
                self.clean = self.clean and (code == 0 or not one.listens)
                return
            one.failures = one.failures + 1 if time.monotonic() - began < STEADY_S else 1
            if not self._announced or one.failures > self.settings.limits.worker_restarts:
                self._give_up(one, code)
                return
            wait = min(LONGEST_S, BACK_OFF_S * 2 ** (one.failures - 1))
            log("workers").error("worker_ended", worker=one.number, code=code, restart_in_s=wait)
            await self._stopped_within(wait)

    async def _life(self, one: _Worker, lifeline: int, folder: Path) -> int:
        """Starts the process and waits for its end. Its exit code, negative for a signal."""
        control, theirs = os.pipe()
        port = int(self._ports["TRUEUP_PORT"])
        order = Order(self.settings.host, port, self.drain_s, theirs, lifeline, str(folder))
        one.listens = False
        try:
            one.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *([] if os.getcwd() in sys.path or "" in sys.path else ["-P"]),
                *("-m", "trueup.doors.workers.worker", order.text()),
                pass_fds=(theirs, lifeline),
                env={**os.environ, **self._ports, WORKER: str(one.number)},
                process_group=0,  # a keyboard's interrupt is for the supervisor, which tells the workers
            )
        finally:
            os.close(theirs)
        if self._stopping.is_set():
            self._send(one, signal.SIGTERM)
        hearing = asyncio.create_task(self._hear(one, control))
        code = await one.process.wait()
        await hearing
        one.process = None
        return code

    async def _hear(self, one: _Worker, control: int) -> None:
        """Waits for the worker's word that it listens; its end is the pipe's end."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        pipe = os.fdopen(control, "rb", 0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        heard = await reader.readline()
        transport.close()
        if not heard:
            return
        one.listens = True
        log("workers").info("worker_listens", worker=one.number)
        if not self._announced and all(each.listens for each in self._kept):
            self._announced = True
            self.announce(heard.decode().split())

    def _give_up(self, one: _Worker, code: int) -> None:
        log("workers").error("worker_given_up", worker=one.number, code=code, failures=one.failures)
        one.gone, self.clean = True, False
        if not self._announced or all(each.gone for each in self._kept):
            self._stop(signal.SIGTERM)

    def _signalled(self, sig: signal.Signals) -> None:
        """Step 5."""
        self._signals += 1
        if self._signals > 2:
            self._kill()
            return
        if self._signals == 2:
            asyncio.get_running_loop().call_later(FORCE_S, self._kill)
        self._stop(sig)

    def _stop(self, sig: signal.Signals) -> None:
        if not self._stopping.is_set():
            bound = self.drain_s + 2 * SHUTDOWN_S + FORCE_S
            asyncio.get_running_loop().call_later(bound, self._kill)
        self._stopping.set()
        for one in self._kept:
            self._send(one, sig)

    def _kill(self) -> None:
        for one in self._kept:
            if one.process is not None and one.process.returncode is None:
                self.clean = False
                log("workers").error("worker_killed", worker=one.number)
                self._send(one, signal.SIGKILL)

    def _send(self, one: _Worker, sig: signal.Signals) -> None:
        if one.process is not None and one.process.returncode is None:
            one.process.send_signal(sig)

    async def _stopped_within(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
