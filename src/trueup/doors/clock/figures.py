"""A worker's metrics of the clock: the last run of each job, how far behind the oldest due one is, failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from trueup.doors.clock.handlers import Handlers
from trueup.doors.clock.server import ClockServer
from trueup.errors import TrueupError
from trueup.ports import Clock, QueryRunner

_JOBS = """
    SELECT name, subject, last_finished_at, last_outcome, last_duration_s, next_due, state, is_late FROM clock_jobs
    WHERE state <> 'retired' ORDER BY name, subject LIMIT %(most)s
"""
_OF_JOBS = {
    "last_run_timestamp_seconds": "When the last run ended",
    "last_run_ok": "Whether the last run ended well",
    "last_run_seconds": "How long the last run took",
    "late": "Whether it has not run for three of its periods",
}


class Figures(Collector):
    """Asks the ledger at every scrape; while it is away only what this worker counted is told."""

    def __init__(
        self, queries: QueryRunner, server: ClockServer, handlers: Handlers, clock: Clock, metric_jobs: int
    ) -> None:
        self._queries = queries
        self._server = server
        self._handlers = handlers
        self._clock = clock
        self._most = metric_jobs

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield self._ended()
        running = Metric("trueup_clock_running", "Runs that this worker is at work on", "gauge")
        running.add_sample(running.name, {}, self._server.running)
        yield running
        try:
            jobs = self._queries.rows(_JOBS, {"most": self._most})
        except TrueupError:
            return
        yield from self._of_jobs(jobs)
        lag = Metric("trueup_clock_lag_seconds", "How long the oldest job that is due has waited to be queued", "gauge")
        lag.add_sample(lag.name, {}, _lag_s(jobs, self._clock()))
        yield lag

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are checked by our own tests, not at registration."""
        return iter(())

    def _ended(self) -> Metric:
        metric = Metric("trueup_clock_runs", "Runs that this worker ended, or put back to be tried again", "counter")
        for (job, subject, outcome), count in sorted(dict(self._handlers.ended).items())[: 3 * self._most]:
            metric.add_sample(
                "trueup_clock_runs_total", {"job": job, "subject": subject, "outcome": outcome}, float(count)
            )
        return metric

    def _of_jobs(self, jobs: list[dict[str, Any]]) -> Iterator[Metric]:
        for name, about in _OF_JOBS.items():
            metric = Metric(f"trueup_clock_{name}", about, "gauge")
            for job in jobs:
                value = _value(name, job)
                if value is not None:
                    metric.add_sample(metric.name, {"job": job["name"], "subject": job["subject"]}, value)
            yield metric


def _value(name: str, job: Mapping[str, Any]) -> float | None:
    if name == "late":
        return float(job["is_late"])
    if job["last_finished_at"] is None:
        return None
    if name == "last_run_timestamp_seconds":
        return float(job["last_finished_at"].timestamp())
    return float(job["last_outcome"] == "ok") if name == "last_run_ok" else job["last_duration_s"]


def _lag_s(jobs: list[dict[str, Any]], now: datetime) -> float:
    due = [job["next_due"] for job in jobs if job["next_due"] is not None]
    return max(0.0, (now - min(due)).total_seconds()) if due else 0.0
