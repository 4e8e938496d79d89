"""Alerts in the ledger. One transaction is one evaluation, one look at a group, or one thing that a person did.

Locks are taken in this order: the rule, its instances, then groups by key. So two evaluators of one rule take turns,
and nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from trueup.alerts.postgres_groups import PostgresGroups
from trueup.alerts.store import AlertWork
from trueup.domain.alert import (
    Alert,
    Comparison,
    Evaluation,
    Labels,
    Matcher,
    RuleRecord,
    RuleState,
    Silence,
    State,
    Transition,
)
from trueup.domain.message import Message
from trueup.errors import no_alert, no_silence
from trueup.ports import Outbox
from trueup.postgres import Connection, Pool

_RULE = "SELECT rule, digest, front, state, reason, evaluated_due FROM ledger.alert_rules"
_COLUMNS = (
    "rule, labels, state, active_at, value, annotations, fired_at, keep_firing_since, resolved_at,"
    " acknowledged_at, acknowledged_by, assigned_to, escalate_at"
)
_ALERTS = f"SELECT {_COLUMNS} FROM ledger.alert_instances"  # noqa: S608 - constants
_PUT_ALERT = f"""
    INSERT INTO ledger.alert_instances (fingerprint, {_COLUMNS}) VALUES ({", ".join(["%s"] * 14)})
    ON CONFLICT (fingerprint) DO UPDATE SET ({_COLUMNS}) = ({", ".join("excluded." + c for c in _COLUMNS.split(", "))})
"""  # noqa: S608 - constants
_SILENCES = "SELECT matchers, starts_at, ends_at, created_by, comment, silence_id FROM ledger.silences"


class PostgresAlerts:
    """The ledger's tables of alerts. Messages go to ``outbox`` in the same transaction."""

    def __init__(self, writer: Pool, outbox: Outbox) -> None:
        self._writer = writer
        self._outbox = outbox

    @contextmanager
    def work(self) -> Iterator[AlertWork]:
        """One transaction."""
        with self._writer.transaction() as connection:
            yield _PostgresWork(connection, self._outbox)

    def rules(self) -> dict[str, RuleRecord]:
        """By name."""
        with self._writer.transaction() as connection:
            return {row[0]: _record(row) for row in connection.execute(_RULE).fetchall()}

    def forget_evaluations(self, before: datetime, most: int) -> int:
        """Those that moved nothing."""
        with self._writer.transaction() as connection:
            (row,) = connection.execute("SELECT ledger.forget_evaluations(%s, %s)", (before, most)).fetchall()
            return int(row[0])


class _PostgresWork(PostgresGroups):
    def __init__(self, connection: Connection, outbox: Outbox) -> None:
        super().__init__(connection)
        self._outbox = outbox

    def rule(self, name: str) -> RuleRecord:
        self._connection.execute(
            "INSERT INTO ledger.alert_rules (rule, digest, front, state) VALUES (%s, '', '{}', 'active')"
            " ON CONFLICT DO NOTHING",
            (name,),
        )
        (row,) = self._connection.execute(f"{_RULE} WHERE rule = %s FOR UPDATE", (name,)).fetchall()
        return _record(row)

    def put_rule(self, record: RuleRecord) -> None:
        self._connection.execute(
            "UPDATE ledger.alert_rules SET digest = %s, front = %s, evaluated_due = %s, state = %s, reason = %s,"
            " changed_at = CASE WHEN (digest, state, reason) IS DISTINCT FROM (%s, %s, %s) THEN now()"
            " ELSE changed_at END WHERE rule = %s",
            (
                record.digest,
                Jsonb(dict(record.front)),
                record.evaluated_due,
                record.state,
                record.reason,
                record.digest,
                record.state,
                record.reason,
                record.name,
            ),
        )

    def alerts(self, rule: str) -> dict[str, Alert]:
        rows = self._connection.execute(f"{_ALERTS} WHERE rule = %s ORDER BY fingerprint FOR UPDATE", (rule,))
        found = [_alert(row) for row in rows.fetchall()]
        return {alert.fingerprint: alert for alert in found}

    def put_alerts(self, before: Mapping[str, Alert], after: Mapping[str, Alert]) -> None:
        gone = [key for key in before if key not in after]
        if gone:
            self._connection.execute("DELETE FROM ledger.alert_instances WHERE fingerprint = ANY (%s)", (gone,))
        changed = [alert for key, alert in after.items() if before.get(key) != alert]
        with self._connection.cursor() as cursor:
            cursor.executemany(_PUT_ALERT, [_cells(alert) for alert in changed])

    def record(self, rule: str, evaluation: Evaluation | None, transitions: Sequence[Transition]) -> None:
        number = None if evaluation is None else self._evaluated(evaluation)
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO ledger.alert_transitions (rule, evaluation_id, fingerprint, labels, before, after, at,"
                " value, reason) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (rule, number, t.fingerprint, Jsonb(dict(t.labels)), t.before, t.after, t.at, t.value, t.reason)
                    for t in transitions
                ],
            )

    def _evaluated(self, one: Evaluation) -> int:
        (row,) = self._connection.execute(
            "INSERT INTO ledger.alert_evaluations (rule, due, started_at, duration_ms, rows, error)"
            " VALUES (%s, %s, %s, %s, %s, %s) RETURNING evaluation_id",
            (one.rule, one.due, one.started_at, one.duration_ms, one.rows, one.error),
        ).fetchall()
        return int(row[0])

    def firing(self) -> list[Labels]:
        rows = self._connection.execute("SELECT labels FROM ledger.alert_instances WHERE state = 'firing'")
        return [row[0] for row in rows.fetchall()]

    def escalating(self, now: datetime, most: int) -> list[Alert]:
        rows = self._connection.execute(
            f"{_ALERTS} WHERE state = 'firing' AND acknowledged_at IS NULL AND escalate_at <= %s"
            " ORDER BY escalate_at, fingerprint LIMIT %s FOR UPDATE SKIP LOCKED",
            (now, most),
        )
        return [_alert(row) for row in rows.fetchall()]

    def alert(self, alert_id: str) -> Alert:
        row = self._connection.execute(f"{_ALERTS} WHERE fingerprint = %s FOR UPDATE", (alert_id,)).fetchone()
        if row is None:
            raise no_alert()
        return _alert(row)

    def put_alert(self, alert: Alert) -> None:
        self._connection.execute(_PUT_ALERT, _cells(alert))

    def silences(self, now: datetime) -> list[Silence]:
        rows = self._connection.execute(
            f"{_SILENCES} WHERE starts_at <= %s AND ends_at > %s ORDER BY silence_id", (now, now)
        )
        return [_silence(row) for row in rows.fetchall()]

    def add_silence(self, silence: Silence) -> int:
        matchers = [{"label": m.label, "comparison": str(m.comparison), "value": m.value} for m in silence.matchers]
        (row,) = self._connection.execute(
            "INSERT INTO ledger.silences (matchers, starts_at, ends_at, created_by, comment)"
            " VALUES (%s, %s, %s, %s, %s) RETURNING silence_id",
            (Jsonb(matchers), silence.starts_at, silence.ends_at, silence.created_by, silence.comment),
        ).fetchall()
        return int(row[0])

    def silence(self, silence_id: int) -> Silence:
        row = self._connection.execute(f"{_SILENCES} WHERE silence_id = %s", (silence_id,)).fetchone()
        if row is None:
            raise no_silence()
        return _silence(row)

    def end_silence(self, silence_id: int, at: datetime) -> None:
        self._connection.execute(
            "UPDATE ledger.silences SET ends_at = greatest(starts_at, %s) WHERE silence_id = %s", (at, silence_id)
        )

    def audit(self, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> None:
        self._connection.execute(
            "INSERT INTO ledger.audit (actor, action, subject, detail) VALUES (%s, %s, %s, %s)",
            (actor, action, subject, Jsonb(dict(detail))),
        )

    def tell(self, messages: Sequence[Message]) -> int:
        return self._outbox.add(messages, within=self._connection)


def _record(row: tuple[Any, ...]) -> RuleRecord:
    name, digest, front, state, reason, evaluated_due = row
    return RuleRecord(name, digest, front, RuleState(state), reason, evaluated_due)


def _alert(row: tuple[Any, ...]) -> Alert:
    rule, labels, state, *others = row
    return Alert(rule, labels, State(state), *others)


def _cells(alert: Alert) -> tuple[Any, ...]:
    return (
        alert.fingerprint,
        alert.rule,
        Jsonb(dict(alert.labels)),
        alert.state,
        alert.active_at,
        alert.value,
        Jsonb(dict(alert.annotations)),
        alert.fired_at,
        alert.keep_firing_since,
        alert.resolved_at,
        alert.acknowledged_at,
        alert.acknowledged_by,
        alert.assigned_to,
        alert.escalate_at,
    )


def _silence(row: tuple[Any, ...]) -> Silence:
    matchers, *others = row
    return Silence(
        tuple(Matcher(m["label"], Comparison(m["comparison"]), m["value"]) for m in matchers),
        *others,
    )
