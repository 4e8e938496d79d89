"""What an analyst reads of an alert, on each channel: rule, engine, outbox, sending and a real receiver agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alerting import Watch
from receiving import HttpReceiver, MailReceiver, http_receiver, mail_receiver, until
from trueup.alerts.postgres import PostgresAlerts
from trueup.ledger.urls import Urls
from trueup.notifying.postgres import PostgresOutbox
from trueup.notifying.receivers import declared
from trueup.notifying.sending import Sending
from trueup.postgres import Pool
from trueup.settings import Alerting, Notifying

RULE = """/*---
name: QueueAged
owner: settlements desk
severity: critical
schedule: every 1m
labels: {market: XVIE}
summary: "{{ labels.deployment }} has {{ value | number }} items past their SLA"
description: "The oldest is {{ oldest }} days old."
runbook: docs/runbooks/queue.md#aged
group_by: [alertname]
label_columns: [deployment]
---*/
SELECT deployment, 1.0 AS value, 1 AS oldest, 1 AS items FROM deployments
"""
ROWS = [
    {"deployment": "fails", "value": 41.0, "oldest": 9, "items": "T1 <T2>"},
    {"deployment": "late", "value": 7.0, "oldest": 3, "items": "T9"},
]
KEY = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@dataclass
class Desk:
    """A rule that a test gives rows, and everything that its alerts are told through."""

    watch: Watch
    sending: Sending
    mail: MailReceiver
    chats: dict[str, HttpReceiver]

    def turn(self, minute: float, rows: list[dict[str, Any]]) -> None:
        """The rule's SELECT gives these rows; what there is to tell has been received."""
        self.watch.queries.answers = [rows]
        self.watch.evaluate_as_is(minute, "aged")
        self.watch.look(minute)
        assert self.sending.drain()

    def fingerprint(self, deployment: str) -> str:
        return self.watch.alert_id(deployment, "aged")


@pytest.fixture
def desk(fresh_database: Urls, tmp_path: Path) -> Iterator[Desk]:
    (tmp_path / "aged.sql").write_text(RULE)
    with mail_receiver() as mail, http_receiver() as slack, http_receiver() as teams, http_receiver() as tickets:
        receivers = {
            "mail": {"kind": "email", "host": "127.0.0.1", "port": mail.port, "security": "none",
                     "sender": "trueup@bank.example", "to": ["desk@bank.example"]},
            "slack": {"kind": "slack"},
            "teams": {"kind": "teams"},
            "tickets": {"kind": "webhook", "url": tickets.url},
        }  # fmt: skip
        secrets = {"slack": {"url": slack.url}, "teams": {"url": teams.url}, "tickets": {"signing_key": KEY}}
        bounds = Notifying.model_validate({"receivers": receivers, "secrets": secrets})
        pool = Pool(fresh_database.writer, size=8, application="told")
        outbox = PostgresOutbox(pool, bounds)
        settings = Alerting(receivers=list(receivers), group_wait_s=0, group_interval_s=60)
        sending = Sending(outbox, declared(bounds), bounds)
        try:
            watch = Watch(PostgresAlerts(pool, outbox), tmp_path, settings, fresh_database.owner)
            yield Desk(watch, sending, mail, {"slack": slack, "teams": teams, "tickets": tickets})
        finally:
            sending.close()
            pool.close()


def _mail_text(desk: Desk) -> str:
    body = desk.mail.taken[-1].get_body(("plain",))
    assert body is not None
    return f"{desk.mail.taken[-1]['Subject']}\n{body.get_content()}"


def _mail_html(desk: Desk) -> str:
    body = desk.mail.taken[-1].get_body(("html",))
    assert body is not None
    return str(body.get_content())


def _slack(desk: Desk) -> str:
    return "\n".join(block["text"]["text"] for block in _posted(desk, "slack")["blocks"])


def _teams(desk: Desk) -> str:
    (card,) = _posted(desk, "teams")["attachments"]
    return "\n".join(run["text"] for block in card["content"]["body"] for run in block["inlines"])


def _webhook(desk: Desk) -> str:
    body = _posted(desk, "tickets")
    return f"{body['subject']}\n{body['text']}"


def _posted(desk: Desk, channel: str) -> dict[str, Any]:
    found = json.loads(desk.chats[channel].posted[-1].body)
    assert isinstance(found, dict)
    return found


CHANNELS: dict[str, Callable[[Desk], str]] = {
    "mail": _mail_text,
    "html": _mail_html,
    "slack": _slack,
    "teams": _teams,
    "webhook": _webhook,
}


@pytest.mark.parametrize("channel", CHANNELS)
class TestPeople:
    def test_one_alert_that_fires(self, desk: Desk, channel: str):
        desk.turn(0, ROWS[:1])
        told = CHANNELS[channel](desk)
        for said in (
            *("FIRING", "critical", "fails has 41 items past their SLA", "The oldest is 9 days old."),
            *("deployment=fails", "market=XVIE", "41.0", "2026-11-02T09:00:00Z"),
            *("settlements desk", "docs/runbooks/queue.md#aged"),
            f"trueup alert ack {desk.fingerprint('fails')}",
            "T1 &lt;T2&gt;" if channel == "html" else "T1 <T2>",
        ):
            assert said in told, f"{said!r} is not among\n{told}"

    def test_each_of_several_has_its_own(self, desk: Desk, channel: str):
        desk.turn(0, ROWS)
        told = CHANNELS[channel](desk)
        for row in ROWS:
            for said in (
                f"{row['deployment']} has {row['value']:.0f} items past their SLA",
                f"The oldest is {row['oldest']} days old.",
                str(row["value"]),
                f"trueup alert ack {desk.fingerprint(row['deployment'])}",
            ):
                assert said in told, f"{said!r} is not among\n{told}"
        assert "settlements desk" in told
        assert "docs/runbooks/queue.md#aged" in told

    def test_one_that_is_over(self, desk: Desk, channel: str):
        desk.turn(0, ROWS[:1])
        desk.turn(3, [])
        told = CHANNELS[channel](desk)
        for said in (
            *("RESOLVED", "deployment=fails", "fails has 41 items past their SLA", "settlements desk"),
            *("2026-11-02T09:00:00Z", "until 2026-11-02T09:03:00Z"),
        ):
            assert said in told, f"{said!r} is not among\n{told}"
        assert "trueup alert ack" not in told


class TestMachines:
    def test_the_webhook_says_it_as_an_alertmanager_does(self, desk: Desk):
        desk.turn(0, ROWS[:1])
        fingerprint = desk.fingerprint("fails")
        body = _posted(desk, "tickets")
        labels = {"alertname": "QueueAged", "deployment": "fails", "market": "XVIE", "severity": "critical"}
        (alert,) = body["alerts"]
        assert (body["version"], body["status"], body["kind"]) == ("4", "firing", "alert")
        assert body["commonLabels"] == alert["labels"] == labels
        assert (alert["status"], alert["value"], alert["fingerprint"]) == ("firing", 41.0, fingerprint)
        assert (alert["startsAt"], alert["endsAt"]) == ("2026-11-02T09:00:00Z", "0001-01-01T00:00:00Z")
        assert alert["annotations"] == {
            "summary": "fails has 41 items past their SLA",
            "description": "The oldest is 9 days old.",
            "oldest": "9",
            "items": "T1 <T2>",
            "runbook_url": "docs/runbooks/queue.md#aged",
            "owner": "settlements desk",
        }
        desk.turn(3, [])
        (over,) = _posted(desk, "tickets")["alerts"]
        assert _posted(desk, "tickets")["status"] == over["status"] == "resolved"
        assert (over["startsAt"], over["endsAt"]) == ("2026-11-02T09:00:00Z", "2026-11-02T09:03:00Z")
        assert (over["fingerprint"], over["labels"]) == (fingerprint, labels)


def test_the_command_that_is_told_acknowledges(desk: Desk):
    desk.turn(0, ROWS[:1])
    *_, fingerprint = next(line for line in _mail_text(desk).splitlines() if "trueup alert ack" in line).split()
    desk.watch.handling.acknowledge(fingerprint, by="user:ann")
    assert desk.watch.audited() == [("user:ann", "acknowledge alert")]


def test_templates_of_ones_own_are_used(desk: Desk, tmp_path: Path):
    own = tmp_path / "templates"
    own.mkdir()
    (own / "alert.subject.txt").write_text("Desk: {{ commonLabels.deployment }} {{ alerts[0].value }}")
    bounds = desk.sending._bounds.model_copy(update={"templates": own})
    pool = desk.watch.store._writer  # type: ignore[attr-defined]
    told = Watch(PostgresAlerts(pool, PostgresOutbox(pool, bounds)), tmp_path, desk.watch.settings, desk.watch.database)
    told.queries.answers = [ROWS[:1]]
    told.evaluate_as_is(0, "aged")
    told.look(0)
    assert desk.sending.drain()
    until(lambda: len(desk.mail.taken) == 1)
    assert desk.mail.taken[0]["Subject"] == "Desk: fails 41.0"
