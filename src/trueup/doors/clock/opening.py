"""Putting a worker together: jobs are declared, the queue is made, and the server has what it needs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from trueup.bootstrap import Services, utc_now, writer_of
from trueup.domain.job import Job
from trueup.doors.clock.figures import Figures
from trueup.doors.clock.handlers import Handlers
from trueup.doors.clock.queue import Queue, prepare
from trueup.doors.clock.runs import Runs
from trueup.doors.clock.server import ClockServer
from trueup.errors import InvalidInput, NotFound


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker that has not begun yet."""

    known: int  # jobs
    server: ClockServer
    runs: Runs
    handlers: Handlers
    figures: Figures


def open_clock(
    services: Services,
    jobs: Sequence[Job],
    *,
    only: Sequence[str] = (),
    subject: str | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> Opened:
    """A worker for these jobs, or ``only`` those of some kinds, or of one subject of them.

    With all jobs, those that are no longer declared retire. Raises InvalidInput, NotFound, Conflict, LedgerUnavailable.
    """
    bounds = services.settings.clock
    chosen = {(j.name, j.subject): j for j in jobs}
    if len(chosen) != len(jobs):
        raise InvalidInput("two jobs have the same name and subject")
    if only:
        chosen = {which: job for which, job in chosen.items() if job.name in only and subject in (None, job.subject)}
        if not chosen:
            raise NotFound("no job is of this kind", next_step="`trueup jobs list` lists what there is")
    prepare(services.urls.owner, bounds.stale_s)
    runs = Runs(writer_of(services), bounds, clock, f"{socket.gethostname()}:{os.getpid()}")
    runs.declare(list(chosen.values()), all_of_them=not only)
    giving_up = threading.Event()
    handlers = Handlers(runs, chosen, bounds, clock, giving_up)
    server = ClockServer(runs, Queue(services.urls.writer), handlers, chosen, bounds, clock, giving_up)
    return Opened(
        len(chosen), server, runs, handlers, Figures(services.queries, server, handlers, clock, bounds.metric_jobs)
    )
