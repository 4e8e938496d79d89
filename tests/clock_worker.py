"""A worker of the clock with jobs of a test's own, as a program: ``clock_worker.py DATABASE_URL DATA_DIR JOBS.json``.

Each job notes in ``public.worked`` when it began and ended, in the process of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from trueup.domain.job import Job, Missed
from trueup.errors import InvalidQuery, LedgerUnavailable

TABLE = """
    CREATE TABLE IF NOT EXISTS public.worked (
        name text, subject text, due timestamptz, pid int,
        began timestamptz DEFAULT clock_timestamp(), ended timestamptz
    )
"""


def noting(url: str, name: str, subject: str, ending: str, seconds: float) -> Callable[[datetime], str]:
    """What a job does: notes, waits, notes, and ends as ``ending`` says."""

    def run(due: datetime) -> str:
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(
                "INSERT INTO public.worked (name, subject, due, pid) VALUES (%s, %s, %s, %s) RETURNING ctid::text",
                (name, subject, due, os.getpid()),
            ).fetchone()
        if ending == "dies":
            os.kill(os.getpid(), 9)
        time.sleep(seconds)
        assert row is not None
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE public.worked SET ended = clock_timestamp() WHERE ctid = %s::tid", (row[0],))
        if ending == "fails":
            raise InvalidQuery("the rule asks for too much")
        if ending == "unavailable":
            raise LedgerUnavailable("the ledger's database does not answer")
        if ending == "breaks":
            raise ValueError("account 4711")
        if ending == "exits":
            sys.exit(3)
        return f"done for {due:%H:%M:%S}"

    return run


def made(url: str, jobs: list[dict[str, Any]]) -> list[Job]:
    """Jobs as they are described."""
    return [
        Job(
            job["name"],
            job.get("subject", ""),
            job.get("schedule", "every 1m"),
            noting(url, job["name"], job.get("subject", ""), job.get("ending", "well"), job.get("seconds", 0.0)),
            Missed(job.get("missed", "latest")),
        )
        for job in jobs
    ]


if __name__ == "__main__":
    import trueup.bootstrap
    from trueup.doors.cli.server import main

    url, folder, described, *arguments = sys.argv[1:]
    os.environ |= {"TRUEUP_DATABASE_URL": url, "TRUEUP_DATA_DIR": folder}
    trueup.bootstrap.gathering = lambda services: lambda: made(url, json.loads(Path(described).read_text()))
    sys.argv = ["trueup", "work", *arguments]
    main()
