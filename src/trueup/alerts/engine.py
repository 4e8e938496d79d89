"""The life of an evaluation: *read, ask, take a turn, step, remember*. And of a look: *escalate, tell*.

1. *read* the rule's file, again where it has changed
2. *ask* the ledger its SELECT under the reader's role, bounded in time and rows, for the moment that is due
3. *take a turn*: lock the rule; who comes with a moment that is not newer than the last changes nothing
4. *step* the state machine, which is pure
5. *remember* instances, transitions, the evaluation and what groups now hold, in the same commit as the turn

A look takes one group after the other whose moment has come; what the group remembers and the message are one commit.
So a kill between any two of these loses nothing and doubles nothing: what was not committed is done again from the
same state, and what was committed is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from trueup.alerts.backtesting import Backtest, Replay, backtest
from trueup.alerts.evaluating import Evaluated, retired, stepped
from trueup.alerts.grouping import awakened, flush, group_of, is_forgotten
from trueup.alerts.inhibiting import is_inhibited
from trueup.alerts.messages import message_of
from trueup.alerts.muting import is_muted
from trueup.alerts.observing import Observed, observed
from trueup.alerts.reading import EXPECTED, MAIN, RuleFile, RuleFolders
from trueup.alerts.routing import Routing
from trueup.alerts.silencing import is_silenced
from trueup.alerts.states import Bounds, Instances
from trueup.alerts.store import AlertStore, AlertWork
from trueup.contracts import schedules
from trueup.domain.alert import (
    ALERTNAME,
    RULE_BROKEN,
    Alert,
    AlertRule,
    Evaluation,
    Group,
    Member,
    Pace,
    RuleRecord,
    RuleState,
    Transition,
)
from trueup.errors import InvalidInput, NotFound
from trueup.ports import Clock, QueryRunner
from trueup.settings import Alerting

MOST_ESCALATED = 1_000
_MOST_REASON = 500
EVALUATION_DAYS = 30


class AlertEngine:
    """Evaluates rules and tells of alerts. Safe for any number of processes at once on one store."""

    def __init__(
        self,
        store: AlertStore,
        queries: QueryRunner,
        folders: RuleFolders,
        routing: Callable[[], Routing],
        settings: Alerting,
        clock: Clock,
    ) -> None:
        self.folders = folders
        self._store = store
        self._queries = queries
        self._routing = routing
        self._settings = settings
        self._clock = clock
        self.bounds = Bounds(
            timedelta(seconds=settings.retention_s),
            timedelta(seconds=settings.outage_tolerance_s),
            timedelta(seconds=settings.outage_grace_s),
        )
        self.pace = Pace(
            timedelta(seconds=settings.group_wait_s),
            timedelta(seconds=settings.group_interval_s),
            timedelta(seconds=settings.repeat_interval_s),
        )

    def evaluate(self, name: str, due: datetime) -> str:
        """Evaluates the rule for the moment ``due``; returns what that did. Raises NotFound, LedgerUnavailable.

        A rule that cannot be read or evaluated raises nothing: that is remembered, and an alert of its own.
        """
        started_at = self._clock()
        file, asked = self._read_and_asked(name, due)
        duration_ms = max(0, round((self._clock() - started_at) / timedelta(milliseconds=1)))
        with self._store.work() as work:
            record = work.rule(name)
            if record.evaluated_due is not None and due <= record.evaluated_due:
                return "evaluated before"
            before = work.alerts(name)
            asked, after, transitions = self._stepped(asked, before, record.evaluated_due)
            rows = None if asked.observed is None else len(asked.observed.rows)
            evaluation = Evaluation(name, due, started_at, duration_ms, rows, asked.error)
            self._remember(work, _remembered(record, file, asked), evaluation, transitions, before, after)
            self._hand_on(work, asked.rule, before, after, due)
        return asked.error or _summary(after)

    def look(self, due: datetime) -> str:
        """Tells of every group whose moment has come by ``due``. Raises LedgerUnavailable."""
        escalated = self._escalate(due)
        looked = told = 0
        while looked < self._settings.look_groups:
            with self._store.work() as work:
                group = work.due_group(due)
                if group is None:
                    break
                told += self._flush(work, group, due)
                looked += 1
        return f"{looked} groups, {told} messages, {escalated} escalated"

    def retire(self, now: datetime) -> int:
        """Ends the alerts of rules whose files are gone; returns how many rules these are."""
        rules = self.folders.read()
        gone = [
            record.name
            for record in self._store.rules().values()
            if record.state is not RuleState.RETIRED
            and record.name not in rules.readable
            and record.name not in rules.broken
        ]
        for name in gone:
            with self._store.work() as work:
                record = replace(work.rule(name), state=RuleState.RETIRED, reason=None)
                before = work.alerts(name)
                after, transitions = retired(name, before, now)
                self._remember(work, record, None, transitions, before, after)
                self._hand_on(work, None, before, after, now)
        return len(gone)

    def tidy(self, now: datetime) -> str:
        """Forgets groups that rest and need not be remembered, and old evaluations that moved nothing."""
        dropped = 0
        with self._store.work() as work:
            for group in work.resting_groups(self._settings.look_groups):
                if is_forgotten(group, now, self.pace):
                    work.drop_group(group.key)
                    dropped += 1
        forgotten = self._store.forget_evaluations(now - timedelta(days=EVALUATION_DAYS), 100_000)
        return f"{dropped} groups and {forgotten} evaluations forgotten"

    def bound(
        self, file: RuleFile, due: datetime, given: Mapping[str, object] | None = None, known_by: str = "recorded"
    ) -> dict[str, object]:
        """The parameters of the rule's SELECT: ``given``, the settings', or the defaults. Raises InvalidQuery."""
        values = {**self._settings.parameters.get(file.name, {}), **(given or {})}
        return file.file.bind(values, now=due, known_by=known_by)

    def ask(self, file: RuleFile, bound: Mapping[str, object]) -> Observed:
        """What the rule's SELECT says with these parameters. Raises InvalidQuery, LedgerUnavailable."""
        texts = {query.name: query.text for query in file.file.queries}
        timeout_s, most = self._settings.statement_timeout_s, self._settings.max_rows
        found = self._queries.rows(texts[MAIN], bound, timeout_s=timeout_s, max_rows=most)
        expected: Sequence[Mapping[str, object]] = ()
        if EXPECTED in texts:
            expected = self._queries.rows(texts[EXPECTED], bound, timeout_s=timeout_s, max_rows=most)
        return observed(file.rule, found, expected)

    def backtest(
        self,
        name: str,
        first: datetime,
        last: datetime,
        *,
        every: timedelta | None = None,
        known_by: str = "recorded",
        given: Mapping[str, object] | None = None,
    ) -> Backtest:
        """When would the rule have fired, evaluated at the moments of its schedule, or ``every`` so often?

        Nothing is remembered and nobody is told. Raises NotFound, InvalidFile, InvalidInput where these are too many
        moments, LedgerUnavailable.
        """
        file = self.folders.rule(name)
        schedule = file.rule.schedule if every is None else schedules.every(every)
        rule = replace(file.rule, schedule=schedule)  # gaps longer than it are outages
        replay = Replay(name, rule, lambda at: self.ask(file, self.bound(file, at, given, known_by)), self.bounds)
        due = schedules.between(schedules.schedule(schedule), first, last)
        return backtest(replay, due, self._settings.backtest_evaluations)

    def _read_and_asked(self, name: str, due: datetime) -> tuple[RuleFile | None, Evaluated]:
        file = None
        try:
            file = self.folders.rule(name)
            return file, Evaluated(name, due, file.rule, self.ask(file, self.bound(file, due)))
        except NotFound:
            raise
        except InvalidInput as error:
            rule = None if file is None else file.rule
            return file, Evaluated(name, due, rule, None, error.message[:_MOST_REASON])

    def _stepped(
        self, asked: Evaluated, before: Instances, last: datetime | None
    ) -> tuple[Evaluated, dict[str, Alert], list[Transition]]:
        """The step; rows with equal labels make it that of a broken rule."""
        try:
            return asked, *stepped(asked, before, last, self.bounds)
        except InvalidInput as error:
            broken = replace(asked, observed=None, error=error.message)
            return broken, *stepped(broken, before, last, self.bounds)

    def _remember(
        self,
        work: AlertWork,
        record: RuleRecord,
        evaluation: Evaluation | None,
        transitions: Sequence[Transition],
        before: Instances,
        after: Instances,
    ) -> None:
        work.put_rule(record)
        work.put_alerts(before, after)
        work.record(record.name, evaluation, transitions)

    def _hand_on(
        self, work: AlertWork, rule: AlertRule | None, before: Instances, after: Instances, now: datetime
    ) -> None:
        """What fires enters its groups, what fired has ended in them. Of a rule that cannot be read it is not known
        where its alerts belong: they stay where they are."""
        receivers = (rule.receivers if rule else ()) or tuple(self._settings.receivers)
        firing = [alert for alert in after.values() if alert.is_firing]
        self._hold(work, rule, [a for a in firing if rule or a.labels[ALERTNAME] == RULE_BROKEN], receivers)
        ended = [key for key, one in before.items() if one.is_firing and not (key in after and after[key].is_firing)]
        if ended:
            work.end(ended, now)

    def _hold(self, work: AlertWork, rule: AlertRule | None, firing: Sequence[Alert], receivers: Sequence[str]) -> None:
        """Puts firing alerts into their groups, which are locked in the order of their keys."""
        held: dict[str, tuple[Group, list[Member]]] = {}
        for alert in firing:
            assert alert.fired_at is not None
            for receiver in receivers:
                group_by = rule.group_by if rule else (ALERTNAME,)
                group = group_of(alert.labels, group_by, receiver, alert.fired_at + self.pace.wait)
                held.setdefault(group.key, (group, []))[1].append(_member(rule, alert))
        for _, (group, members) in sorted(held.items()):
            known = work.enter(group)
            woken = awakened(known, group)
            if woken != known:
                work.put_group(woken)
            work.hold(group.key, members)

    def _escalate(self, due: datetime) -> int:
        """Alerts that nobody has acknowledged in time enter the groups of who is told then."""
        with self._store.work() as work:
            alerts = work.escalating(due, MOST_ESCALATED)
            rules = self.folders.read().readable if alerts else {}
            for alert in alerts:
                file = rules.get(alert.rule)
                if file is not None and file.rule.escalation is not None:
                    self._hold(work, file.rule, [alert], file.rule.escalation.receivers)
                work.put_alert(replace(alert, escalate_at=None))
            return len(alerts)

    def _flush(self, work: AlertWork, group: Group, due: datetime) -> int:
        """One group tells, or has nothing to tell."""
        members = work.members(group.key)
        done = flush(group, members, self._muted(work, members, due), due, self.pace)
        if done.left:
            work.let_go(group.key, sorted(done.left))
        if is_forgotten(done.group, due, self.pace):
            work.drop_group(group.key)
        else:
            work.put_group(done.group)
        return work.tell([message_of(done.group, done.told, self._settings.message_alerts)]) if done.told else 0

    def _muted(self, work: AlertWork, members: Sequence[Member], due: datetime) -> frozenset[str]:
        """Members that are silenced, inhibited or muted now."""
        routing, silences = self._routing(), work.silences(due)
        firing = work.firing() if routing.inhibitions else []
        return frozenset(
            one.fingerprint
            for one in members
            if is_silenced(one.labels, silences, due)
            or is_inhibited(one.labels, routing.inhibitions, firing)
            or is_muted(one.mute, routing.mute_times, due)
        )


def _member(rule: AlertRule | None, alert: Alert) -> Member:
    assert alert.fired_at is not None
    return Member(
        alert.rule,
        alert.labels,
        alert.fired_at,
        None,
        alert.annotations,
        alert.value,
        rule.mute if rule else (),
    )


def _remembered(record: RuleRecord, file: RuleFile | None, asked: Evaluated) -> RuleRecord:
    known = record if file is None else replace(record, digest=file.file.digest, front=dict(file.file.front))
    state = RuleState.ACTIVE if asked.error is None else RuleState.QUARANTINED
    return replace(known, state=state, reason=asked.error, evaluated_due=asked.due)


def _summary(after: Instances) -> str:
    firing = sum(alert.is_firing for alert in after.values())
    return f"{firing} firing, {sum(a.state == 'pending' for a in after.values())} pending"
