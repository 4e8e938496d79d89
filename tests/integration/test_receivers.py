"""Each kind of receiver against a real server of its kind: what it is told, and which faults pass."""

from __future__ import annotations

import base64
import hmac
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from brokers import Cluster, free_ports
from certificates import Authority
from receiving import (
    ALERTS,
    PASSWORD,
    HttpReceiver,
    MailReceiver,
    answered,
    http_receiver,
    mail_receiver,
    message,
    until,
)
from trueup.domain.message import Attachment
from trueup.errors import InvalidInput, NotFound, Undelivered
from trueup.notifying.bounding import bounded
from trueup.notifying.outbox import identity_of
from trueup.notifying.receivers import open_notifier
from trueup.notifying.trying import try_receiver
from trueup.ports import Notifier
from trueup.settings import Notifying

ROOT = Path(__file__).parents[2]
KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2)]


def notifier(receiver: dict[str, Any], *, timeout_s: float = 5.0, **secrets: str) -> Notifier:
    return open_notifier("desk", bounds(receiver, timeout_s=timeout_s, **secrets))


def bounds(receiver: dict[str, Any], *, timeout_s: float = 5.0, **secrets: str) -> Notifying:
    return Notifying.model_validate(
        {"receivers": {"desk": receiver}, "secrets": {"desk": secrets}, "timeout_s": timeout_s}
    )


def fault(sender: Notifier, **changes: Any) -> Undelivered:
    with pytest.raises(Undelivered) as caught:
        sender.send(message(**changes))
    assert "fails" not in caught.value.message  # nothing of what is told
    assert PASSWORD not in caught.value.message
    return caught.value


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


class TestMail:
    @pytest.fixture
    def server(self) -> Iterator[MailReceiver]:
        with mail_receiver() as server:
            yield server

    def plainly(self, port: int, **changes: Any) -> dict[str, Any]:
        return {
            "kind": "email",
            "host": "127.0.0.1",
            "port": port,
            "security": "none",
            "sender": "trueup@bank.example",
            "to": ["desk@bank.example", "lead@bank.example"],
            **changes,
        }

    def test_a_mail_has_text_html_and_files(self, server: MailReceiver):
        files = (Attachment("day.csv", "text/csv", b"a,b\n1,2\n"), Attachment("day.pdf", "application/pdf", b"%PDF-"))
        told = message(subject="Täglich", html="<p>ü</p>", attachments=files, ordering="group")
        notifier(self.plainly(server.port)).send(told)
        (mail,) = server.taken
        assert server.addresses == [["desk@bank.example", "lead@bank.example"]]
        assert mail["Subject"] == "Täglich"
        assert mail["Message-ID"] == f"<{identity_of(told)}@bank.example>"
        assert mail["Auto-Submitted"] == "auto-generated"
        assert mail["References"]
        text, html = mail.get_body(("plain",)), mail.get_body(("html",))
        assert text is not None
        assert html is not None
        assert text.get_content().strip() == told.text
        assert html.get_content().strip() == "<p>ü</p>"
        found = {part.get_filename(): part.get_payload(decode=True) for part in mail.iter_attachments()}
        assert found == {"day.csv": b"a,b\n1,2\n", "day.pdf": b"%PDF-"}

    def test_the_same_message_has_the_same_id_and_another_another(self, server: MailReceiver):
        sender = notifier(self.plainly(server.port))
        for key in ("a", "a", "b"):
            sender.send(message(key))
        first, again, other = (mail["Message-ID"] for mail in server.taken)
        assert first == again != other

    @pytest.mark.parametrize(
        "subject", ["x\r\nBcc: evil@example.org", "x\nBcc: evil@example.org", "x\u2028Bcc: y@z.org"]
    )
    def test_no_header_can_be_put_in(self, server: MailReceiver, subject: str):
        name = "a.csv\r\nX-Evil: 1"
        told = message(subject=subject, attachments=(Attachment(name, "text/csv\r\nX-Evil: 1", b"1"),))
        notifier(self.plainly(server.port)).send(bounded(told, Notifying()))
        (mail,) = server.taken
        assert mail["Bcc"] is None
        assert "X-Evil" not in {name for part in mail.walk() for name in part}
        assert server.addresses == [["desk@bank.example", "lead@bank.example"]]

    @pytest.mark.parametrize("implicit", [False, True])
    def test_a_login_happens_in_tls_alone(self, authority: Authority, implicit: bool):
        with mail_receiver(authority.sign("mail"), implicit=implicit, login=True) as server:
            given = self.plainly(
                server.port, security="tls" if implicit else "starttls", ca=str(authority.file), user="trueup"
            )
            notifier(given, password=PASSWORD).send(message())
            assert [mail["Subject"] for mail in server.taken] == ["scores drift"]
            wrong = fault(notifier(given, password="wrong"))
            assert (wrong.is_passing, wrong.message) == (False, "the mail server answered 535")

    def test_a_certificate_that_is_not_trusted_is_told_nothing(self, authority: Authority, tmp_path: Path):
        with mail_receiver(authority.sign("mail")) as server:
            found = fault(notifier(self.plainly(server.port, security="starttls")))
            assert (found.is_passing, found.message) == (True, "the mail server's certificate is not trusted")
            assert server.taken == []

    def test_a_server_without_starttls_is_told_nothing(self, server: MailReceiver):
        found = fault(notifier(self.plainly(server.port, security="starttls")))
        assert found.is_passing
        assert server.taken == []

    @pytest.mark.parametrize(
        ("reply", "passing"), [("451 later", True), ("554 spam", False), ("452 full", True), ("550 no", False)]
    )
    def test_the_servers_code_says_whether_it_passes(self, server: MailReceiver, reply: str, passing: bool):
        server.replies["DATA"] = reply
        found = fault(notifier(self.plainly(server.port)))
        assert (found.is_passing, found.message) == (passing, f"the mail server answered {reply[:3]}")

    def test_what_one_address_takes_is_delivered_and_what_none_does_is_not(self, server: MailReceiver):
        server.replies["lead@bank.example"] = "550 unknown"
        sender = notifier(self.plainly(server.port))
        sender.send(message())
        assert server.addresses == [["desk@bank.example"]]
        server.replies["desk@bank.example"] = "450 greylisted"
        assert fault(sender).is_passing
        server.replies["desk@bank.example"] = "550 unknown"
        assert not fault(sender).is_passing

    def test_a_server_that_is_away_or_slow_passes(self, server: MailReceiver):
        (port,) = free_ports(1)
        assert fault(notifier(self.plainly(port))).is_passing
        server.waits_s = 3
        assert fault(notifier(self.plainly(server.port), timeout_s=0.5)).is_passing

    def test_a_server_that_drips_is_cut_off(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            dripping = notifier(self.plainly(server.getsockname()[1]), timeout_s=0.6)

            def drip() -> None:
                connection, _ = server.accept()
                with connection:
                    try:
                        while True:
                            connection.sendall(b"2")
                            time.sleep(0.05)
                    except OSError:
                        return

            thread = threading.Thread(target=drip, daemon=True)
            thread.start()
            assert fault(dripping).is_passing
            thread.join(10)
            assert not thread.is_alive()

    @pytest.mark.parametrize(
        "changes",
        [
            {"to": ["a@b.example\nBcc: c@d.example"]},
            {"to": []},
            {"sender": "Name <a@b.example>"},
            {"host": "mail.example", "user": "u"},  # a login in the clear
            {"password": "p"},
        ],
    )
    def test_wrong_settings_are_refused(self, changes: dict[str, Any]):
        with pytest.raises(ValueError, match="validation error"):
            bounds(self.plainly(25, **changes))


class TestHttp:
    @pytest.fixture
    def server(self) -> Iterator[HttpReceiver]:
        with http_receiver() as server:
            yield server

    def webhook(self, url: str, **changes: Any) -> Notifier:
        return notifier({"kind": "webhook", "url": url, **changes}, signing_key=f"whsec_{KEYS[0]}")

    def test_a_webhook_is_signed_as_standard_webhooks_says(self, server: HttpReceiver):
        given = {"kind": "webhook", "url": f"{server.url}/hook"}
        told = message(attachments=(Attachment("a.csv", "text/csv", b"x"),))
        notifier(given, signing_key=f"whsec_{KEYS[0]} whsec_{KEYS[1]}").send(told)
        (posted,) = server.posted
        identity, timestamp = posted.headers["webhook-id"], posted.headers["webhook-timestamp"]
        assert identity == str(identity_of(told))
        assert abs(int(timestamp) - time.time()) < 60
        content = b".".join((identity.encode(), timestamp.encode(), posted.body))
        expected = [base64.b64encode(hmac.new(base64.b64decode(k), content, "sha256").digest()).decode() for k in KEYS]
        assert posted.headers["webhook-signature"] == f"v1,{expected[0]} v1,{expected[1]}"
        body = json.loads(posted.body)
        assert body["alerts"] == ALERTS["alerts"]
        assert (body["id"], body["subject"]) == (identity, told.subject)
        assert [file["name"] for file in body["attachments"]] == ["a.csv"]

    def test_the_documented_check_of_a_signature_accepts_ours_and_no_other(self, server: HttpReceiver):
        page = (ROOT / "docs/reference/notifications.md").read_text(encoding="utf-8")
        (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        space: dict[str, Any] = {}
        exec(program, space)
        self.webhook(server.url).send(message())
        (posted,) = server.posted
        check = space["is_from_trueup"]
        assert check(posted.headers, posted.body, f"whsec_{KEYS[0]}")
        assert not check(posted.headers, posted.body, f"whsec_{KEYS[1]}")
        assert not check(posted.headers, posted.body + b" ", f"whsec_{KEYS[0]}")
        old = {**posted.headers, "webhook-timestamp": "1700000000"}
        assert not check(old, posted.body, f"whsec_{KEYS[0]}")

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422, 301, 307, 308])
    def test_what_the_receiver_refuses_does_not_pass_and_no_redirect_is_followed(
        self, server: HttpReceiver, status: int
    ):
        server.answer = lambda handler: answered(handler, status, Location=f"{server.url}/elsewhere")
        assert not fault(self.webhook(server.url)).is_passing
        assert [posted.path for posted in server.posted] == ["/"]

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
    def test_what_may_pass_passes(self, server: HttpReceiver, status: int):
        server.answer = lambda handler: answered(handler, status, Retry_After="77")
        found = fault(self.webhook(server.url))
        assert (found.is_passing, found.retry_after_s) == (True, 77)

    def test_retry_after_may_be_a_date_or_nonsense(self, server: HttpReceiver):
        later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        server.answer = lambda handler: answered(handler, 429, Retry_After=later)
        assert 3500 < (fault(self.webhook(server.url)).retry_after_s or 0) <= 3600
        for nonsense in ("soon", "-5", "9" * 400):
            server.answer = lambda handler, text=nonsense: answered(handler, 503, Retry_After=text)
            assert fault(self.webhook(server.url)).is_passing

    def test_a_receiver_that_hangs_drips_or_is_away_passes(self, server: HttpReceiver):
        def hang(handler: Any) -> None:
            time.sleep(3)

        def drip(handler: Any) -> None:
            for _ in range(100):
                handler.wfile.write(b"H")
                handler.wfile.flush()
                time.sleep(0.05)

        for answer in (hang, drip):
            server.answer = answer
            given = {"kind": "webhook", "url": server.url}
            assert fault(notifier(given, timeout_s=0.5, signing_key=f"whsec_{KEYS[0]}")).is_passing
        (port,) = free_ports(1)
        assert fault(self.webhook(f"http://127.0.0.1:{port}")).is_passing

    def test_an_endless_answer_is_not_read(self, server: HttpReceiver):
        sent = 0

        def endless(handler: Any) -> None:
            nonlocal sent
            handler.send_response(200)
            handler.end_headers()
            try:
                while sent < 2**30:
                    handler.wfile.write(b"x" * 65_536)
                    sent += 65_536
            except OSError:
                pass

        server.answer = endless
        self.webhook(server.url).send(message())
        assert sent < 2**27

    def test_the_environments_proxy_is_not_asked(self, server: HttpReceiver, monkeypatch: pytest.MonkeyPatch):
        (port,) = free_ports(1)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        self.webhook(server.url).send(message())
        assert len(server.posted) == 1

    def test_only_a_trusted_certificate_is_told_anything(self, authority: Authority):
        with http_receiver(authority.sign("hook")) as server:
            self.webhook(server.url, ca=str(authority.file)).send(message())
            assert len(server.posted) == 1
            found = fault(self.webhook(server.url))
            assert (found.is_passing, found.message) == (True, "the receiver's certificate is not trusted")
            assert len(server.posted) == 1

    def test_slack_is_told_plain_text_in_which_nobody_can_be_called(self, server: HttpReceiver):
        files = (Attachment("day.pdf", "application/pdf", b"x"),)
        told = message(subject="<!channel> & co", text="<http://evil|x>" + "y" * 20_000, attachments=files)
        notifier({"kind": "slack"}, url=f"{server.url}/services/T/B/x").send(told)
        (posted,) = server.posted
        body = json.loads(posted.body)
        assert posted.path == "/services/T/B/x"
        assert body["text"] == "&lt;!channel&gt; &amp; co"
        assert {block["text"]["type"] for block in body["blocks"]} == {"plain_text"}
        assert [block["type"] for block in body["blocks"]] == ["header", *["section"] * 3]
        assert all(len(block["text"]["text"]) <= 3_000 for block in body["blocks"])

    def test_teams_is_told_a_card_that_it_takes(self, server: HttpReceiver):
        notifier({"kind": "teams"}, url=server.url).send(message(text="[x](http://evil)\nline" + "é" * 20_000))
        (posted,) = server.posted
        assert len(posted.body) <= 28_000
        (attachment,) = json.loads(posted.body)["attachments"]
        assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
        assert {block["type"] for block in attachment["content"]["body"]} == {"RichTextBlock"}

    def test_an_address_in_the_clear_is_refused_unless_it_is_asked_for(self):
        for given in (
            {"kind": "webhook", "url": "http://hooks.example"},
            {"kind": "webhook", "url": "https://u:p@x.example"},
        ):
            with pytest.raises(ValueError, match="validation error"):
                bounds(given)
        assert bounds({"kind": "webhook", "url": "http://hooks.example", "insecure_http": True})
        assert not fault(notifier({"kind": "slack"}, url="http://hooks.example/x")).is_passing

    @pytest.mark.parametrize(
        "key", ["", "secret", "whsec_", "whsec_!!", f"whsec_{base64.b64encode(b'short').decode()}"]
    )
    def test_a_webhook_has_a_signing_key(self, key: str):
        with pytest.raises(InvalidInput):
            notifier({"kind": "webhook", "url": "https://hooks.example"}, signing_key=key)

    def test_secrets_may_be_files_that_change(self, server: HttpReceiver, tmp_path: Path):
        (tmp_path / "desk.url").write_text(f"{server.url}/one\n")
        given = bounds({"kind": "slack"}).model_copy(update={"secrets_folder": tmp_path})
        sender = open_notifier("desk", given)
        sender.send(message())
        (tmp_path / "desk.url").write_text(f"{server.url}/two\n")
        sender.send(message())
        assert [posted.path for posted in server.posted] == ["/one", "/two"]

    def test_trying_a_receiver_tells_it_something(self, server: HttpReceiver):
        given = bounds({"kind": "webhook", "url": server.url}, signing_key=f"whsec_{KEYS[0]}")
        identity = try_receiver("desk", given, "user:anna")
        (posted,) = server.posted
        assert posted.headers["webhook-id"] == identity
        assert json.loads(posted.body)["subject"] == "[FIRING] trueup_test (info): a test of this receiver"
        with pytest.raises(NotFound):
            try_receiver("other", given, "user:anna")


class TestKafka:
    def test_a_topic_gets_a_cloud_event_and_its_key(self, kafka: Cluster):
        topic = kafka.topic(f"notices-{time.time_ns()}")
        sender = notifier({"kind": "kafka", "bootstrap": kafka.bootstrap, "topic": topic})
        told = message(ordering="group")
        sender.send(told)
        sender.send(told)
        consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic, "auto.offset.reset": "earliest"})
        consumer.subscribe([topic])
        found: list[Any] = []
        until(lambda: found.extend(m for m in consumer.consume(2, 0.5) if m.error() is None) or len(found) >= 2)
        consumer.close()
        for record in found:
            headers = dict(record.headers())
            assert headers["ce_id"] == str(identity_of(told)).encode()
            assert headers["ce_specversion"] == b"1.0"
            assert headers["ce_type"] == b"trueup.alert"
            assert headers["content-type"] == b"application/json"
            assert record.key() == b"group"
            assert json.loads(record.value())["alerts"] == ALERTS["alerts"]

    def test_a_topic_that_does_not_take_it_says_so(self, kafka: Cluster):
        topic = kafka.topic(f"small-{time.time_ns()}", max_message_bytes="1000")
        sender = notifier({"kind": "kafka", "bootstrap": kafka.bootstrap, "topic": topic})
        found = fault(sender)
        assert (found.is_passing, found.message) == (False, "Kafka did not take it (MSG_SIZE_TOO_LARGE)")

    def test_brokers_that_are_away_pass(self):
        (port,) = free_ports(1)
        away = notifier({"kind": "kafka", "bootstrap": f"127.0.0.1:{port}", "topic": "t"}, timeout_s=1)
        assert fault(away).is_passing
        assert fault(away).is_passing

    def test_what_delivery_rests_on_cannot_be_set(self):
        for client in ({"acks": "0"}, {"no.such.setting": "1"}):
            with pytest.raises(InvalidInput):
                notifier({"kind": "kafka", "bootstrap": "localhost:9092", "topic": "t", "client": client})


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    assert program is not None, "Alertmanager is needed (Debian: apt install prometheus-alertmanager)"
    folder = tmp_path_factory.mktemp("alertmanager")
    (folder / "alertmanager.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [
            program,
            f"--config.file={folder}/alertmanager.yml",
            f"--storage.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(f"{url}/-/ready"))
        yield url
    finally:
        process.kill()
        process.wait()


class TestAlertmanager:
    """The real one: Debian's package prometheus-alertmanager."""

    def held(self, url: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{url}/api/v2/alerts?active=true") as answer:
            return {alert["labels"]["deployment"]: alert for alert in json.load(answer)}

    def test_alerts_fire_and_resolve_there(self, alertmanager: str):
        sender = notifier({"kind": "alertmanager", "url": alertmanager})
        odd = {**ALERTS["alerts"][0], "labels": {"deployment": "fails", "risk class": "a", "9": "x", "none": ""}}
        told = {**ALERTS, "alerts": [odd, ALERTS["alerts"][1]]}
        sender.send(message(payload=told))
        sender.send(message(payload=told))
        firing = self.held(alertmanager)["fails"]
        assert firing["labels"] == {"deployment": "fails", "risk_class": "a", "_9": "x"}
        assert firing["annotations"] == {"summary": "scores drift", "note": "look"}
        assert firing["startsAt"].startswith("2026-11-20T08:00:00")
        assert firing["endsAt"] > datetime.now(UTC).isoformat()
        assert "late" not in self.held(alertmanager)  # it is resolved
        over = {**odd, "status": "resolved", "endsAt": datetime.now(UTC).isoformat()}
        sender.send(message(payload={**ALERTS, "alerts": [over]}))
        assert "fails" not in self.held(alertmanager)

    def test_what_it_refuses_and_what_holds_no_alert_does_not_pass(self, alertmanager: str):
        sender = notifier({"kind": "alertmanager", "url": alertmanager})
        unlabelled = {**ALERTS, "alerts": [{"labels": {}, "startsAt": "2026-11-20T08:00:00Z"}]}
        assert fault(sender, payload=unlabelled).message == "the receiver answered 400"
        assert not fault(sender, payload={"version": "1"}).is_passing

    def test_a_login_goes_with_it(self):
        with http_receiver() as server:
            notifier({"kind": "alertmanager", "url": server.url, "user": "u"}, password=PASSWORD).send(message())
            notifier({"kind": "alertmanager", "url": f"{server.url}/am/"}, token="t").send(message())
            first, second = server.posted
        assert first.headers["authorization"] == f"Basic {base64.b64encode(f'u:{PASSWORD}'.encode()).decode()}"
        assert second.headers["authorization"] == "Bearer t"
        assert [first.path, second.path] == ["/api/v2/alerts", "/am/api/v2/alerts"]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
