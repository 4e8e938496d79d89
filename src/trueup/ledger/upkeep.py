"""The ledger's own scheduled work: partitions made ahead, and the history of runs forgotten in time."""

from __future__ import annotations

from datetime import datetime, timedelta

from trueup.domain.job import Job, Missed
from trueup.postgres import Pool
from trueup.settings import Clock, Limits

FORGOTTEN_AT_ONCE = 10_000
FORGOTTEN_MOST = 100  # times a run of the job


class Upkeep:
    """What the writer may do about tables and history, by functions of their owner."""

    def __init__(self, writer: Pool, limits: Limits, clock: Clock) -> None:
        self._writer = writer
        self._ahead = limits.partitions_ahead_days
        self._keep = timedelta(days=clock.keep_days)

    def jobs(self) -> list[Job]:
        """Both at quiet moments; a missed one is caught up by the next."""
        return [
            Job("upkeep", "partitions", "7 * * * *", self.make_partitions, Missed.LATEST),
            Job("upkeep", "runs", "23 3 * * *", self.forget_runs, Missed.LATEST),
        ]

    def make_partitions(self, due: datetime) -> str:
        """Partitions of the day of ``due`` and of the days ahead. Raises LedgerUnavailable."""
        days = [(due + timedelta(days=n)).date() for n in range(self._ahead + 1)]
        with self._writer.transaction() as connection:
            row = connection.execute("SELECT ledger.ensure_partitions(%s::date[])", (days,)).fetchone()
        return f"{row[0] if row else 0} partitions made"

    def forget_runs(self, due: datetime) -> str:
        """Deletes runs that ended before the time that they are kept. Raises LedgerUnavailable."""
        forgotten = 0
        for _ in range(FORGOTTEN_MOST):
            with self._writer.transaction() as connection:
                row = connection.execute(
                    "SELECT ledger.forget_runs(%s, %s)", (due - self._keep, FORGOTTEN_AT_ONCE)
                ).fetchone()
            found = int(row[0]) if row else 0
            forgotten += found
            if found < FORGOTTEN_AT_ONCE:
                break
        return f"{forgotten} runs forgotten"
