"""The queue of runs that wait for a worker: procrastinate's tables and functions, in a schema `clock` of their own.

Of procrastinate this takes the queue (entries, locks, fetching, heartbeats, stalled entries, later attempts), not its
worker, which ends at the first fault of its database, and not its periodic tasks, which are declared at import. The
queue holds nothing that ``ledger.clock_runs`` does not say: it is made anew when procrastinate's schema changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.schema import SchemaManager

from trueup.errors import Conflict, Fenced, LedgerUnavailable
from trueup.postgres import Connection

LOCK = 7_238_150  # any number, the same in every trueup: guards making and taking up
TASK = "trueup.clock.run"
CONNECTIONS = 3
ANSWER_S = 5.0  # how long a connection is waited for


@dataclass(frozen=True, slots=True)
class Entry:
    """A run that was taken from the queue."""

    entry_id: int
    run_id: int


def queue_of(name: str, subject: str) -> str:
    """The queue of one job's runs. Each has its own, so that a worker takes only what it knows."""
    return hashlib.sha256(f"{name}\0{subject}".encode()).hexdigest()[:32]


def prepare(owner_url: str, stale_s: float) -> bool:
    """Makes the queue where there is none, or where procrastinate's schema is another; returns whether it did.

    Raises LedgerUnavailable, and Conflict while workers of the other version still work.
    """
    schema = SchemaManager.get_schema()
    stamp = f"procrastinate {version('procrastinate')} {hashlib.sha256(schema.encode()).hexdigest()[:16]}"
    try:
        with psycopg.connect(owner_url, connect_timeout=10) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            found = _stamp_of(connection)
            if found.rpartition(" ")[2] == stamp.rpartition(" ")[2]:
                return False
            if found and _is_alive(connection, stale_s):
                raise Conflict(
                    "workers with another version of the queue are at work",
                    next_step="stop every `trueup work`, then start this one",
                )
            connection.execute("DROP SCHEMA IF EXISTS clock CASCADE")
            connection.execute("CREATE SCHEMA clock")
            connection.execute("SET LOCAL search_path TO clock")
            connection.execute(schema)
            connection.execute(_GRANTS)
            connection.execute(psycopg.sql.SQL("COMMENT ON SCHEMA clock IS {}").format(stamp))
            return True
    except psycopg.OperationalError:
        raise LedgerUnavailable("the ledger's database does not answer") from None


_GRANTS = """
    GRANT USAGE ON SCHEMA clock TO trueup_writer;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA clock TO trueup_writer;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA clock TO trueup_writer;
"""


def _stamp_of(connection: psycopg.Connection[Any]) -> str:
    row = connection.execute(
        "SELECT coalesce(obj_description(oid, 'pg_namespace'), 'unknown') FROM pg_namespace WHERE nspname = 'clock'"
    ).fetchone()
    return str(row[0]) if row else ""


def _is_alive(connection: psycopg.Connection[Any], stale_s: float) -> bool:
    """Whether a worker of the queue that is there has been heard of lately."""
    if connection.execute("SELECT to_regclass('clock.procrastinate_workers')").fetchone() == (None,):
        return False
    row = connection.execute(
        "SELECT count(*) FROM clock.procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s)",
        (stale_s,),
    ).fetchone()
    return row is not None and row[0] > 0


_within = JobManager(SyncPsycopgConnector())  # works on connections that it is given, and opens none


def enqueue(connection: Connection, runs: Sequence[tuple[int, str, str]]) -> dict[int, int]:
    """Adds runs (id, name and subject of the job) in the connection's transaction; returns the entry of each."""
    if not runs:
        return {}
    connection.execute("SET LOCAL search_path TO clock")
    added = _within.batch_defer_jobs([_job(*run) for run in runs], connection)
    rows = connection.execute(
        "SELECT (args ->> 'run_id')::bigint, id FROM procrastinate_jobs WHERE id = ANY (%s)", ([j.id for j in added],)
    )
    return {int(run_id): int(entry) for run_id, entry in rows.fetchall()}


def withdraw(connection: Connection, entry_id: int) -> bool:
    """Takes an entry back, in the connection's transaction; whether it was still waiting."""
    connection.execute("SET LOCAL search_path TO clock")
    return _within.cancel_job_by_id(entry_id, delete_job=True, connection=connection)


def living(connection: Connection, entries: Collection[int]) -> set[int]:
    """Which of the entries are in the queue, waiting or taken."""
    rows = connection.execute(
        "SELECT id FROM clock.procrastinate_jobs WHERE id = ANY (%s) AND status IN ('todo', 'doing')", (list(entries),)
    )
    return {int(row[0]) for row in rows.fetchall()}


def _job(run_id: int, name: str, subject: str) -> Job:
    queue = queue_of(name, subject)
    return Job(
        id=None, queue=queue, lock=queue, queueing_lock=None, task_name=TASK, priority=0, task_kwargs={"run_id": run_id}
    )


class Queue:
    """The queue as a worker uses it. All raise LedgerUnavailable."""

    def __init__(self, url: str) -> None:
        self._connector = PsycopgConnector(
            conninfo=url,
            min_size=0,
            max_size=CONNECTIONS,
            timeout=ANSWER_S,
            kwargs={
                "autocommit": True,
                "connect_timeout": 2,
                "application_name": "trueup-clock",
                "tcp_user_timeout": 10_000,
            },
            configure=_in_schema,
        )
        self._manager = App(connector=self._connector).job_manager

    async def open(self) -> None:
        """Opens its connections."""
        async with _translated():
            await self._connector.open_async()

    async def close(self) -> None:
        """Closes them."""
        async with _translated():
            await self._connector.close_async()

    async def register(self) -> int:
        """The number of a worker that has just begun."""
        async with _translated():
            return await self._manager.register_worker()

    async def beat(self, worker: int) -> None:
        """Says that the worker lives."""
        async with _translated():
            await self._manager.update_heartbeat(worker)

    async def leave(self, worker: int) -> None:
        """Forgets a worker that holds nothing any more."""
        async with _translated():
            await self._manager.unregister_worker(worker)

    async def take(self, queues: Collection[str], worker: int) -> Entry | None:
        """The next run that may begin. Raises Fenced where the worker was given up for dead: it registers anew."""
        async with _translated():
            job = await self._manager.fetch_job(list(queues), worker)
        return None if job is None else _entry(job)

    async def done(self, entry_id: int) -> None:
        """Forgets a run that has ended. Raises Fenced where another worker has taken it up."""
        async with _translated():
            await self._manager.finish_job_by_id_async(entry_id, Status.SUCCEEDED, delete_job=True)

    async def again(self, entry_id: int, at: datetime) -> None:
        """Puts a run back until ``at``. Raises Fenced."""
        async with _translated():
            await self._manager.retry_job_by_id_async(entry_id, at)

    async def put_back_lost(self, worker: int, held: Collection[int]) -> None:
        """Puts back what was given to ``worker`` in an answer that it never got: all that it does not hold."""
        async with _translated():
            given = await self._manager.list_jobs_async(status=Status.DOING.value, worker_id=worker)
        for job in given:
            if job.id is not None and job.id not in held:
                await self.again(job.id, datetime.now(UTC))

    async def take_up(self, stale_s: float) -> int:
        """Puts back the runs of workers that were not heard of for ``stale_s``; returns how many.

        One worker at a time does so: else the second could put back what a third has just taken.
        """
        async with _translated(), self._connector.pool.connection() as connection, connection.transaction():
            cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (LOCK,))
            if await cursor.fetchone() != (True,):
                return 0
            stalled = list(await self._manager.get_stalled_jobs(seconds_since_heartbeat=stale_s))
            for job in stalled:
                await self._manager.retry_job(job, datetime.now(UTC))
            await self._manager.prune_stalled_workers(2 * stale_s)
            return len(stalled)


async def _in_schema(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.execute("SET search_path TO clock")


def _entry(job: Job) -> Entry:
    assert job.id is not None
    run_id = job.task_kwargs["run_id"]
    assert isinstance(run_id, int)
    return Entry(job.id, run_id)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Turns procrastinate's errors into the core's."""
    try:
        yield
    except (ConnectorException, psycopg.Error) as error:
        cause = error.__cause__ if isinstance(error, ConnectorException) else error
        if isinstance(cause, (psycopg.errors.RaiseException, psycopg.errors.ForeignKeyViolation)):
            raise Fenced("another worker has taken it up") from None
        if isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError)):
            raise LedgerUnavailable("the ledger's database does not answer") from None
        raise
