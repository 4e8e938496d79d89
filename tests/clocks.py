"""Workers of the clock for tests: in threads, and as processes that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from clock_worker import TABLE, made
from trueup.bootstrap import wired
from trueup.domain.job import Job
from trueup.doors.clock.gathering import Gather
from trueup.doors.clock.opening import Opened, open_clock
from trueup.ledger.urls import Urls
from trueup.settings import Clock, Settings

QUICK = {"poll_s": 0.05, "beat_s": 0.2, "stale_s": 1.5, "retry_s": 0.05, "drain_s": 10.0}
TESTS = Path(__file__).parent


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Waits for it, and gives what it was."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)
    return found


@dataclass
class Field:
    """A database with jobs, and where they note what they did."""

    urls: Urls
    folder: Path
    described: list[dict[str, Any]] = field(default_factory=list)
    bounds: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.execute(TABLE)

    def execute(self, statement: str, *parameters: Any) -> list[Any]:
        """As the owner."""
        with psycopg.connect(self.urls.owner, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def runs(self, *outcomes: str) -> list[Any]:
        """Name, subject, due, attempts, said and error of runs, oldest first."""
        return self.execute(
            "SELECT name, subject, due, attempts, said, error FROM trueup.clock_runs WHERE outcome = ANY (%s)"
            " ORDER BY due, run_id",
            list(outcomes),
        )

    def fall_behind(self, by: timedelta) -> None:
        """As if nobody had worked for so long."""
        self.execute(
            "UPDATE ledger.clock_jobs SET next_due = next_due - %s", timedelta(minutes=by // timedelta(minutes=1))
        )

    @contextmanager
    def opened(self, jobs: list[Job] | Gather | None = None, **named: Any) -> Iterator[Opened]:
        """A worker that has not begun. It gathers what is ``described`` at that moment, unless given others."""
        settings = Settings(data_dir=self.folder / "data", clock=Clock(**(QUICK | self.bounds)))

        def gather() -> list[Job]:
            return made(self.urls.owner, self.described) if jobs is None else list(jobs() if callable(jobs) else jobs)

        with wired(settings, self.urls) as services:
            yield open_clock(services, gather, **named)

    def declare(self) -> None:
        """As a worker's start does."""
        with self.opened():
            pass

    def once(self, jobs: list[Job] | None = None, **named: Any) -> Opened:
        """Works until nothing is due."""
        with self.opened(jobs, **named) as opened:
            assert opened.server.run(once=True)
        return opened

    @contextmanager
    def working(self, workers: int) -> Iterator[list[Opened]]:
        """So many workers in threads, until the block is left."""
        with ExitStack() as stack:
            made = [stack.enter_context(self.opened()) for _ in range(workers)]
            with running(*made):
                yield made

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`trueup work` as a process, which is killed where it runs still."""
        path = self.folder / f"{os.urandom(4).hex()}.json"
        path.write_text(json.dumps(self.described))
        given = {f"TRUEUP_CLOCK__{name.upper()}": str(value) for name, value in (QUICK | self.bounds).items()}
        with (self.folder / "workers.log").open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, TESTS / "clock_worker.py", self.urls.owner, self.folder / "data", path, *arguments],
                env=os.environ | given,
                stdout=out,
                stderr=out,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)

    def overlaps(self) -> list[Any]:
        """Pairs of runs of one job that were at work at the same time."""
        return self.execute(
            "SELECT a.name, a.subject, a.due, b.due FROM worked a JOIN worked b USING (name, subject)"
            " WHERE a.ctid <> b.ctid AND a.began < b.ended AND b.began < a.ended"
        )


@contextmanager
def running(*workers: Opened) -> Iterator[None]:
    """Workers in threads, until the block is left."""
    threads = [threading.Thread(target=one.server.run, daemon=True) for one in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for one in workers:
            one.server.stop()
        for thread in threads:
            thread.join(30)


def stopped(process: subprocess.Popen[bytes], sig: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
    """Its exit code after a signal."""
    process.send_signal(sig)
    return process.wait(seconds)
