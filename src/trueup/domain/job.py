"""Work that the clock does: what, when, and what becomes of runs that were missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Missed(StrEnum):
    """What becomes of due moments at which nobody worked."""

    SKIP = "skip"  # none is caught up
    LATEST = "latest"  # the last one only
    ALL = "all"  # each of them, oldest first, within the clock's bound


@dataclass(frozen=True, slots=True)
class Job:
    """Work at regular moments.

    ``schedule`` is five cron fields read in UTC, or ``every 30s`` (``s``, ``m``, ``h``). ``run`` is given the moment
    at which it was due and returns one line that says what it did; it may be called twice for one moment, when a
    worker dies between its work and its record. A TrueupError it raises is the run's error.
    """

    name: str  # the kind of work: alert, monitor, report, pull, upkeep, notify
    subject: str  # which rule, deployment or report; empty where there is only one
    schedule: str
    run: Callable[[datetime], str]
    missed: Missed = Missed.LATEST
