"""A channel of Microsoft Teams by a workflow's webhook, as an adaptive card.

Texts are runs of a rich text block, in which Teams reads no Markdown: nothing in them becomes a link.
"""

from __future__ import annotations

import json
from typing import Any

from trueup.domain.message import Message
from trueup.notifying.bounding import cut
from trueup.notifying.http import Posting
from trueup.notifying.secrets import Secrets
from trueup.notifying.slack import told
from trueup.settings.notifying import TeamsReceiver

TEXT_CHARS = 6_000  # Teams refuses messages above 28 KB, and a character has up to four bytes


class TeamsNotifier:
    """One webhook. Its address is the secret."""

    def __init__(self, receiver: TeamsReceiver, secrets: Secrets, timeout_s: float) -> None:
        """Raises InvalidInput where the address is missing."""
        self._secrets = secrets
        self._posting = Posting(receiver, timeout_s)
        secrets.needed("url")

    def send(self, message: Message) -> None:
        """Delivered when the answer is 2xx."""
        body = json.dumps(document(message), ensure_ascii=False).encode()
        self._posting.post(self._secrets.needed("url"), body, {})


def document(message: Message) -> dict[str, Any]:
    """A message with one card."""
    lines = cut(told(message), TEXT_CHARS).split("\n")
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "fallbackText": message.subject,
        "body": [
            _block(message.subject or message.kind, weight="Bolder", size="Large"),
            *(_block(line) for line in lines[:100] if line.strip()),
        ],
    }
    kind = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": kind, "contentUrl": None, "content": card}]}


def _block(text: str, **look: str) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **look}]}
