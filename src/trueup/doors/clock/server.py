"""A worker of the clock: plans what is due, takes runs from the queue, and runs each in a thread.

1. *plan*: a due moment becomes a row and an entry in the queue, once, whichever worker comes first.
2. *take* an entry, of jobs that this worker knows, while fewer than ``concurrency`` run.
3. *begin* it: the row says who runs it, and for which time.
4. *run* the job.
5. *end* it: the row says how it ended; then the queue forgets the entry.

A kill after any step loses nothing: entries of a worker without heartbeat are taken up by another, and a run whose
row has ended is not run again (``docs/explanation/clock.md``). While the database is away the worker stays, and
what it runs ends when it is back.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from trueup.doors.clock.gathering import Gathering
from trueup.doors.clock.handlers import Handlers
from trueup.doors.clock.queue import Entry, Queue
from trueup.doors.clock.runs import Runs
from trueup.errors import Fenced, TrueupError, Unavailable
from trueup.settings import Clock
from trueup.telemetry import log

T = TypeVar("T")


class ClockServer:
    """Runs in the calling thread until ``stop`` is called from another or by a signal."""

    def __init__(
        self,
        runs: Runs,
        queue: Queue,
        handlers: Handlers,
        gathering: Gathering,
        bounds: Clock,
        clock: Callable[[], datetime],
        giving_up: threading.Event,
    ) -> None:
        self._runs = runs
        self._queue = queue
        self._handlers = handlers
        self._gathering = gathering
        self._bounds = bounds
        self._clock = clock
        self._giving_up = giving_up
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._running: dict[int, asyncio.Task[None]] = {}  # by entry
        self._worker = 0
        self._doubtful = False  # whether an entry may have been given to us that we do not know
        self._reached_since = time.monotonic()  # since when the database has answered every call
        self._planned = False
        self._looked = False  # for runs of the silent
        self._until: datetime | None = None  # of a worker that ends by itself: what was due then

    @property
    def is_ready(self) -> bool:
        """Whether it plans and takes."""
        return self._planned and not self._doubtful and not self._stopping.is_set()

    @property
    def running(self) -> int:
        """Runs that it is at work on."""
        return len(self._running)

    def stop(self) -> None:
        """Takes nothing more, and ends after what it runs, or after ``drain_s``."""
        self._stopping.set()
        self._wake()

    def run(self, *, once: bool = False) -> bool:
        """Whether everything that it took has ended. ``once``: ends by itself when all that is due now was run.

        Where it returns False, threads are still at work: the caller ends the process, and others take their
        runs up when its heartbeat is stale. Raises LedgerUnavailable at its start only.
        """
        return asyncio.run(self._main(once=once))

    async def _main(self, *, once: bool) -> bool:
        self._loop = asyncio.get_running_loop()
        self._until = self._clock() if once else None
        await self._queue.open()
        self._worker = await self._queue.register()
        bounds = self._bounds
        keepers = [
            self._kept("beat", self._beat, bounds.beat_s),
            self._kept("plan", self._plan, bounds.poll_s),
            self._kept("gather", self._gather, bounds.gather_s, first_s=bounds.gather_s),
            self._kept("take_up", self._take_up, bounds.poll_s if once else bounds.stale_s / 3),
        ]
        clean = False
        try:
            while not self._stopping.is_set() and not (once and await self._is_done()):
                await self._fill()
                await self._wait()
            clean = await self._drain()
        finally:
            await self._leave(keepers, clean)
        return clean

    async def _drain(self) -> bool:
        """Waits for what runs, so long as it may."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=self._bounds.drain_s)
        if self._running:
            log("clock").warning("not_drained", runs=len(self._running))
        return not self._running

    async def _leave(self, keepers: list[asyncio.Task[None]], clean: bool) -> None:
        """A worker that leaves runs behind stays registered: its silence is what others wait for."""
        self._giving_up.set()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        with suppress(TrueupError):
            if clean:
                await self._queue.leave(self._worker)
            await self._queue.close()

    def _kept(
        self, name: str, step: Callable[[], Awaitable[None]], every_s: float, first_s: float = 0.0
    ) -> asyncio.Task[None]:
        """A step that is taken again and again, whatever becomes of it."""

        async def keep() -> None:
            await asyncio.sleep(first_s)
            while True:
                try:
                    await step()
                except Unavailable:
                    self._unreached()
                except Exception as error:
                    log("clock").error("step_failed", step=name, error=type(error).__name__)
                    self._unreached()
                await asyncio.sleep(every_s)

        return asyncio.create_task(keep(), name=name)

    async def _beat(self) -> None:
        await self._queue.beat(self._worker)

    async def _plan(self) -> None:
        """Step 1."""
        if self._stopping.is_set():
            return
        now = self._until or self._clock()
        if await asyncio.to_thread(self._runs.plan, self._gathering.jobs, now):
            self._wake()
        self._planned = True

    async def _gather(self) -> None:
        """Which jobs there are now. Who could not reach the database cannot tell whether others still know a job."""
        may_retire = time.monotonic() - self._reached_since >= self._gathering.holds_s
        if await asyncio.to_thread(self._gathering.again, may_retire=may_retire):
            self._wake()

    async def _take_up(self) -> None:
        """Of workers that are silent; but whoever could not reach the database itself cannot tell who is."""
        if self._until is None and time.monotonic() - self._reached_since < self._bounds.stale_s:
            return
        taken = await self._queue.take_up(self._bounds.stale_s)
        restored = await asyncio.to_thread(self._runs.restore)
        if taken or restored:
            log("clock").warning("taken_up", runs=taken, restored=restored)
            self._wake()
        self._looked = True

    async def _fill(self) -> None:
        """Step 2, until nothing is there or no more may run."""
        while len(self._running) < self._bounds.concurrency and not self._stopping.is_set():
            entry = await self._taken()
            if entry is None:
                return
            task = asyncio.create_task(self._run(entry), name=f"run {entry.run_id}")
            self._running[entry.entry_id] = task
            task.add_done_callback(partial(self._forget, entry))

    async def _taken(self) -> Entry | None:
        try:
            if self._doubtful:
                await self._queue.put_back_lost(self._worker, list(self._running))
                self._doubtful = False
            return await self._queue.take(self._gathering.queues, self._worker)
        except Unavailable:
            self._unreached()
            self._doubtful = True
        except Fenced:  # it was silent for so long that it was forgotten
            with suppress(Unavailable):
                self._worker = await self._queue.register()
        return None

    async def _run(self, entry: Entry) -> None:
        """Steps 3 to 5."""
        run = _in_thread(lambda: self._handlers.handle(entry.run_id))
        done, _ = await asyncio.wait([run], timeout=self._bounds.job_timeout_s)
        if not done:
            log("clock").error("overran", run_id=entry.run_id, after_s=self._bounds.job_timeout_s)
            with suppress(TrueupError):
                await asyncio.to_thread(self._runs.overran, entry.run_id)
        try:
            at = await run
        except (Unavailable, Fenced):
            return  # the row is open, and the entry is whose turn it is: who takes it up, or has taken it up
        await self._told(entry, at)

    async def _told(self, entry: Entry, at: datetime | None) -> None:
        """The queue hears of the end, when it can."""
        while True:
            try:
                if at is None:
                    await self._queue.done(entry.entry_id)
                else:
                    await self._queue.again(entry.entry_id, at)
                return
            except Fenced:
                return
            except Unavailable:
                self._unreached()
                if self._giving_up.is_set():
                    return
                await asyncio.sleep(self._bounds.poll_s)

    def _forget(self, entry: Entry, task: asyncio.Task[None]) -> None:
        del self._running[entry.entry_id]
        if not task.cancelled() and task.exception() is not None:
            log("clock").error("run_failed", run_id=entry.run_id, error=type(task.exception()).__name__)
        self._woken.set()

    async def _is_done(self) -> bool:
        """Whether all that was due when it began has been run, here or elsewhere."""
        if self._running or not (self._planned and self._looked):
            return False
        try:
            until = self._until or datetime.now(UTC)
            return await asyncio.to_thread(self._runs.is_idle, self._gathering.jobs, until)
        except Unavailable:
            return False

    async def _wait(self) -> None:
        """For something to do."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._bounds.poll_s):
                await self._woken.wait()
        self._woken.clear()

    def _wake(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)

    def _unreached(self) -> None:
        self._reached_since = time.monotonic()
        self._planned = False


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """In a thread of its own that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def run() -> None:
        result, fault = None, None
        try:
            result = work()
        except BaseException as error:
            fault = error
        with suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(tell, result, fault)

    threading.Thread(target=run, name="trueup-job", daemon=True).start()
    return future
