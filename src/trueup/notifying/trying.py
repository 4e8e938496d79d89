"""Telling a receiver something at once, to see whether its settings are right."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from trueup.domain.message import Message
from trueup.notifying.bounding import bounded
from trueup.notifying.outbox import identity_of
from trueup.notifying.receivers import open_notifier
from trueup.notifying.rendering import Rendering
from trueup.settings import Notifying

FIRES_FOR = timedelta(minutes=5)


def try_receiver(name: str, bounds: Notifying, by: str) -> str:
    """Sends a test past the outbox and returns the id it has. Raises Undelivered, or as ``open_notifier``."""
    notifier = open_notifier(name, bounds)
    message = bounded(_message(name, bounds, by), bounds)
    notifier.send(message)
    return str(identity_of(message))


def _message(name: str, bounds: Notifying, by: str) -> Message:
    now = datetime.now(UTC)
    labels = {"alertname": "trueup_test", "severity": "info", "receiver": name}
    annotations = {"summary": "a test of this receiver", "description": f"Sent by {by}. Nothing is wrong."}
    alert = {
        "status": "firing",
        "labels": labels,
        "annotations": annotations,
        "startsAt": now.isoformat(),
        "endsAt": (now + FIRES_FOR).isoformat(),
        "generatorURL": "",
        "fingerprint": "",
    }
    payload = {
        "version": "4",
        "groupKey": "trueup_test",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": name,
        "groupLabels": {"alertname": labels["alertname"]},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "",
        "alerts": [alert],
    }
    shown = Rendering(bounds).alert(payload)
    return Message(f"test:{uuid4()}", name, "test", shown.subject, shown.text, shown.html, payload)
