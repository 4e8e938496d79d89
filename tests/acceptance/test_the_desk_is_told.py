"""Steps of messages.feature."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_bdd import given, parsers, scenarios, then, when

import trueup
from receiving import ALERTS, HttpReceiver, MailReceiver, http_receiver, mail_receiver, until
from trueup.bootstrap import Services, open_sending, wired
from trueup.domain.message import Message
from trueup.ledger.urls import Urls
from trueup.notifying.rendering import Rendering

scenarios("messages.feature")

KEY = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@dataclass
class Told:
    """A desk with its two receivers."""

    services: Services
    mail: MailReceiver
    tickets: HttpReceiver

    def tell(self, alert: str, status: str) -> None:
        payload: dict[str, Any] = {**ALERTS, "status": status, "groupLabels": {"alertname": alert}}
        shown = Rendering(self.services.settings.notify).alert(payload)
        with self.services._pools[1].transaction() as connection:
            told = [
                Message(
                    f"{alert}:{status}:{to}", to, "alert", shown.subject, shown.text, shown.html, payload, (), alert
                )
                for to in ("mail", "tickets")
            ]
            self.services.outbox.add(told, within=connection)
            if status == "undone":
                raise ZeroDivisionError

    def waiting(self, receiver: str) -> int:
        query = "SELECT count(*) AS n FROM messages WHERE receiver = %(receiver)s AND state = 'waiting'"
        return int(self.services.queries.rows(query, {"receiver": receiver})[0]["n"])


@pytest.fixture
def desk(fresh_database: Urls, tmp_path: Path) -> Iterator[Told]:
    with mail_receiver() as mail, http_receiver() as tickets:
        notify = {
            "receivers": {
                "mail": {
                    "kind": "email",
                    "host": "127.0.0.1",
                    "port": mail.port,
                    "security": "none",
                    "sender": "trueup@bank.example",
                    "to": ["desk@bank.example"],
                },
                "tickets": {"kind": "webhook", "url": tickets.url},
            },
            "secrets": {"tickets": {"signing_key": KEY}},
            "retry_s": 0.001,
            "retry_most_s": 0.001,
        }
        settings = trueup.Settings.model_validate({"data_dir": tmp_path, "notify": notify})
        with wired(settings, fresh_database) as services:
            yield Told(services, mail, tickets)


@given("a desk that is told by mail and by its ticket program")
def _(desk: Told): ...


@given("the mail server takes nothing")
def _(desk: Told):
    desk.mail.replies["DATA"] = "451 come again"


@when("the mail server works again")
def _(desk: Told):
    desk.mail.replies.clear()


@when(parsers.parse('the alert "{alert}" fires'))
def _(desk: Told, alert: str):
    desk.tell(alert, "firing")


@when(parsers.parse('the alert "{alert}" is over'))
def _(desk: Told, alert: str):
    desk.tell(alert, "resolved")


@when(parsers.parse('the alert "{alert}" fires, but its evaluation is undone'))
def _(desk: Told, alert: str):
    with suppress(ZeroDivisionError):
        desk.tell(alert, "undone")


@when("the same evaluation is repeated")
def _(desk: Told):
    desk.tell("ScoreDrift", "firing")


@when("messages are sent")
def _(desk: Told):
    with open_sending(desk.services) as sending:
        if desk.mail.replies:
            sending.sweep()
        else:
            until(lambda: sending.drain() is not None and desk.waiting("mail") == 0)


@then(parsers.parse('the desk has a mail "{subject}"'))
def _(desk: Told, subject: str):
    assert [mail["Subject"] for mail in desk.mail.taken] == [subject]


@then("the desk has no mail")
def _(desk: Told):
    assert desk.mail.taken == []


@then(parsers.parse('the desk has mails that begin with "{first}" and "{second}", in this order'))
def _(desk: Told, first: str, second: str):
    assert [mail["Subject"].split()[0] for mail in desk.mail.taken] == [first, second]


@then(parsers.re(r"the ticket program has (?P<count>\d+) messages?, each with its own id"), converters={"count": int})
def _(desk: Told, count: int):
    ids = [posted.headers["webhook-id"] for posted in desk.tickets.posted]
    assert len(ids) == len(set(ids)) == count


@then(parsers.re(r"(?P<count>\d+) messages? waits? for the mail server"), converters={"count": int})
def _(desk: Told, count: int):
    assert desk.waiting("mail") == count
