"""How scheduled work is run."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Clock(BaseModel):
    """How scheduled work is run."""

    concurrency: int = Field(4, ge=1, le=64, description="jobs that one worker runs at once, each in a thread")
    poll_s: float = Field(0.5, gt=0, le=60, description="seconds between two looks for work that is due")
    gather_s: float = Field(60.0, gt=0, le=86_400, description="seconds between two looks at which jobs there are")
    planned_at_once: int = Field(500, ge=1, le=10_000, description="jobs that are planned in one transaction")
    job_timeout_s: float = Field(3_600.0, gt=0, description="seconds after which a run is recorded as too long")
    attempts: int = Field(5, ge=1, le=100, description="times one run is begun, after deaths and passing faults")
    retry_s: float = Field(2.0, gt=0, description="first wait after a fault that may pass; doubled each time")
    retry_most_s: float = Field(300.0, gt=0, description="longest wait of a run after a fault that may pass")
    beat_s: float = Field(5.0, gt=0, description="seconds between two heartbeats of a worker")
    stale_s: float = Field(30.0, gt=0, description="seconds without heartbeat after which a worker's runs are taken up")
    punctual_s: float = Field(60.0, ge=0, description="seconds after which a moment that is not caught up is missed")
    catch_up: int = Field(100, ge=1, le=10_000, description="missed moments of one job that are caught up of `all`")
    missed_rows: int = Field(1_000, ge=1, le=100_000, description="missed moments of one job recorded at once")
    keep_days: int = Field(400, ge=1, description="days that the history of runs is kept")
    drain_s: float = Field(20.0, ge=0, description="seconds that a stopping worker waits for what it runs")
    port: int | None = Field(None, ge=0, le=65_535, description="port of a worker's health and metrics; unset: none")
    metric_jobs: int = Field(1_000, ge=1, description="jobs with metrics of their own; further ones have none")
