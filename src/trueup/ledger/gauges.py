"""What processes say of themselves, in PostgreSQL: reported in a thread of its own, forgotten after some days."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from psycopg.types.json import Jsonb

from trueup.domain.gauge import Gauge
from trueup.domain.job import Job
from trueup.errors import Unavailable
from trueup.ports import Gauges
from trueup.postgres import Pool
from trueup.settings import Limits

MOST = 10_000  # of one report; more would be labels out of bounds
_REPORT = "INSERT INTO ledger.gauges (name, labels, value) VALUES (%s, %s, %s)"


class PostgresGauges:
    """Reports through the writer role."""

    def __init__(self, writer: Pool) -> None:
        self._writer = writer

    def report(self, gauges: Sequence[Gauge]) -> None:
        """Adds them in one commit."""
        rows = [(gauge.name, Jsonb(dict(gauge.labels)), gauge.value) for gauge in gauges[:MOST]]
        if rows:
            with self._writer.transaction() as connection:
                connection.cursor().executemany(_REPORT, rows)

    def forget(self, before: datetime) -> int:
        """Removes older reports; returns how many."""
        with self._writer.transaction() as connection:
            row = connection.execute("SELECT ledger.forget_gauges(%s)", (before,)).fetchone()
        return 0 if row is None else int(row[0])


class Reporter:
    """Reports what ``seen`` says every so many seconds, until it is closed. What cannot be reported is left out."""

    def __init__(self, gauges: Gauges, every_s: float, seen: Callable[[], Sequence[Gauge]]) -> None:
        self._gauges = gauges
        self._every_s = every_s
        self._seen = seen
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trueup-gauges", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends; a report under way is waited for, not long."""
        self._stopping.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            with suppress(Unavailable):
                self._gauges.report(self._seen())


def jobs(gauges: PostgresGauges, limits: Limits) -> list[Job]:
    """The clock's part of it."""

    def forget(due: datetime) -> str:
        return f"{gauges.forget(due - timedelta(days=limits.gauges_kept_days))} reports forgotten"

    return [Job("upkeep", "gauges", "17 3 * * *", forget)]
