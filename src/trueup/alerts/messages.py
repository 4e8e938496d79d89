"""What is told of a group: Alertmanager's webhook document. The outbox words it for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from trueup.domain.alert import Group, Labels, Member
from trueup.domain.message import Message

_NEVER = "0001-01-01T00:00:00Z"  # Alertmanager's word for an end that is not known


def message_of(group: Group, told: Sequence[Member], most: int) -> Message:
    """The message of a group that tells for the ``sequence``-th time. At most ``most`` alerts are in it, those
    that fire first."""
    shown = sorted(told, key=lambda one: one.ends_at is not None)[:most]
    firing = sum(one.ends_at is None for one in told)
    payload = {
        "version": "4",
        "groupKey": group.key,
        "truncatedAlerts": len(told) - len(shown),
        "status": "firing" if firing else "resolved",
        "receiver": group.receiver,
        "groupLabels": dict(group.labels),
        "commonLabels": _common([one.labels for one in told]),
        "commonAnnotations": _common([one.annotations for one in told]),
        "externalURL": "",
        "alerts": [_document(one) for one in shown],
    }
    return Message(
        key=_key(group, told),
        receiver=group.receiver,
        kind="alert",
        subject="",
        text="",
        payload=payload,
        ordering=f"alert:{group.key}",
    )


def _key(group: Group, told: Sequence[Member]) -> str:
    """The same alerts at the same moment are the same message; a group that was forgotten counts from one again."""
    what = [(one.fingerprint, _moment(one.starts_at), one.ends_at and _moment(one.ends_at)) for one in told]
    identity = json.dumps([group.sequence, group.told_at and _moment(group.told_at), what])
    return f"alert:{group.key}:{hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()}"


def _document(one: Member) -> dict[str, Any]:
    return {
        "status": "firing" if one.ends_at is None else "resolved",
        "labels": dict(one.labels),
        "annotations": dict(one.annotations),
        "startsAt": _moment(one.starts_at),
        "endsAt": _NEVER if one.ends_at is None else _moment(one.ends_at),
        "generatorURL": "",
        "fingerprint": one.fingerprint,
        **({} if one.value is None else {"value": one.value}),
    }


def _moment(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _common(many: Sequence[Labels]) -> Mapping[str, str]:
    first, *others = many
    return {name: text for name, text in first.items() if all(one.get(name) == text for one in others)}
