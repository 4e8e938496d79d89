"""Alerts in memory: the fake beside ``postgres.py``, and what back-tests run on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from trueup.alerts.store import AlertWork
from trueup.domain.alert import (
    Alert,
    Evaluation,
    Group,
    Labels,
    Member,
    RuleRecord,
    Silence,
    Transition,
)
from trueup.domain.message import Message
from trueup.errors import no_alert, no_silence


@dataclass
class _State:
    rules: dict[str, RuleRecord] = field(default_factory=dict)
    alerts: dict[str, Alert] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    transitions: list[tuple[str, Evaluation | None, Transition]] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)
    members: dict[tuple[str, str], Member] = field(default_factory=dict)
    silences: dict[int, Silence] = field(default_factory=dict)
    audit: list[tuple[str, str, str, dict[str, Any]]] = field(default_factory=list)
    messages: dict[str, Message] = field(default_factory=dict)


class MemoryAlerts:
    """Everything in dictionaries; one transaction at a time, undone by forgetting the copy it worked on."""

    def __init__(self) -> None:
        self.state = _State()
        self._lock = threading.Lock()

    @contextmanager
    def work(self) -> Iterator[AlertWork]:
        """One at a time."""
        with self._lock:
            made = _MemoryWork(deepcopy(self.state))
            yield made
            self.state = made.state

    def rules(self) -> dict[str, RuleRecord]:
        """By name."""
        return dict(self.state.rules)

    def forget_evaluations(self, before: datetime, most: int) -> int:
        """Those that moved nothing."""
        with self._lock:
            moved = [(e.rule, e.due) for _, e, _ in self.state.transitions if e is not None]
            old = [e for e in self.state.evaluations if e.due < before and (e.rule, e.due) not in moved][:most]
            self.state.evaluations = [e for e in self.state.evaluations if e not in old]
            return len(old)


class _MemoryWork:
    def __init__(self, state: _State) -> None:
        self.state = state

    def rule(self, name: str) -> RuleRecord:
        return self.state.rules.setdefault(name, RuleRecord(name))

    def put_rule(self, record: RuleRecord) -> None:
        self.state.rules[record.name] = record

    def alerts(self, rule: str) -> dict[str, Alert]:
        return {key: alert for key, alert in self.state.alerts.items() if alert.rule == rule}

    def put_alerts(self, before: Mapping[str, Alert], after: Mapping[str, Alert]) -> None:
        for key in before:
            del self.state.alerts[key]
        self.state.alerts.update(after)

    def record(self, rule: str, evaluation: Evaluation | None, transitions: Sequence[Transition]) -> None:
        if evaluation is not None:
            self.state.evaluations.append(evaluation)
        self.state.transitions += [(rule, evaluation, one) for one in transitions]

    def enter(self, group: Group) -> Group:
        return self.state.groups.setdefault(group.key, group)

    def put_group(self, group: Group) -> None:
        self.state.groups[group.key] = group

    def drop_group(self, key: str) -> None:
        del self.state.groups[key]

    def hold(self, key: str, members: Sequence[Member]) -> None:
        self.state.members.update({(key, one.fingerprint): one for one in members})

    def end(self, fingerprints: Sequence[str], at: datetime) -> None:
        for place, one in self.state.members.items():
            if place[1] in fingerprints and one.ends_at is None:
                self.state.members[place] = replace(one, ends_at=max(at, one.starts_at))

    def due_group(self, now: datetime) -> Group | None:
        due = [(g.next_at, g.key, g) for g in self.state.groups.values() if g.next_at is not None and g.next_at <= now]
        return min(due)[2] if due else None

    def resting_groups(self, most: int) -> Sequence[Group]:
        return [g for g in self.state.groups.values() if g.next_at is None][:most]

    def members(self, key: str) -> list[Member]:
        found = []
        for (group, fingerprint), one in self.state.members.items():
            if group == key:
                alert = self.state.alerts.get(fingerprint)
                is_acknowledged = alert is not None and alert.acknowledged_at is not None
                found.append(replace(one, is_acknowledged=is_acknowledged))
        return sorted(found, key=lambda one: (one.starts_at, one.fingerprint))

    def let_go(self, key: str, fingerprints: Sequence[str]) -> None:
        for fingerprint in fingerprints:
            del self.state.members[key, fingerprint]

    def silences(self, now: datetime) -> list[Silence]:
        return [one for one in self.state.silences.values() if one.starts_at <= now < one.ends_at]

    def firing(self) -> list[Labels]:
        return [alert.labels for alert in self.state.alerts.values() if alert.is_firing]

    def escalating(self, now: datetime, most: int) -> list[Alert]:
        return [
            alert
            for alert in self.state.alerts.values()
            if alert.is_firing
            and alert.acknowledged_at is None
            and alert.escalate_at is not None
            and alert.escalate_at <= now
        ][:most]

    def alert(self, alert_id: str) -> Alert:
        if alert_id not in self.state.alerts:
            raise no_alert()
        return self.state.alerts[alert_id]

    def put_alert(self, alert: Alert) -> None:
        self.state.alerts[alert.fingerprint] = alert

    def add_silence(self, silence: Silence) -> int:
        number = len(self.state.silences) + 1
        self.state.silences[number] = replace(silence, silence_id=number)
        return number

    def silence(self, silence_id: int) -> Silence:
        if silence_id not in self.state.silences:
            raise no_silence()
        return self.state.silences[silence_id]

    def end_silence(self, silence_id: int, at: datetime) -> None:
        known = self.state.silences[silence_id]
        self.state.silences[silence_id] = replace(known, ends_at=max(at, known.starts_at))

    def audit(self, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> None:
        self.state.audit.append((actor, action, subject, dict(detail)))

    def tell(self, messages: Sequence[Message]) -> int:
        new = {one.key: one for one in messages if one.key not in self.state.messages}
        self.state.messages.update(new)
        return len(new)
