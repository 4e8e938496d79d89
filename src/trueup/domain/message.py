"""What is told to somebody outside: by mail, webhook, topic or chat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes with a message, where its channel has files."""

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to tell one receiver, once.

    ``key`` identifies it: adding a message whose key is known adds nothing. ``ordering`` groups messages of which the
    earlier goes first (an alert group: its resolve notice must not overtake it); empty: no order. ``payload`` are
    plain JSON values for machines, with ``version``, ``status`` (``firing`` or ``resolved``), ``groupLabels``,
    ``commonLabels``, ``commonAnnotations`` and ``alerts`` as in Alertmanager's webhooks where the message is about
    alerts. An alert whose ``text`` is empty is worded by the outbox.
    """

    key: str
    receiver: str
    kind: str  # alert, report
    subject: str
    text: str
    html: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    ordering: str = ""
