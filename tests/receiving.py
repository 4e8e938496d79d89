"""Receivers of messages on real sockets, and what they are told."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from brokers import free_ports
from certificates import Pair
from trueup.domain.message import Message

PASSWORD = "correct horse"
ALERTS: dict[str, Any] = {
    "version": "4",
    "groupKey": "g",
    "truncatedAlerts": 0,
    "status": "firing",
    "receiver": "desk",
    "groupLabels": {"alertname": "ScoreDrift"},
    "commonLabels": {"alertname": "ScoreDrift", "severity": "warning"},
    "commonAnnotations": {"summary": "scores drift", "runbook_url": "https://runbooks.example/drift"},
    "externalURL": "",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "ScoreDrift", "severity": "warning", "deployment": "fails"},
            "annotations": {"summary": "scores drift", "note": "look"},
            "startsAt": "2026-11-20T08:00:00+00:00",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "",
            "fingerprint": "f1",
            "value": 0.31,
        },
        {
            "status": "resolved",
            "labels": {"alertname": "ScoreDrift", "severity": "warning", "deployment": "late"},
            "annotations": {"summary": "scores drift"},
            "startsAt": "2026-11-20T07:00:00+00:00",
            "endsAt": "2026-11-20T08:00:00+00:00",
            "generatorURL": "",
            "fingerprint": "f2",
        },
    ],
}


def message(key: str = "k1", **changes: Any) -> Message:
    """A message about alerts."""
    return replace(Message(key, "desk", "alert", "scores drift", "Look at <fails> & more.", payload=ALERTS), **changes)


@dataclass
class Posted:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class HttpReceiver:
    """What was posted, and what is answered: ``answer`` is given the handler, and may do with it what it likes."""

    url: str = ""
    posted: list[Posted] = field(default_factory=list)
    answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: answered(handler, 200)


def answered(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"ok", **headers: str) -> None:
    """An ordinary answer. In ``headers``, ``_`` stands for a hyphen."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def http_receiver(pair: Pair | None = None) -> Iterator[HttpReceiver]:
    """A server of HTTP, or of HTTPS with a certificate."""
    receiver = HttpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            receiver.posted.append(Posted(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            receiver.answer(self)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.url = f"http{'s' if pair else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


class MailReceiver:
    """What an SMTP server took. ``replies`` says what it answers to a command (RCPT by address, DATA) instead."""

    def __init__(self) -> None:
        self.port = 0
        self.taken: list[EmailMessage] = []
        self.addresses: list[list[str]] = []
        self.in_tls: list[bool] = []
        self.replies: dict[str, str] = {}
        self.waits_s = 0.0

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.replies:
            return self.replies[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        import asyncio

        await asyncio.sleep(self.waits_s)
        if "DATA" in self.replies:
            return self.replies["DATA"]
        found = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(found, EmailMessage)
        self.taken.append(found)
        self.addresses.append(list(envelope.rcpt_tos))
        self.in_tls.append(session.ssl is not None)
        return "250 OK"


@contextmanager
def mail_receiver(pair: Pair | None = None, *, implicit: bool = False, login: bool = False) -> Iterator[MailReceiver]:
    """An SMTP server: in the clear, or with STARTTLS (or TLS from the beginning) where there is a certificate."""
    receiver = MailReceiver()
    context = None
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)

    def authenticated(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        right = isinstance(data, LoginPassword) and data.password == PASSWORD.encode()
        return AuthResult(success=right, handled=right)

    options: dict[str, Any] = {}
    if login:
        options = {"authenticator": authenticated, "auth_required": True, "auth_require_tls": pair is not None}
    if context is not None and not implicit:
        options |= {"tls_context": context, "require_starttls": True}
    if context is not None and implicit:
        options["auth_require_tls"] = False  # the library does not see that the socket is
    (receiver.port,) = free_ports(1)
    implicitly = context if implicit else None
    controller = Controller(
        receiver, hostname="127.0.0.1", port=receiver.port, ssl_context=implicitly, ready_timeout=20, **options
    )
    controller.start()
    try:
        yield receiver
    finally:
        controller.stop()


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Waits for it."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
