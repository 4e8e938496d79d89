"""Receivers as settings declare them -> notifiers. What a technology needs is imported when its first one is opened."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from trueup.errors import NotFound
from trueup.notifying.secrets import Secrets
from trueup.notifying.sending import Opened
from trueup.ports import Notifier
from trueup.settings import Notifying
from trueup.settings.notifying import (
    AlertmanagerReceiver,
    EmailReceiver,
    KafkaReceiver,
    Receiver,
    SlackReceiver,
    TeamsReceiver,
)


def declared(bounds: Notifying) -> Mapping[str, Opened]:
    """How each receiver is opened, by name."""
    return {name: partial(open_notifier, name, bounds) for name in bounds.receivers}


def open_notifier(name: str, bounds: Notifying) -> Notifier:
    """Raises NotFound for a name that is not declared, InvalidInput for a wrong or missing secret, MissingExtra."""
    receiver = bounds.receivers.get(name)
    if receiver is None:
        raise NotFound("no such receiver", next_step="TRUEUP_NOTIFY__RECEIVERS declares them")
    return _notifier(receiver, Secrets(name, bounds), bounds.timeout_s)


def _notifier(receiver: Receiver, secrets: Secrets, timeout_s: float) -> Notifier:
    if isinstance(receiver, EmailReceiver):
        from trueup.notifying.smtp import EmailNotifier

        return EmailNotifier(receiver, secrets, timeout_s)
    if isinstance(receiver, KafkaReceiver):
        from trueup.notifying.kafka import KafkaNotifier

        return KafkaNotifier(receiver, secrets, timeout_s)
    if isinstance(receiver, AlertmanagerReceiver):
        from trueup.notifying.alertmanager import AlertmanagerNotifier

        return AlertmanagerNotifier(receiver, secrets, timeout_s)
    if isinstance(receiver, SlackReceiver):
        from trueup.notifying.slack import SlackNotifier

        return SlackNotifier(receiver, secrets, timeout_s)
    if isinstance(receiver, TeamsReceiver):
        from trueup.notifying.teams import TeamsNotifier

        return TeamsNotifier(receiver, secrets, timeout_s)
    from trueup.notifying.webhook import WebhookNotifier

    return WebhookNotifier(receiver, secrets, timeout_s)
