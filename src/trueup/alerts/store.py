"""What the engine needs of a place that remembers alerts. ``postgres.py`` is the ledger, ``memory.py`` its fake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from trueup.domain.alert import Alert, Evaluation, Group, Labels, Member, RuleRecord, Silence, Transition
from trueup.domain.message import Message


class AlertWork(Protocol):
    """One transaction: all of it happens, or nothing. What it has looked at for a change nobody else changes."""

    def rule(self, name: str) -> RuleRecord:
        """What is remembered of the rule; others that ask for it wait until this transaction ends."""
        ...

    def put_rule(self, record: RuleRecord) -> None:
        """Remembers it."""
        ...

    def alerts(self, rule: str) -> dict[str, Alert]:
        """All instances of the rule by fingerprint; who would change one of them waits."""
        ...

    def put_alerts(self, before: Mapping[str, Alert], after: Mapping[str, Alert]) -> None:
        """Remembers ``after`` in the place of ``before``."""
        ...

    def record(self, rule: str, evaluation: Evaluation | None, transitions: Sequence[Transition]) -> None:
        """Adds an evaluation and what it changed; None: nobody evaluated, the rule is gone."""
        ...

    def enter(self, group: Group) -> Group:
        """The group of that key as it is remembered, or this one, remembered from now on; others wait for it."""
        ...

    def put_group(self, group: Group) -> None:
        """Remembers a group that was entered or due."""
        ...

    def drop_group(self, key: str) -> None:
        """Forgets a group that has no members."""
        ...

    def hold(self, key: str, members: Sequence[Member]) -> None:
        """The group holds these, in the place of what it held of the same fingerprints."""
        ...

    def end(self, fingerprints: Sequence[str], at: datetime) -> None:
        """In every group these alerts have ended, unless they had before."""
        ...

    def due_group(self, now: datetime) -> Group | None:
        """One group whose moment has come and that nobody else is looking at, the most overdue first."""
        ...

    def resting_groups(self, most: int) -> Sequence[Group]:
        """Groups without a next moment that nobody else is looking at."""
        ...

    def members(self, key: str) -> list[Member]:
        """What the group holds, by when it started, and whether somebody has acknowledged it since."""
        ...

    def let_go(self, key: str, fingerprints: Sequence[str]) -> None:
        """The group holds these no longer."""
        ...

    def silences(self, now: datetime) -> list[Silence]:
        """Those in force."""
        ...

    def firing(self) -> list[Labels]:
        """Labels of all alerts that fire."""
        ...

    def escalating(self, now: datetime, most: int) -> list[Alert]:
        """Firing alerts whose moment to escalate has come and that nobody has acknowledged."""
        ...

    def alert(self, alert_id: str) -> Alert:
        """One instance, which nobody else changes until this transaction ends. Raises NotFound."""
        ...

    def put_alert(self, alert: Alert) -> None:
        """Remembers it."""
        ...

    def add_silence(self, silence: Silence) -> int:
        """Its id."""
        ...

    def silence(self, silence_id: int) -> Silence:
        """One silence, also one that is over. Raises NotFound."""
        ...

    def end_silence(self, silence_id: int, at: datetime) -> None:
        """It ends at that moment, or where it begins."""
        ...

    def audit(self, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> None:
        """Adds a row of the audit."""
        ...

    def tell(self, messages: Sequence[Message]) -> int:
        """Puts messages into the outbox, committed with all the rest; returns how many were new."""
        ...


class AlertStore(Protocol):
    """Remembers alerts."""

    def work(self) -> AbstractContextManager[AlertWork]:
        """A transaction, which is undone where the block raises. Raises LedgerUnavailable."""
        ...

    def rules(self) -> dict[str, RuleRecord]:
        """What is remembered of every rule."""
        ...

    def forget_evaluations(self, before: datetime, most: int) -> int:
        """Forgets at most so many old evaluations that moved nothing; returns how many."""
        ...
