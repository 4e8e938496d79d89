"""Which jobs there are, gathered again and again while a worker works.

A declaration holds for ``GATHERINGS`` gatherings of the worker that made it, and whoever still sees the job renews it.
A worker says a job's schedule when it begins and when it sees it changed, else only that the job is still there: so a
worker whose view is older neither undoes what a newer one declared nor, by not seeing it, retires it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from trueup.domain.job import Job
from trueup.doors.clock.queue import queue_of
from trueup.doors.clock.runs import Identity, Runs
from trueup.errors import InvalidInput, NotFound, TrueupError
from trueup.telemetry import log

GATHERINGS = 3
Gather = Callable[[], Sequence[Job]]


class Gathering:
    """The jobs of one worker, or ``only`` those of some kinds, or of one subject of them. Read in any thread."""

    def __init__(self, gather: Gather, runs: Runs, every_s: float, only: Collection[str], subject: str | None) -> None:
        self._gather = gather
        self._runs = runs
        self._only = only
        self._subject = subject
        self._view: tuple[Mapping[Identity, Job], Sequence[str]] = {}, ()
        self.holds_s = GATHERINGS * every_s

    @property
    def jobs(self) -> Mapping[Identity, Job]:
        """As last gathered."""
        return self._view[0]

    @property
    def queues(self) -> Sequence[str]:
        """The queues of the jobs' runs."""
        return self._view[1]

    def begin(self) -> None:
        """Declares all jobs; what nobody has declared for long retires, unless this is a worker of ``only`` some.

        Raises InvalidInput, NotFound, InvalidFile, LedgerUnavailable.
        """
        found = self._gathered()
        if self._only and not found:
            raise NotFound("no job is of this kind", next_step="`trueup jobs list` lists what there is")
        self._declare(found, list(found), may_retire=True)

    def again(self, *, may_retire: bool) -> bool:
        """Declares what is new or changed, and renews the rest; returns whether anything is new, changed or gone.

        Where gathering fails, that is logged and the jobs stay as they are. Raises LedgerUnavailable.
        """
        before = self.jobs
        try:
            found = self._gathered()
        except TrueupError as error:
            log("clock").error("gathering_failed", error=type(error).__name__, because=error.message)
            found = dict(before)
        changed = [which for which, job in found.items() if which not in before or _differ(before[which], job)]
        self._declare(found, changed, may_retire=may_retire)
        gone = before.keys() - found.keys()
        if changed or gone:
            log("clock").info("jobs_changed", declared=len(changed), gone=len(gone))
        return bool(changed or gone)

    def _gathered(self) -> dict[Identity, Job]:
        jobs = self._gather()
        found = {(job.name, job.subject): job for job in jobs}
        if len(found) != len(jobs):
            raise InvalidInput("two jobs have the same name and subject")
        if not self._only:
            return found
        return {w: j for w, j in found.items() if j.name in self._only and self._subject in (None, j.subject)}

    def _declare(self, found: Mapping[Identity, Job], changed: Collection[Identity], *, may_retire: bool) -> None:
        retires = may_retire and not self._only
        self._runs.declare(list(found.values()), changed, holds_s=self.holds_s, retires=retires)
        self._view = found, sorted(queue_of(*which) for which in found)


def _differ(before: Job, now: Job) -> bool:
    return (before.schedule, before.missed) != (now.schedule, now.missed)
