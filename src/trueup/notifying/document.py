"""A message as JSON for machines: the same by webhook and by topic."""

from __future__ import annotations

import hashlib
from typing import Any

from trueup.domain.message import Message
from trueup.notifying.outbox import identity_of


def document(message: Message) -> dict[str, Any]:
    """What is posted: the payload, with what it is about beside it. Files are named, not sent."""
    return {
        **message.payload,
        "id": str(identity_of(message)),
        "receiver": message.receiver,
        "kind": message.kind,
        "subject": message.subject,
        "text": message.text,
        "attachments": [
            {
                "name": file.name,
                "media_type": file.media_type,
                "bytes": len(file.content),
                "sha256": hashlib.sha256(file.content).hexdigest(),
            }
            for file in message.attachments
        ],
    }
