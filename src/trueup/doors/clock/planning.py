"""Which of a job's due moments is worked on next, and which were missed. Pure: no database, no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile

from trueup.contracts.schedules import Schedule
from trueup.domain.job import Missed
from trueup.settings import Clock


@dataclass(frozen=True, slots=True)
class Plan:
    """``run``: the moment to work on, None for none. ``missed``, oldest first. ``next_due``: the first one after both.

    ``forgotten`` says that there were more missed ones before, beyond the bound.
    """

    run: datetime | None
    missed: tuple[datetime, ...]
    next_due: datetime
    forgotten: bool = False


def plan(of: Schedule, missed: Missed, first: datetime, now: datetime, bounds: Clock) -> Plan:
    """What becomes of the moments from ``first`` to ``now``. One moment of a job is worked on at a time."""
    most = bounds.missed_rows + bounds.catch_up
    newest_first = takewhile(lambda moment: moment >= first, of.back(now))
    due = list(islice(newest_first, most))[::-1]
    if not due:
        return Plan(None, (), of.after(now))
    forgotten = due[0] > first
    if missed is Missed.ALL:
        at = max(0, len(due) - bounds.catch_up)
        return Plan(due[at], tuple(due[:at]), of.after(due[at]), forgotten)
    keeps = missed is Missed.LATEST or now - due[-1] <= timedelta(seconds=bounds.punctual_s)
    run = due.pop() if keeps else None
    return Plan(run, tuple(due), of.after(now), forgotten)
