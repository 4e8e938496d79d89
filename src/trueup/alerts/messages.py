"""What is told of a group: sentences for people, and Alertmanager's webhook document for machines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from trueup.domain.alert import ALERTNAME, Group, Labels, Member
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
        subject=_subject(group, told, firing),
        text=_text(told, shown),
        payload=payload,
        ordering=f"alert:{group.key}",
    )


def _key(group: Group, told: Sequence[Member]) -> str:
    """The same alerts at the same moment are the same message; a group that was forgotten counts from one again."""
    what = [(one.fingerprint, _moment(one.starts_at), one.ends_at and _moment(one.ends_at)) for one in told]
    identity = json.dumps([group.sequence, group.told_at and _moment(group.told_at), what])
    return f"alert:{group.key}:{hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()}"


def _subject(group: Group, told: Sequence[Member], firing: int) -> str:
    status = f"FIRING:{firing}" if firing else "RESOLVED"
    common = _common([one.labels for one in told])
    name = common.get(ALERTNAME, "alerts")
    others = [text for key, text in sorted({**common, **group.labels}.items()) if key not in (ALERTNAME, "severity")]
    return f"[{status}] {' '.join([name, *others])}"[:200]


def _text(told: Sequence[Member], shown: Sequence[Member]) -> str:
    blocks = [_block(one) for one in shown]
    if len(told) > len(shown):
        blocks.append(f"and {len(told) - len(shown)} more")
    return "\n\n".join(blocks) + "\n"


def _block(one: Member) -> str:
    status = "FIRING" if one.ends_at is None else "RESOLVED"
    lines = [f"{status}: {one.annotations.get('summary') or one.labels[ALERTNAME]}"]
    if one.annotations.get("description"):
        lines.append(one.annotations["description"])
    lines.append("labels: " + ", ".join(f"{name}={text}" for name, text in sorted(one.labels.items())))
    lines.append(f"since: {_moment(one.starts_at)}" + (f", until: {_moment(one.ends_at)}" if one.ends_at else ""))
    if one.annotations.get("runbook_url"):
        lines.append(f"runbook: {one.annotations['runbook_url']}")
    lines.append(f"alert: {one.fingerprint}")
    return "\n".join(lines)


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
