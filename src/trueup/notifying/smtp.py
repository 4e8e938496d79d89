"""Mail by SMTP. ``Message-ID`` is made of the message's key, so that a mail sent twice is known as one."""

from __future__ import annotations

import smtplib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, localtime
from socket import SHUT_RDWR
from uuid import NAMESPACE_URL, uuid5

from trueup.domain.message import Message
from trueup.errors import InvalidInput, Undelivered
from trueup.notifying.bounding import one_line
from trueup.notifying.outbox import identity_of
from trueup.notifying.secrets import Secrets
from trueup.settings.notifying import EmailReceiver
from trueup.telemetry import log

HEADER_CHARS = 900


class EmailNotifier:
    """Addresses that one server takes mail for."""

    def __init__(self, receiver: EmailReceiver, secrets: Secrets, timeout_s: float) -> None:
        """Raises InvalidInput where the password is missing, or `ca` is no file of certificates."""
        self._receiver = receiver
        self._secrets = secrets
        self._timeout_s = timeout_s
        try:
            self._tls = ssl.create_default_context(cafile=receiver.ca)
        except (OSError, ssl.SSLError):
            raise InvalidInput("the receiver's `ca` is no file of certificates") from None
        self._password()

    def send(self, message: Message) -> None:
        """Delivered when the server has taken it for one address at least; addresses that it refuses are logged."""
        mail = composed(message, self._receiver)
        password = self._password()
        try:
            with self._server() as server:
                if self._receiver.security == "starttls":
                    server.starttls(context=self._tls)
                if self._receiver.user is not None:
                    server.login(self._receiver.user, password)
                refused = server.send_message(mail, self._receiver.sender, self._receiver.to)
        except smtplib.SMTPRecipientsRefused as error:
            codes = sorted({code for code, _ in error.recipients.values()})
            passing = any(code < 500 for code in codes)
            raise Undelivered(f"the mail server refuses every address ({codes})", is_passing=passing) from None
        except smtplib.SMTPResponseException as error:
            code = error.smtp_code
            raise Undelivered(f"the mail server answered {code}", is_passing=not 500 <= code < 600) from None
        except ssl.SSLCertVerificationError:
            raise Undelivered("the mail server's certificate is not trusted", is_passing=True) from None
        except smtplib.SMTPNotSupportedError:
            raise Undelivered("the mail server offers no STARTTLS or no known login", is_passing=True) from None
        except (OSError, smtplib.SMTPException) as error:
            raise Undelivered(f"the mail server cannot be reached ({type(error).__name__})", is_passing=True) from None
        if refused:
            codes = sorted({code for code, _ in refused.values()})
            log("notifying").error("addresses_refused", receiver=message.receiver, addresses=len(refused), codes=codes)

    def _password(self) -> str:
        return "" if self._receiver.user is None else self._secrets.needed("password")

    @contextmanager
    def _server(self) -> Iterator[smtplib.SMTP]:
        """Connected. The library bounds each answer; the watch bounds all of them together."""
        host, port = self._receiver.host, self._receiver.port
        if self._receiver.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(timeout=self._timeout_s, context=self._tls)
        else:
            server = smtplib.SMTP(timeout=self._timeout_s)
        server._host = host  # type: ignore[attr-defined]  # what TLS checks the certificate for
        watch = threading.Timer(self._timeout_s, _cut_off, [server])
        watch.daemon = True
        watch.start()
        try:
            server.connect(host, port)
            yield server
            with suppress(OSError, smtplib.SMTPException):  # it was taken, whatever becomes of the farewell
                server.quit()
        finally:
            watch.cancel()
            server.close()


def _cut_off(server: smtplib.SMTP) -> None:
    with suppress(OSError, AttributeError):
        assert server.sock is not None
        server.sock.shutdown(SHUT_RDWR)


def composed(message: Message, receiver: EmailReceiver) -> EmailMessage:
    """The mail. No header holds a line end: neither of what is told, nor of the settings, which say addresses only."""
    domain = receiver.sender.rpartition("@")[2]
    mail = EmailMessage(policy=SMTP)
    mail["Subject"] = one_line(message.subject, HEADER_CHARS) or message.kind
    mail["From"] = receiver.sender
    mail["To"] = ", ".join(receiver.to)
    mail["Date"] = format_datetime(localtime())
    mail["Message-ID"] = f"<{identity_of(message)}@{domain}>"
    if message.ordering:  # what belongs together is shown together
        mail["References"] = f"<{uuid5(NAMESPACE_URL, message.ordering)}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.text)
    if message.html:
        mail.add_alternative(message.html, subtype="html")
    for file in message.attachments:
        main, _, sub = file.media_type.partition("/")
        mail.add_attachment(file.content, maintype=main, subtype=sub, filename=file.name)
    return mail
