"""Alerts to a Prometheus Alertmanager, by its API v2 (POST /api/v2/alerts).

Alertmanager knows an alert by its labels, so one that is sent twice is one. It takes a firing alert for resolved when
nobody repeats it: ``firing_for_s`` is how long it waits for that.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from trueup.domain.message import Message
from trueup.errors import Undelivered
from trueup.notifying.http import Posting
from trueup.notifying.secrets import Secrets
from trueup.settings.notifying import AlertmanagerReceiver

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")
_NEVER = "0001-01-01"  # of an alert that has no end, as Go writes it


class AlertmanagerNotifier:
    """One Alertmanager."""

    def __init__(self, receiver: AlertmanagerReceiver, secrets: Secrets, timeout_s: float) -> None:
        """Raises InvalidInput where the login's password is missing."""
        self._receiver = receiver
        self._secrets = secrets
        self._posting = Posting(receiver, timeout_s)
        self._headers()

    def send(self, message: Message) -> None:
        """Delivered when the answer is 2xx. A message without alerts is none that it could take."""
        given = message.payload.get("alerts")
        alerts = [alert for alert in given if isinstance(alert, Mapping)] if isinstance(given, list) else []
        if not alerts:
            raise Undelivered("an Alertmanager takes alerts, and the message has none", is_passing=False)
        body = json.dumps([self._alert(alert) for alert in alerts], ensure_ascii=False).encode()
        self._posting.post(self._receiver.url.rstrip("/") + "/api/v2/alerts", body, self._headers())

    def _alert(self, alert: Mapping[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {
            "labels": _labels(alert.get("labels")),
            "annotations": _labels(alert.get("annotations")),
        }
        starts, ends = str(alert.get("startsAt") or ""), str(alert.get("endsAt") or "")
        if starts:
            told["startsAt"] = starts
        if not ends or ends.startswith(_NEVER):
            fires = 0.0 if alert.get("status") == "resolved" else self._receiver.firing_for_s
            ends = (datetime.now(UTC) + timedelta(seconds=fires)).isoformat()
        told["endsAt"] = ends
        if str(alert.get("generatorURL") or "").startswith(("http://", "https://")):
            told["generatorURL"] = str(alert["generatorURL"])
        return told

    def _headers(self) -> dict[str, str]:
        if self._receiver.user is not None:
            login = f"{self._receiver.user}:{self._secrets.needed('password')}"
            return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        token = self._secrets.find("token")
        return {"Authorization": f"Bearer {token}"} if token else {}


def _labels(given: Any) -> dict[str, str]:
    """Names that Alertmanager takes, and values that are not empty, which to it are as good as absent."""
    if not isinstance(given, Mapping):
        return {}
    return {_name(str(name)): str(value) for name, value in given.items() if value not in (None, "")}


def _name(text: str) -> str:
    found = _NOT_IN_NAMES.sub("_", text)
    return f"_{found}" if not found or found[0].isdigit() else found
