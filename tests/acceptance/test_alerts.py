"""Steps of alerts.feature: real rules over a real ledger, with the clock in the scenario's hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from alerting import postgres_store
from trueup.alerts.engine import AlertEngine
from trueup.alerts.handling import Handling
from trueup.alerts.matching import parse_matchers
from trueup.alerts.reading import RuleFolders
from trueup.alerts.routing import RoutingFile
from trueup.contracts.schedules import between, schedule
from trueup.ledger.urls import Urls
from trueup.postgres import Pool
from trueup.settings import Alerting, Limits
from trueup.sql.runner import PostgresQueries

scenarios("alerts.feature")

RULE = """/*---
name: Refuses
owner: desk
severity: warning
schedule: every 5m
for: 10m
summary: "{{{{ labels.deployment }}}} refuses"
{more}
---*/
SELECT deployment, count(*)::double precision AS value FROM refusals
WHERE booked_at > %(now)s::timestamptz - interval '5 minutes' AND booked_at <= %(now)s GROUP BY deployment
"""
ROUTING = "mute_times: {closed: {zone: America/New_York, calendar: us-settlement, days: closed}}"
REFUSE = """
    INSERT INTO ledger.refusals
        (deployment_id, channel, source, source_key, reason, detail, attempt, content_digest, event_day, received_at,
         booked_at)
    VALUES (%(deployment)s, 'rest', 'request', %(key)s, 'contract', '', 1, decode(%(digest)s, 'hex'),
            %(at)s::date, %(at)s, %(at)s)
"""


@dataclass
class Desk:
    """What the scenario's people hold on to."""

    urls: Urls
    pools: list[Pool]
    folder: Path
    day: date = date(2026, 11, 18)
    more: list[str] = field(default_factory=list)
    came_to: datetime | None = None
    engine: AlertEngine | None = None
    handling: Handling | None = None

    def moment(self, text: str) -> datetime:
        hour, minute = text.split(":")
        return datetime(self.day.year, self.day.month, self.day.day, int(hour), int(minute), tzinfo=UTC)

    @property
    def now(self) -> datetime:
        return self.came_to or self.moment("8:59")

    def open(self) -> None:
        writer, reader = self.pools
        (self.folder / "refusals.sql").write_text(RULE.format(more="\n".join(self.more)))
        (self.folder / "routing.yaml").write_text(ROUTING)
        settings = Alerting(receivers=["desk"])
        store, queries = postgres_store(writer), PostgresQueries(reader, Limits())
        routing = RoutingFile(self.folder / "routing.yaml")
        self.engine = AlertEngine(store, queries, RuleFolders([self.folder]), routing.read, settings, lambda: self.now)
        self.handling = Handling(store, settings, lambda: self.now)

    def come_to(self, moment: datetime) -> None:
        """Every evaluation and look that is due until then."""
        if self.engine is None:
            self.open()
        assert self.engine is not None
        start = self.now
        rules, looks = (set(between(schedule(text), start, moment)) for text in ("every 5m", "every 30s"))
        for due in sorted(rules | looks):
            self.came_to = due
            if due in rules:
                self.engine.evaluate("refusals", due)
            self.engine.look(due)
        self.came_to = moment

    def asked(self, sql: str) -> list[Any]:
        with psycopg.connect(self.urls.owner) as connection:
            return connection.execute(sql.encode()).fetchall()

    def told(self, receiver: str) -> list[tuple[str, list[str], str]]:
        """(status, names, what is said of the last one) of each message."""
        found = self.asked("SELECT receiver, payload FROM ledger.messages ORDER BY message_id")
        return [
            (
                payload["status"],
                sorted(a["labels"].get("deployment") or a["labels"]["alertname"] for a in payload["alerts"]),
                payload["alerts"][-1]["annotations"].get("description", ""),
            )
            for to, payload in found
            if to == receiver
        ]


@pytest.fixture
def desk(fresh_database: Urls, tmp_path: Path) -> Iterator[Desk]:
    pools = [
        Pool(fresh_database.writer, size=2, application="test"),
        Pool(fresh_database.reader, size=2, application="test", options={"search_path": "trueup"}),
    ]
    yield Desk(fresh_database, pools, tmp_path)
    for pool in pools:
        pool.close()


@given('a desk whose rule "refusals" fires when a deployment refuses for 10 minutes')
@given("the rule is evaluated every 5 minutes")
def has_a_rule(desk: Desk) -> None:
    assert "for: 10m" in RULE
    assert "every 5m" in RULE


@given("the head of desk is told of what nobody has in hand for 30 minutes")
def escalates(desk: Desk) -> None:
    desk.more.append("escalate: {after: 30m, receivers: [head]}")


@given("nobody is told on days on which settlement is closed")
def is_muted(desk: Desk) -> None:
    desk.more.append("mute: [closed]")


@given("it is Thanksgiving")
def is_thanksgiving(desk: Desk) -> None:
    desk.day = date(2026, 11, 26)


@when(parsers.parse('"{name}" refuses from {first} to {last}'))
def refuses(desk: Desk, name: str, first: str, last: str) -> None:
    with psycopg.connect(desk.urls.owner) as connection:
        connection.execute("INSERT INTO ledger.deployments (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))
        row = connection.execute("SELECT deployment_id FROM ledger.deployments WHERE name = %s", (name,)).fetchone()
        assert row is not None
        at = desk.moment(first) - timedelta(seconds=30)
        while at < desk.moment(last):
            values = {"deployment": row[0], "key": at.isoformat(), "digest": "00" * 32, "at": at}
            connection.execute(REFUSE, values)
            at += timedelta(minutes=1)


@when(parsers.parse("it is {moment}"))
def comes_to(desk: Desk, moment: str) -> None:
    desk.come_to(desk.moment(moment))


@when(parsers.parse('Ann takes "{name}" in hand'))
def takes(desk: Desk, name: str) -> None:
    assert desk.handling is not None
    (row,) = desk.asked("SELECT fingerprint FROM ledger.alert_instances")
    desk.handling.acknowledge(row[0], by="user:ann")


@when(parsers.parse('Ann silences "{name}" for {hours:d} hours because "{reason}"'))
def silences(desk: Desk, name: str, hours: int, reason: str) -> None:
    desk.open()
    assert desk.handling is not None
    matchers = parse_matchers([f"deployment={name}"])
    desk.handling.silence(matchers, lasting=timedelta(hours=hours), by="user:ann", comment=reason)


@when("the view that the rule reads is renamed")
def is_renamed(desk: Desk) -> None:
    with psycopg.connect(desk.urls.owner) as connection:
        connection.execute("ALTER VIEW trueup.refusals RENAME TO refused")


@when("the view has its name again")
def is_named(desk: Desk) -> None:
    with psycopg.connect(desk.urls.owner) as connection:
        connection.execute("ALTER VIEW trueup.refused RENAME TO refusals")


@then("the desk was told nothing")
def was_told_nothing(desk: Desk) -> None:
    assert desk.told("desk") == []


@then("the head of desk was told nothing")
def head_was_told_nothing(desk: Desk) -> None:
    assert desk.told("head") == []


@then(parsers.parse('the desk was told that "{name}" refuses'))
def was_told(desk: Desk, name: str) -> None:
    assert desk.told("desk")[-1][:2] == ("firing", [name])


@then(parsers.parse('the head of desk was told that "{name}" refuses'))
def head_was_told(desk: Desk, name: str) -> None:
    assert [one[:2] for one in desk.told("head")] == [("firing", [name])]


@then(parsers.parse('the desk was told that "{one}" and "{other}" refuse'))
def was_told_of_both(desk: Desk, one: str, other: str) -> None:
    assert desk.told("desk")[-1][:2] == ("firing", [one, other])


@then(parsers.parse('the desk was told that "{name}" is well again'))
def was_told_of_the_end(desk: Desk, name: str) -> None:
    assert desk.told("desk")[-1][:2] == ("resolved", [name])


@then(parsers.re(r"the desk was told (?P<times>\d+) times? in all"))
def was_told_so_often(desk: Desk, times: str) -> None:
    assert len(desk.told("desk")) == int(times)


@then(parsers.parse('the ledger knows that "{name}" was pending'))
def was_pending(desk: Desk, name: str) -> None:
    found = desk.asked(
        "SELECT labels ->> 'deployment', before, after FROM ledger.alert_transitions ORDER BY transition_id"
    )
    assert found == [(name, "inactive", "pending"), (name, "pending", "inactive")]


@then("the audit says that Ann took it in hand")
def is_audited(desk: Desk) -> None:
    assert desk.asked("SELECT actor, action FROM ledger.audit") == [("user:ann", "acknowledge alert")]


@then(parsers.parse('the desk was told that the rule is broken, because "{reason}"'))
def was_told_of_the_rule(desk: Desk, reason: str) -> None:
    assert desk.told("desk")[-1] == ("firing", ["RuleBroken"], reason)


@then("the desk was told that the rule works again")
def was_told_that_it_works(desk: Desk) -> None:
    assert desk.told("desk")[-1][:2] == ("resolved", ["RuleBroken"])


@then(parsers.parse('"{name}" still fires'))
def still_fires(desk: Desk, name: str) -> None:
    found = desk.asked("SELECT labels ->> 'deployment' FROM ledger.alert_instances WHERE state = 'firing'")
    assert (name,) in found
