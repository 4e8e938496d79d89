"""Measuring as scheduled work."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial

from trueup.domain.job import Job, Missed
from trueup.domain.monitoring import KnownBy
from trueup.errors import TrueupError
from trueup.monitoring.service import Measured, Measuring
from trueup.ports import ModelRegistry
from trueup.settings import Monitoring


def monitor_jobs(registry: ModelRegistry, measuring: Measuring, settings: Monitoring) -> Iterator[Job]:
    """One for each deployment that says how it is measured. A run for a moment gone by is worth as much as the last."""
    for deployment in registry.deployments():
        if deployment.serving.monitoring is not None:
            yield Job(
                "monitor", deployment.name, settings.schedule, partial(_run, measuring, deployment.name), Missed.LATEST
            )


def _run(measuring: Measuring, name: str, due: datetime) -> str:
    """What was done with the knowledge of the moment that was due. Raises TrueupError where a window failed."""
    done = measuring.measure(name, due, KnownBy.RECORDED)
    if done.failed:
        raise TrueupError(f"{len(done.failed)} windows could not be measured: {done.failed[0]}")
    return told(done)


def told(done: Measured) -> str:
    """What measuring did, in a line."""
    parts = [f"{done.counted} rows counted", f"{done.windows} windows measured", f"{done.measurements} figures added"]
    if done.left:
        parts.append(f"{done.left} windows left to the next run")
    if done.without_reference:
        parts.append(f"no reference yet for {', '.join(done.without_reference)}")
    return ", ".join(parts)
