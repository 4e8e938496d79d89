"""One run from begin to end, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from trueup.domain.job import Job
from trueup.doors.clock.gathering import Gathering
from trueup.doors.clock.runs import Begun, Runs
from trueup.errors import TrueupError, Unavailable
from trueup.settings import Clock
from trueup.telemetry import log

SAID_CHARS = 1_000
LOOK_S = 0.5  # a run that waits for the database looks so often

T = TypeVar("T")


class Handlers:
    """What is done with a run that the queue gave. Safe in several threads."""

    def __init__(
        self,
        runs: Runs,
        gathering: Gathering,
        bounds: Clock,
        clock: Callable[[], datetime],
        giving_up: threading.Event,
    ) -> None:
        self._runs = runs
        self._gathering = gathering
        self._bounds = bounds
        self._clock = clock
        self._giving_up = giving_up
        self.ended: Counter[tuple[str, str, str]] = Counter()  # by name, subject, and ok, failed or again

    def handle(self, run_id: int) -> datetime | None:
        """Runs it, unless it has ended already; returns when to try it again, if so.

        While the database is away the end waits to be recorded. Raises Unavailable when the worker gives that up, and
        Fenced where another worker has begun it meanwhile: its entry in the queue is that worker's.
        """
        begun = self._patiently(lambda: self._runs.begin(run_id))
        if begun is None:
            return None
        if begun.attempt > self._bounds.attempts:
            self._end(begun, 0.0, error=f"given up: it was begun {self._bounds.attempts} times and never ended")
            return None
        job = self._gathering.jobs.get((begun.name, begun.subject))
        return self._left(begun) if job is None else self._work(begun, job)

    def _work(self, begun: Begun, job: Job) -> datetime | None:
        began = time.monotonic()
        try:
            said = job.run(begun.due)
        except Unavailable as fault:
            return self._again(begun, fault, time.monotonic() - began)
        except TrueupError as error:
            self._end(begun, time.monotonic() - began, error=_told(error))
        except BaseException as error:  # also a library's exit: a worker outlives every job
            log("clock").error("job_failed", job=job.name, subject=job.subject, error=type(error).__name__)
            self._end(begun, time.monotonic() - began, error=f"{type(error).__name__}: a fault in the job itself")
        else:
            self._end(begun, time.monotonic() - began, said=str(said)[:SAID_CHARS])
        return None

    def _left(self, begun: Begun) -> datetime:
        """To a worker that knows the job: it was no longer gathered here since the run was taken."""
        self._patiently(lambda: self._runs.pause(begun, "a worker took it that no longer knows the job"))
        return self._clock() + timedelta(seconds=self._bounds.retry_s)

    def _again(self, begun: Begun, fault: Unavailable, took_s: float) -> datetime | None:
        """Later and later, so long as it may be begun again."""
        if begun.attempt >= self._bounds.attempts:
            self._end(begun, took_s, error=_told(fault))
            return None
        self._patiently(lambda: self._runs.pause(begun, _told(fault)))
        self.ended[begun.name, begun.subject, "again"] += 1
        wait_s = min(self._bounds.retry_s * 2 ** (begun.attempt - 1), self._bounds.retry_most_s)
        return self._clock() + timedelta(seconds=wait_s)

    def _end(self, begun: Begun, took_s: float, *, said: str | None = None, error: str | None = None) -> None:
        self._patiently(lambda: self._runs.end(begun, took_s, said=said, error=error))
        self.ended[begun.name, begun.subject, "ok" if error is None else "failed"] += 1

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Until the database answers, or the worker gives up."""
        while True:
            try:
                return ask()
            except Unavailable:
                if self._giving_up.wait(LOOK_S):
                    raise


def _told(error: TrueupError) -> str:
    return f"{type(error).__name__}: {error.message}"
