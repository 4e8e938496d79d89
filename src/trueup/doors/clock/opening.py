"""Putting a worker together: the queue is made, jobs are declared, and the server has what it needs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from trueup.bootstrap import Services, utc_now, writer_of
from trueup.doors.clock.figures import Figures
from trueup.doors.clock.gathering import Gather, Gathering
from trueup.doors.clock.handlers import Handlers
from trueup.doors.clock.queue import Queue, prepare
from trueup.doors.clock.runs import Runs
from trueup.doors.clock.server import ClockServer


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker that has not begun yet."""

    gathering: Gathering
    server: ClockServer
    runs: Runs
    handlers: Handlers
    figures: Figures


def open_clock(
    services: Services,
    gather: Gather,
    *,
    only: Sequence[str] = (),
    subject: str | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> Opened:
    """A worker for the jobs that ``gather`` finds now and later, or ``only`` those of some kinds, or of one subject.

    Raises InvalidInput, InvalidFile, NotFound, Conflict, LedgerUnavailable.
    """
    bounds = services.settings.clock
    prepare(services.urls.owner, bounds.stale_s)
    runs = Runs(writer_of(services), bounds, clock, f"{socket.gethostname()}:{os.getpid()}")
    gathering = Gathering(gather, runs, bounds.gather_s, only, subject)
    gathering.begin()
    giving_up = threading.Event()
    handlers = Handlers(runs, gathering, bounds, clock, giving_up)
    server = ClockServer(runs, Queue(services.urls.writer), handlers, gathering, bounds, clock, giving_up)
    return Opened(
        gathering, server, runs, handlers, Figures(services.queries, server, handlers, clock, bounds.metric_jobs)
    )
