"""Posting to a receiver by HTTP (extra `client`): one attempt, bounded as a whole.

Addresses come from settings alone, never from what is told. No redirect is followed, no proxy or login of the
environment is used, and of an answer nothing is read but its status and ``Retry-After``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from trueup.errors import InvalidInput, MissingExtra, Undelivered
from trueup.settings.notifying import AlertmanagerReceiver, SlackReceiver, TeamsReceiver, WebhookReceiver

try:
    import httpx2
except ImportError:
    raise MissingExtra("client", "telling a receiver by HTTP") from None

HttpReceiver = WebhookReceiver | SlackReceiver | TeamsReceiver | AlertmanagerReceiver
PASSING = frozenset((408, 425, 429))  # and whatever is 500 or above


class Posting:
    """How one receiver is reached."""

    def __init__(self, receiver: HttpReceiver, timeout_s: float) -> None:
        """Raises InvalidInput for a file of authorities that is none."""
        self._receiver = receiver
        self._timeout_s = timeout_s
        try:
            ca = receiver.ca
            self._tls = httpx2.create_ssl_context() if ca is None else ssl.create_default_context(cafile=ca)
        except (OSError, ssl.SSLError):
            raise InvalidInput("the receiver's `ca` is no file of certificates") from None

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Returns when it was answered with success. Raises Undelivered."""
        if not self._receiver.may_be_sent_to(url):
            raise Undelivered("the receiver's address is not https", is_passing=False)
        try:
            status, retry_after = asyncio.run(self._posted(url, body, headers))
        except (TimeoutError, httpx2.TimeoutException):
            raise Undelivered("the receiver did not answer in time", is_passing=True) from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise Undelivered("the receiver's address is none", is_passing=False) from None
        except httpx2.HTTPError as error:
            raise Undelivered(_why(error), is_passing=True) from None
        if not 200 <= status < 300:
            passing = status in PASSING or status >= 500
            raise Undelivered(f"the receiver answered {status}", is_passing=passing, retry_after_s=retry_after)

    async def _posted(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, float | None]:
        async with asyncio.timeout(self._timeout_s), self._client() as client:
            about = {"Content-Type": "application/json", "User-Agent": "trueup", **headers}
            async with client.stream("POST", url, content=body, headers=about) as response:
                return response.status_code, _seconds(response.headers.get("retry-after"))

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            verify=self._tls,
            proxy=self._receiver.proxy,
            timeout=self._timeout_s,
            follow_redirects=False,
            trust_env=False,
        )


def _seconds(text: str | None) -> float | None:
    """What Retry-After asks for: seconds, or a date."""
    if text is None:
        return None
    try:
        return (
            float(int(text)) if text.isdecimal() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        )
    except (ValueError, TypeError, OverflowError):
        return None


def _why(error: BaseException) -> str:
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            break
        if isinstance(found, ssl.SSLCertVerificationError):
            return "the receiver's certificate is not trusted"
        found = found.__cause__ or found.__context__
    return f"the receiver cannot be reached ({type(error).__name__})"
