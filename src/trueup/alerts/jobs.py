"""The scheduled work of alerts: each rule at its moments, the looks at groups, and tidying."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from trueup.alerts.engine import AlertEngine
from trueup.domain.job import Job, Missed
from trueup.errors import NotFound
from trueup.settings import Alerting

BROKEN_SCHEDULE = "every 1m"  # of a rule whose own cannot be read


def jobs(engine: AlertEngine, settings: Alerting) -> list[Job]:
    """A job of each rule, also of one that cannot be read: it says so, and works again when it is mended.

    Raises InvalidFile where a folder is none.
    """
    rules = engine.folders.read()
    found = [Job("alert", n, r.rule.schedule, _evaluating(engine, n), r.rule.missed) for n, r in rules.readable.items()]
    found += [Job("alert", name, BROKEN_SCHEDULE, _evaluating(engine, name)) for name in rules.broken]
    look = Job("alert-groups", "", f"every {settings.look_s}s", engine.look, Missed.LATEST)
    tidy = Job("alert-upkeep", "", "every 1h", partial(_tidied, engine), Missed.LATEST)
    return [*sorted(found, key=lambda job: job.subject), look, tidy]


def _evaluating(engine: AlertEngine, name: str) -> Callable[[datetime], str]:
    def evaluate(due: datetime) -> str:
        try:
            return engine.evaluate(name, due)
        except NotFound:
            return "its file is gone"

    return evaluate


def _tidied(engine: AlertEngine, due: datetime) -> str:
    return f"{engine.retire(due)} rules retired; {engine.tidy(due)}"
