"""The state machine of alert instances: Prometheus' (`rules/alerting.go`, `rules/group.go` of 3.x), pure.

An instance whose row appears is pending, and firing once it has been active for ``hold``. A pending one that ends is
dropped. A firing one that ends keeps firing for ``keep_firing``, counted from the first evaluation that missed it,
then is resolved and kept for ``retention``. One that is firing although it has not been active for ``hold`` (the
rule was changed) is pending again.

Differences, both because state here survives a restart: an instance that fires still fires after an outage, and only
pending ones have their clock set (:func:`resumed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from trueup.domain.alert import Alert, Row, State, Timing, Transition, fingerprint
from trueup.errors import InvalidQuery


@dataclass(frozen=True, slots=True)
class Bounds:
    """``retention``: how long a resolved instance is remembered. After an outage shorter than ``tolerance`` the clocks
    of rules that hold for ``grace`` or longer go on, and none ends within ``grace``."""

    retention: timedelta = timedelta(minutes=15)
    tolerance: timedelta = timedelta(hours=1)
    grace: timedelta = timedelta(minutes=10)


Instances = Mapping[str, Alert]
Stepped = tuple[dict[str, Alert], list[Transition]]


def step(
    rule: str,
    timing: Timing,
    instances: Instances,
    rows: Sequence[Row],
    now: datetime,
    *,
    bounds: Bounds | None = None,
    kept: frozenset[str] = frozenset(),
) -> Stepped:
    """Instances by fingerprint after an evaluation at ``now``, and how they got there.

    ``kept`` are fingerprints of instances of which nothing is known: they stay as they are. Raises InvalidQuery when
    two rows have equal labels; then nothing has changed.
    """
    bounds = bounds or Bounds()
    active = _active(rows)
    after: dict[str, Alert] = {}
    transitions: list[Transition] = []
    for key in [*instances, *(key for key in active if key not in instances)]:
        before = instances.get(key)
        if key in kept and before is not None:
            after[key] = before
            continue
        alert, reason = _moved(rule, timing, before, active.get(key), now, bounds)
        transitions += _told(before, alert, reason, now)
        if alert is not None:
            after[key] = alert
    return after, transitions


def resumed(
    instances: Instances, timing: Timing, down_at: datetime, now: datetime, bounds: Bounds | None = None
) -> dict[str, Alert]:
    """Instances whose clocks take account of an outage: no evaluation since ``down_at``, the next one is at ``now``.

    The time away does not count towards ``hold``, and an instance that would fire within ``grace`` fires after it.
    """
    bounds = bounds or Bounds()
    return {
        key: replace(alert, active_at=_resumed_at(alert.active_at, timing.hold, down_at, now, bounds))
        if alert.state is State.PENDING
        else alert
        for key, alert in instances.items()
    }


def _resumed_at(active_at: datetime, hold: timedelta, down_at: datetime, now: datetime, bounds: Bounds) -> datetime:
    if hold < bounds.grace or now - down_at > bounds.tolerance:
        return now
    remaining = hold - (down_at - active_at)
    if remaining <= timedelta():
        return active_at
    if remaining < bounds.grace:
        return now + bounds.grace - hold
    return active_at + (now - down_at)


def _active(rows: Sequence[Row]) -> dict[str, Row]:
    """Rows whose condition holds, by fingerprint. Raises InvalidQuery."""
    seen: dict[str, Row] = {}
    for row in rows:
        key = fingerprint(row.labels)
        if key in seen:
            raise InvalidQuery(
                "two rows have equal labels", next_step="name the columns that tell them apart in label_columns"
            )
        seen[key] = row
    return {key: row for key, row in seen.items() if row.is_active}


def _moved(
    rule: str, timing: Timing, before: Alert | None, row: Row | None, now: datetime, bounds: Bounds
) -> tuple[Alert | None, str]:
    """The instance after this evaluation (None: dropped), and why it is where it is."""
    if row is None:
        assert before is not None
        alert, reason = _missed(before, timing, now, bounds)
        return (alert, reason) if alert is None or alert.state is State.INACTIVE else _held(alert, timing, now, reason)
    if before is None or before.state is State.INACTIVE:
        alert = Alert(rule, dict(row.labels), State.PENDING, now, row.value, dict(row.annotations))
        return _held(alert, timing, now, "its condition holds")
    alert = replace(before, value=row.value, annotations=dict(row.annotations), keep_firing_since=None)
    return _held(alert, timing, now, "")


def _missed(before: Alert, timing: Timing, now: datetime, bounds: Bounds) -> tuple[Alert | None, str]:
    """An instance without a row."""
    if before.state is State.PENDING:
        return None, "its condition ended before `for`"
    if before.state is State.INACTIVE:
        assert before.resolved_at is not None
        return (None if now - before.resolved_at > bounds.retention else before), ""
    since = before.keep_firing_since or now
    if timing.keep_firing > timedelta() and now - since < timing.keep_firing:
        return replace(before, keep_firing_since=since), ""
    return replace(before, state=State.INACTIVE, resolved_at=now, keep_firing_since=None), "its condition ended"


def _held(alert: Alert, timing: Timing, now: datetime, reason: str) -> tuple[Alert, str]:
    """Pending or firing, by how long it has been active."""
    is_long = now - alert.active_at >= timing.hold
    if alert.state is State.PENDING and is_long:
        return replace(alert, state=State.FIRING, fired_at=now), "its condition has held for `for`"
    if alert.state is State.FIRING and not is_long:
        return replace(alert, state=State.PENDING, fired_at=None, keep_firing_since=None), "`for` was raised"
    return alert, reason


def _told(before: Alert | None, after: Alert | None, reason: str, now: datetime) -> list[Transition]:
    """The transition, if there is one. What starts and fires at once is one transition."""
    was = State.INACTIVE if before is None else before.state
    now_is = State.INACTIVE if after is None else after.state
    known = after or before
    assert known is not None
    return [] if was is now_is else [Transition(known.labels, was, now_is, now, known.value, reason)]
