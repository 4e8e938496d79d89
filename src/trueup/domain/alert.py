"""Alerts: rules, their instances, transitions, groups and silences.

The words are Prometheus' and Alertmanager's. An instance is named by its labels; a label whose value is empty is
the same as no label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from trueup.domain.job import Missed

ALERTNAME = "alertname"
NO_DATA = "NoData"  # the name of alerts about an expected instance that gives no row
RULE_BROKEN = "RuleBroken"  # the name of alerts about a rule that cannot be evaluated

Labels = Mapping[str, str]


class State(StrEnum):
    """Where an instance stands."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"


class Severity(StrEnum):
    """How bad it is; ordered from worst to least."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class NoData(StrEnum):
    """What an expected instance without a row means."""

    OK = "ok"  # as if its condition did not hold
    KEEP = "keep"  # nothing: it stays as it is
    ALERT = "alert"  # it stays as it is, and an alert of its own is raised


class RuleState(StrEnum):
    """How a rule is."""

    ACTIVE = "active"
    QUARANTINED = "quarantined"  # it could not be read or evaluated the last time; ``reason`` says why
    RETIRED = "retired"  # its file is gone


def fingerprint(labels: Labels) -> str:
    """The identity of a set of labels: BLAKE2b-128 (hex) of its sorted pairs as JSON, without empty values."""
    pairs = sorted((name, value) for name, value in labels.items() if value)
    return hashlib.blake2b(json.dumps(pairs, ensure_ascii=False).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a condition must hold before it fires, and how long it keeps firing after it ended."""

    hold: timedelta = timedelta()  # `for`
    keep_firing: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Escalation:
    """Who is told too when nobody has acknowledged for so long."""

    after: timedelta
    receivers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One rule: when it is evaluated, what names an instance, who is told. Its SELECT is not part of it."""

    name: str
    owner: str
    severity: Severity
    schedule: str
    timing: Timing = Timing()
    labels: Labels = field(default_factory=dict)
    label_columns: tuple[str, ...] | None = None  # None: all columns of text but value and messages
    no_data: NoData = NoData.OK
    expected: tuple[Labels, ...] = ()
    expects_by_query: bool = False
    summary: str = ""
    description: str = ""
    runbook: str = ""
    group_by: tuple[str, ...] = (ALERTNAME,)
    receivers: tuple[str, ...] = ()
    mute: tuple[str, ...] = ()
    escalation: Escalation | None = None
    missed: Missed = Missed.LATEST

    @property
    def own_labels(self) -> dict[str, str]:
        """What every instance of it is labelled with, beside what its row says."""
        return {**self.labels, ALERTNAME: self.name, "severity": str(self.severity)}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a rule's SELECT. ``is_active``: its condition holds; otherwise it only proves that there is data."""

    labels: Labels
    value: float | None = None
    annotations: Labels = field(default_factory=dict)
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class Alert:
    """One instance of a rule."""

    rule: str
    labels: Labels
    state: State
    active_at: datetime
    value: float | None = None
    annotations: Labels = field(default_factory=dict)
    fired_at: datetime | None = None
    keep_firing_since: datetime | None = None
    resolved_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    assigned_to: str | None = None
    escalate_at: datetime | None = None  # null: never, or done

    @property
    def fingerprint(self) -> str:
        """Its identity."""
        return fingerprint(self.labels)

    @property
    def is_firing(self) -> bool:
        """Whether somebody is to know of it."""
        return self.state is State.FIRING


@dataclass(frozen=True, slots=True)
class Transition:
    """An instance went from one state to another."""

    labels: Labels
    before: State
    after: State
    at: datetime
    value: float | None
    reason: str

    @property
    def fingerprint(self) -> str:
        """Of which instance."""
        return fingerprint(self.labels)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """That a rule was evaluated for the moment ``due``."""

    rule: str
    due: datetime
    started_at: datetime
    duration_ms: int
    rows: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RuleRecord:
    """What is remembered of a rule. ``evaluated_due``: the latest moment it was evaluated for, with or without rows."""

    name: str
    digest: str = ""
    front: Mapping[str, Any] = field(default_factory=dict)
    state: RuleState = RuleState.ACTIVE
    reason: str | None = None
    evaluated_due: datetime | None = None


class Comparison(StrEnum):
    """How a matcher compares."""

    EQUAL = "="
    NOT_EQUAL = "!="
    MATCHES = "=~"
    NOT_MATCHES = "!~"


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label; a label that is not there is an empty value. See ``alerts/matching.py``."""

    label: str
    comparison: Comparison
    value: str

    def __str__(self) -> str:
        return f"{self.label}{self.comparison}{json.dumps(self.value, ensure_ascii=False)}"


@dataclass(frozen=True, slots=True)
class Silence:
    """Alerts that all matchers match are not told of between ``starts_at`` (included) and ``ends_at``."""

    matchers: tuple[Matcher, ...]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str
    silence_id: int | None = None


@dataclass(frozen=True, slots=True)
class Inhibition:
    """While an alert of ``source`` fires, those of ``target`` with the same values of ``equal`` are not told of."""

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MuteTime:
    """Moments at which nobody is told; all that is given must hold.

    ``weekdays``: 0 is Monday. ``minutes``: of the local day, first included, last not. ``business_days``: True on
    business days of ``calendar`` only, False on closed days only, None on both.
    """

    name: str
    zone: str = "UTC"
    weekdays: frozenset[int] | None = None
    minutes: tuple[tuple[int, int], ...] = ()
    calendar: str = "weekdays"
    business_days: bool | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a group tells."""

    wait: timedelta = timedelta(seconds=30)
    interval: timedelta = timedelta(minutes=5)
    repeat: timedelta = timedelta(hours=4)


@dataclass(frozen=True, slots=True)
class Member:
    """An alert as a group holds it, until its end was told. ``ends_at`` null: it fires."""

    rule: str
    labels: Labels
    starts_at: datetime
    ends_at: datetime | None = None
    annotations: Labels = field(default_factory=dict)
    value: float | None = None
    mute: tuple[str, ...] = ()
    is_acknowledged: bool = False

    @property
    def fingerprint(self) -> str:
        """Its identity."""
        return fingerprint(self.labels)


@dataclass(frozen=True, slots=True)
class Group:
    """Alerts that are told of together, to one receiver. ``firing`` and ``resolved``: what was told the last time."""

    key: str
    receiver: str
    labels: Labels
    next_at: datetime | None  # null: nothing is to be told, only what was told is remembered
    has_looked: bool = False  # its first wait is over
    sequence: int = 0  # how often it has told
    told_at: datetime | None = None
    firing: frozenset[str] = frozenset()
    resolved: frozenset[str] = frozenset()
