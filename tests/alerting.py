"""An alert engine on some store, whose rules are files of a test's own and whose rows a test gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from trueup.alerts.engine import AlertEngine
from trueup.alerts.handling import Handling
from trueup.alerts.memory import MemoryAlerts
from trueup.alerts.postgres import PostgresAlerts
from trueup.alerts.reading import RuleFolders
from trueup.alerts.routing import Routing
from trueup.alerts.store import AlertStore
from trueup.notifying.postgres import PostgresOutbox
from trueup.postgres import Pool
from trueup.settings import Alerting, Notifying

START = datetime(2026, 11, 2, 9, tzinfo=UTC)
RULE = """/*---
name: {name}
owner: desk
severity: warning
schedule: every 1m
summary: "{{{{ labels.deployment }}}} is at {{{{ value | number }}}}"
{more}
---*/
SELECT deployment, 1.0 AS value FROM deployments
"""


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


@dataclass
class Rows:
    """Queries that answer what a test says, or fail as it says; after ``MAIN`` the expected ones."""

    answers: list[Any] = field(default_factory=list)

    def rows(self, sql_text: str, parameters: Any = None, **_: Any) -> list[dict[str, Any]]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


@dataclass
class Watch:
    """Rules, an engine, and what it has told."""

    store: AlertStore
    folder: Path
    settings: Alerting
    database: str | None = None
    queries: Any = field(default_factory=Rows)
    routing: Routing = field(default_factory=Routing)
    now: datetime = START

    def __post_init__(self) -> None:
        folders = RuleFolders([self.folder])
        self.engine = AlertEngine(
            self.store, self.queries, folders, lambda: self.routing, self.settings, lambda: self.now
        )
        self.handling = Handling(self.store, self.settings, lambda: self.now)

    def write(self, file: str = "drift", name: str = "Drift", more: str = "", text: str | None = None) -> None:
        content = RULE.format(name=name, more=more) if text is None else text
        (self.folder / f"{file}.sql").write_text(content)

    def evaluate(
        self, minutes: float, *names: str, rule: str = "drift", values: Mapping[str, float] | None = None
    ) -> str:
        """The rule's SELECT gives one row of each deployment named."""
        self.queries.answers = [[{"deployment": name, "value": (values or {}).get(name, 1.0)} for name in names]]
        return self.evaluate_as_is(minutes, rule)

    def fail(self, minutes: float, error: Exception, rule: str = "drift") -> str:
        self.queries.answers = [error]
        return self.evaluate_as_is(minutes, rule)

    def evaluate_as_is(self, minutes: float, rule: str = "drift") -> str:
        self.now = at(minutes)
        return self.engine.evaluate(rule, at(minutes))

    def look(self, minutes: float) -> str:
        self.now = at(minutes)
        return self.engine.look(at(minutes))

    def alerts(self, rule: str = "drift") -> dict[str, str]:
        """State by deployment (or name of the alert)."""
        with self.store.work() as work:
            return {
                a.labels.get("deployment", a.labels["alertname"])
                + ("?" if a.labels["alertname"] == "NoData" else ""): str(a.state)
                for a in work.alerts(rule).values()
            }

    def alert_id(self, deployment: str, rule: str = "drift") -> str:
        with self.store.work() as work:
            return next(k for k, a in work.alerts(rule).items() if a.labels.get("deployment") == deployment)

    def told(self) -> list[tuple[str, str, list[str]]]:
        """(receiver, status, [deployment+ or deployment-]) of every message, in order."""
        if isinstance(self.store, MemoryAlerts):
            found = [(m.receiver, m.payload) for m in self.store.state.messages.values()]
        else:
            found = self.asked("SELECT receiver, payload FROM ledger.messages ORDER BY message_id")
        return [
            (
                receiver,
                str(payload["status"]),
                sorted(
                    a["labels"].get("deployment", a["labels"]["alertname"]) + "-+"[a["status"] == "firing"]
                    for a in payload["alerts"]
                ),
            )
            for receiver, payload in found
        ]

    def transitions(self) -> list[tuple[str, str]]:
        if isinstance(self.store, MemoryAlerts):
            return [(str(t.before), str(t.after)) for _, _, t in self.store.state.transitions]
        return self.asked("SELECT before, after FROM ledger.alert_transitions ORDER BY transition_id")

    def evaluations(self) -> int:
        if isinstance(self.store, MemoryAlerts):
            return len(self.store.state.evaluations)
        return int(self.asked("SELECT count(*) FROM ledger.alert_evaluations")[0][0])

    def audited(self) -> list[tuple[str, str]]:
        if isinstance(self.store, MemoryAlerts):
            return [(actor, action) for actor, action, _, _ in self.store.state.audit]
        return self.asked("SELECT actor, action FROM ledger.audit ORDER BY audit_id")

    def asked(self, sql: str) -> list[Any]:
        assert self.database is not None
        with psycopg.connect(self.database) as connection:
            return connection.execute(sql.encode()).fetchall()


def postgres_store(pool: Pool) -> PostgresAlerts:
    return PostgresAlerts(pool, PostgresOutbox(pool, Notifying()))
