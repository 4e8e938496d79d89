"""A channel by Slack's incoming webhook, or one that takes its format (Mattermost, Rocket.Chat).

All that is told is plain text: nothing in it mentions people or becomes a link.
"""

from __future__ import annotations

import json
from typing import Any

from trueup.domain.message import Message
from trueup.notifying.bounding import cut
from trueup.notifying.http import Posting
from trueup.notifying.secrets import Secrets
from trueup.settings.notifying import SlackReceiver

HEADER_CHARS = 150  # the bounds of Slack's blocks
BLOCK_CHARS = 3_000
TEXT_BLOCKS = 3
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class SlackNotifier:
    """One incoming webhook. Its address is the secret."""

    def __init__(self, receiver: SlackReceiver, secrets: Secrets, timeout_s: float) -> None:
        """Raises InvalidInput where the address is missing."""
        self._secrets = secrets
        self._posting = Posting(receiver, timeout_s)
        secrets.needed("url")

    def send(self, message: Message) -> None:
        """Delivered when the answer is 2xx."""
        self._posting.post(self._secrets.needed("url"), json.dumps(document(message)).encode(), {})


def document(message: Message) -> dict[str, Any]:
    """Blocks, and the subject for where blocks are not shown."""
    text = cut(told(message), TEXT_BLOCKS * BLOCK_CHARS)
    parts = [text[start : start + BLOCK_CHARS] for start in range(0, len(text), BLOCK_CHARS)]
    subject = message.subject or message.kind
    return {
        "text": subject.translate(_ESCAPES),
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": cut(subject, HEADER_CHARS), "emoji": False}},
            *(
                {"type": "section", "text": {"type": "plain_text", "text": part, "emoji": False}}
                for part in parts
                if part.strip()
            ),
        ],
    }


def told(message: Message) -> str:
    """The text, and which files a chat cannot be sent."""
    if not message.attachments:
        return message.text
    return f"{message.text}\n\nFiles, not sent here: {', '.join(file.name for file in message.attachments)}"
