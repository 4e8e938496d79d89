"""One evaluation, pure: what becomes of all instances of a rule by what its SELECT said, or by that it failed.

Three kinds of instances belong to a rule, told apart by their name: its own, those about an expected instance that
gave no row (`NoData`), and the one about itself (`RuleBroken`). A failed evaluation neither fires nor resolves the
first two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from trueup.alerts.observing import Observed
from trueup.alerts.states import Bounds, Stepped, resumed, step
from trueup.contracts.schedules import before as moment_before
from trueup.contracts.schedules import schedule
from trueup.domain.alert import ALERTNAME, NO_DATA, RULE_BROKEN, Alert, AlertRule, Row, Severity, Timing

_AT_ONCE = Timing()


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What is known for one moment. ``rule`` None: its file cannot be read; ``observed`` None: ``error`` is why."""

    name: str
    due: datetime
    rule: AlertRule | None
    observed: Observed | None
    error: str | None = None


def stepped(one: Evaluated, before: Mapping[str, Alert], last: datetime | None, bounds: Bounds) -> Stepped:
    """All instances after the evaluation. ``last``: the moment of the one before. Raises InvalidQuery where two rows
    have equal labels."""
    named: dict[str, dict[str, Alert]] = {NO_DATA: {}, RULE_BROKEN: {}, "": {}}
    for key, alert in before.items():
        kind = alert.labels[ALERTNAME]
        named[kind if kind in named else ""][key] = alert
    own, silent = named[""], named[NO_DATA]
    moved: list[Stepped] = [step(one.name, _AT_ONCE, named[RULE_BROKEN], _broken(one), one.due, bounds=bounds)]
    if one.rule is None or one.observed is None:
        moved.append(({**own, **silent}, []))
    else:
        timing = one.rule.timing
        if last is not None and last < moment_before(schedule(one.rule.schedule), one.due):
            own, silent = (resumed(kind, timing, last, one.due, bounds) for kind in (own, silent))
        seen, kept = one.observed, one.observed.kept
        moved.append(step(one.name, timing, own, seen.rows, one.due, bounds=bounds, kept=kept))
        moved.append(step(one.name, timing, silent, seen.silent, one.due, bounds=bounds))
    after = {key: _escalating(one.rule, alert, before.get(key)) for kind, _ in moved for key, alert in kind.items()}
    return after, [transition for _, transitions in moved for transition in transitions]


def retired(name: str, before: Mapping[str, Alert], now: datetime) -> Stepped:
    """All instances of a rule whose file is gone: at once what waits is dropped, and what fires has ended."""
    return step(name, _AT_ONCE, before, [], now, bounds=Bounds(retention=timedelta()))


def _broken(one: Evaluated) -> list[Row]:
    if one.error is None:
        return []
    labels = {ALERTNAME: RULE_BROKEN, "rule": one.name, "severity": str(Severity.WARNING)}
    said = {"summary": f"{one.name} cannot be evaluated", "description": one.error}
    return [Row(labels, None, said)]


def _escalating(rule: AlertRule | None, alert: Alert, before: Alert | None) -> Alert:
    """With its moment to escalate, if it has just begun to fire."""
    if not alert.is_firing:
        return replace(alert, escalate_at=None) if alert.escalate_at is not None else alert
    if rule is None or rule.escalation is None or alert.fired_at is None:
        return alert
    is_new = before is None or before.fired_at != alert.fired_at
    return replace(alert, escalate_at=alert.fired_at + rule.escalation.after) if is_new else alert
