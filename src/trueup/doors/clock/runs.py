"""What is known of jobs and of their due moments: ``ledger.clock_jobs`` and ``clock_runs``, written as the writer.

A run is planned in one transaction: its row, the rows of what was missed before it, its entry in the queue, and the
next moment. Ending it is another one, which counts only for the attempt that began last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from trueup.contracts.schedules import later_by, schedule
from trueup.domain.job import Job, Missed
from trueup.doors.clock import statements
from trueup.doors.clock.planning import Plan, plan
from trueup.doors.clock.queue import LOCK, enqueue, living, withdraw
from trueup.errors import Conflict, Fenced, InvalidInput, NotFound
from trueup.postgres import Connection, Pool
from trueup.settings import Clock
from trueup.telemetry import log

LATE_PERIODS = 3
Identity = tuple[str, str]  # name and subject of a job


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that this worker has begun for the ``attempt``-th time."""

    run_id: int
    name: str
    subject: str
    due: datetime
    attempt: int


class Runs:
    """Jobs and runs, as workers and `trueup jobs` write them. All raise LedgerUnavailable."""

    def __init__(self, writer: Pool, bounds: Clock, clock: Callable[[], datetime], worker: str) -> None:
        self._writer = writer
        self._bounds = bounds
        self._clock = clock
        self._worker = worker

    def declare(self, jobs: Sequence[Job], changed: Collection[Identity], *, holds_s: float, retires: bool) -> None:
        """Says for ``holds_s`` which jobs there are, and the schedules of those that are ``changed`` or had retired.

        A new or changed schedule begins now. With ``retires`` jobs retire of which nobody has said so for too long.
        A schedule that cannot be read is logged and shown (``unreadable``); the other jobs go on.
        """
        now = self._clock()
        known = {(j.name, j.subject) for j in jobs} - set(changed)
        with self._writer.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK + 1,))  # workers take turns
            renewed = connection.execute(statements.RENEW, {"holds_s": holds_s, **_columns(known)}).fetchall()
            said = [j for j in jobs if (j.name, j.subject) not in {(str(n), str(s)) for n, s in renewed}]
            rows = sorted((j.name, j.subject, j.schedule, str(j.missed), *_first(j, now), holds_s) for j in said)
            connection.cursor().executemany(statements.DECLARE, rows)
            if retires:
                connection.execute(statements.RETIRE, (now,))
                self._close(connection, now)

    def _close(self, connection: Connection, now: datetime) -> None:
        """Ends what waits for a worker that will never come, and touches nothing that is at work."""
        rows = connection.execute(statements.OPEN_OF_RETIRED).fetchall()
        gone = [run_id for run_id, entry in rows if entry is None or withdraw(connection, entry)]
        connection.execute(statements.NO_LONGER, {"runs": gone, "now": now})

    def plan(self, known: Collection[Identity], now: datetime) -> int:
        """Queues the runs that are due by ``now`` of jobs that have none open; returns how many."""
        with self._writer.transaction() as connection:
            asked = {"now": now, "most": self._bounds.planned_at_once, **_columns(known)}
            found = connection.execute(statements.DUE, asked).fetchall()
            plans = {
                (name, subject): plan(schedule(text), Missed(missed), first, now, self._bounds)
                for name, subject, text, missed, first in found
            }
            return self._write(connection, plans, now) if plans else 0

    def _write(self, connection: Connection, plans: dict[Identity, Plan], now: datetime) -> int:
        wanted = [(*job, p.run) for job, p in plans.items() if p.run is not None]
        added = _added(connection, wanted, None)
        for job, p in plans.items():
            if p.run is not None and job not in added and connection.execute(statements.IS_OPEN, job).fetchone():
                continue  # another worker has just planned it; without an open run it has ended before
            if p.forgotten:
                log("clock").warning("missed_beyond_bound", job=job[0], subject=job[1])
            if p.missed:
                connection.cursor().executemany(statements.MISSED, [(*job, due, now) for due in p.missed])
            connection.execute(statements.MOVE, (p.next_due, *job))
        return len(added)

    def ask(self, name: str, subject: str, by: str) -> int:
        """Queues a run that is due now; returns its id. Raises NotFound, Conflict while one is open."""
        with self._writer.transaction() as connection:
            known = connection.execute(
                "SELECT 1 FROM ledger.clock_jobs WHERE name = %s AND subject = %s AND retired_at IS NULL",
                (name, subject),
            ).fetchone()
            if known is None:
                raise NotFound("no such job", next_step="`trueup jobs list` lists what there is")
            added = _added(connection, [(name, subject, self._clock())], by)
            if not added:
                raise Conflict("a run of this job is open", next_step="`trueup jobs history` tells how it ended")
            connection.execute(
                "INSERT INTO ledger.audit (actor, action, subject, detail)"
                " VALUES (%s, 'job.run', %s, jsonb_build_object('job', %s::text, 'subject', %s::text))",
                (by, f"{name}/{subject}", name, subject),
            )
            return added[name, subject]

    def begin(self, run_id: int) -> Begun | None:
        """Begins a run; None where it has ended already."""
        with self._writer.transaction() as connection:
            row = connection.execute(statements.BEGIN, (self._clock(), self._worker, run_id)).fetchone()
        return None if row is None else Begun(run_id, *row)

    def end(self, begun: Begun, took_s: float, *, said: str | None = None, error: str | None = None) -> None:
        """Records how it ended. Raises Fenced where another worker has begun it since: then nothing is recorded."""
        now = self._clock()
        outcome = "ok" if error is None else "failed"
        with self._writer.transaction() as connection:
            ended = connection.execute(statements.END, (outcome, now, took_s, said, error, begun.run_id, begun.attempt))
            _counts(ended.rowcount)
            row = connection.execute(
                "SELECT schedule FROM ledger.clock_jobs WHERE name = %s AND subject = %s", (begun.name, begun.subject)
            ).fetchone()
            late = None if row is None else _late(str(row[0]), begun.due)
            if late is not None:
                connection.execute(statements.LATER, (late, begun.name, begun.subject))

    def pause(self, begun: Begun, error: str) -> None:
        """Puts it back to be tried again. Raises Fenced as ``end`` does."""
        with self._writer.transaction() as connection:
            paused = connection.execute(statements.PAUSE, (error, begun.run_id, begun.attempt))
            _counts(paused.rowcount)

    def overran(self, run_id: int) -> None:
        """Records that it runs for longer than is allowed."""
        with self._writer.transaction() as connection:
            connection.execute(
                "UPDATE ledger.clock_runs SET overran = %s WHERE run_id = %s AND outcome = 'running' AND worker = %s",
                (self._clock(), run_id, self._worker),
            )

    def restore(self) -> int:
        """Queues open runs anew that the queue does not know, as after it was made anew; returns how many."""
        before = self._clock() - timedelta(seconds=self._bounds.stale_s)
        with self._writer.transaction() as connection:
            rows = connection.execute(statements.OPEN_SINCE, (before, self._bounds.planned_at_once)).fetchall()
            alive = living(connection, [entry for *_, entry in rows if entry is not None])
            lost = [(int(run), str(n), str(s)) for run, n, s, entry in rows if entry not in alive]
            _enter(connection, lost)
        return len(lost)

    def is_idle(self, known: Collection[Identity], until: datetime) -> bool:
        """Whether nothing that was due by ``until`` waits for a worker."""
        with self._writer.connection() as connection:
            row = connection.execute(statements.WAITING, {"now": until, **_columns(known)}).fetchone()
        return row is not None and not row[0]


def _counts(rows: int) -> None:
    if rows == 0:
        raise Fenced("another worker has taken it up")


def _first(job: Job, now: datetime) -> tuple[datetime | None, datetime | None]:
    """When it is due first, and when it is late."""
    try:
        found = schedule(job.schedule)
    except InvalidInput as error:
        log("clock").error("unreadable_schedule", job=job.name, subject=job.subject, because=error.message)
        return None, None
    return found.after(now), later_by(found, now, LATE_PERIODS)


def _late(text: str, due: datetime) -> datetime | None:
    try:
        return later_by(schedule(text), due, LATE_PERIODS)
    except InvalidInput:
        return None


def _columns(jobs: Collection[Identity]) -> dict[str, list[str]]:
    return {"names": [name for name, _ in jobs], "subjects": [subject for _, subject in jobs]}


def _added(connection: Connection, wanted: Sequence[tuple[str, str, datetime]], by: str | None) -> dict[Identity, int]:
    """Rows and queue entries of new runs, by job; those of which one is open, or that are there, are left out."""
    columns = {**_columns([(n, s) for n, s, _ in wanted]), "due": [due for *_, due in wanted], "by": by}
    rows = connection.execute(statements.ADD, columns).fetchall()
    _enter(connection, [(int(run), str(n), str(s)) for run, n, s in rows])
    return {(name, subject): run_id for run_id, name, subject in rows}


def _enter(connection: Connection, runs: Sequence[tuple[int, str, str]]) -> None:
    entries = enqueue(connection, runs)
    connection.cursor().executemany(
        "UPDATE ledger.clock_runs SET queue_entry = %s WHERE run_id = %s", [(e, run) for run, e in entries.items()]
    )
