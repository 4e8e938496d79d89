"""Signed JSON by HTTP, as https://www.standardwebhooks.com says: its libraries check the signature.

``webhook-id`` is the message's id, the same at every attempt; ``webhook-timestamp`` the seconds of this attempt;
``webhook-signature`` ``v1,`` and the base64 of the HMAC-SHA256 of ``id.timestamp.body``, one for each signing key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import time

from trueup.domain.message import Message
from trueup.errors import InvalidInput
from trueup.notifying.document import document
from trueup.notifying.http import Posting
from trueup.notifying.outbox import identity_of
from trueup.notifying.secrets import Secrets
from trueup.settings.notifying import WebhookReceiver

PREFIX = "whsec_"
LEAST_KEY_BYTES = 24


class WebhookNotifier:
    """One address that is posted to."""

    def __init__(self, receiver: WebhookReceiver, secrets: Secrets, timeout_s: float) -> None:
        """Raises InvalidInput where the signing key or the address is missing."""
        self._receiver = receiver
        self._secrets = secrets
        self._posting = Posting(receiver, timeout_s)
        self._keys()
        self._url()

    def send(self, message: Message) -> None:
        """Delivered when the answer is 2xx."""
        body = json.dumps(document(message), ensure_ascii=False, allow_nan=False).encode()
        headers = signed(str(identity_of(message)), int(time.time()), body, self._keys())
        self._posting.post(self._url(), body, headers)

    def _url(self) -> str:
        return self._receiver.url or self._secrets.needed("url")

    def _keys(self) -> list[bytes]:
        return [signing_key(text) for text in self._secrets.needed("signing_key").split()]


def signed(identity: str, timestamp: int, body: bytes, keys: list[bytes]) -> dict[str, str]:
    """The three headers."""
    content = f"{identity}.{timestamp}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys]
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def signing_key(text: str) -> bytes:
    """The bytes of ``whsec_...``. Raises InvalidInput."""
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(PREFIX) or len(key) < LEAST_KEY_BYTES:
        raise InvalidInput(
            "a signing key is `whsec_` and the base64 of 24 bytes or more",
            next_step="make one: echo whsec_$(openssl rand -base64 32)",
        )
    return key
