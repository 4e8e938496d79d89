"""Which alerts are told of together and when: Alertmanager's dispatcher and its de-duplication, pure.

A group first tells ``wait`` after its first alert fired, then looks every ``interval``: it tells when an alert fires
that was not told of, when one has ended, when the last has ended, and otherwise after ``repeat``, which is so rounded
up to a multiple of ``interval``. What fired and ended before the group first told is never told.

Beyond Alertmanager: a group all of whose firing alerts are acknowledged does not repeat itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from trueup.domain.alert import Group, Labels, Member, Pace

EVERY_LABEL = "..."


@dataclass(frozen=True, slots=True)
class Flushed:
    """A group after its moment: what it tells now (nothing: empty), and which members it holds no longer."""

    group: Group
    told: tuple[Member, ...]
    left: frozenset[str]


def group_of(labels: Labels, group_by: Sequence[str], receiver: str, first_at: datetime) -> Group:
    """The group of an alert, as it is before it has told anything."""
    named = labels if EVERY_LABEL in group_by else {name: labels[name] for name in group_by if labels.get(name)}
    identity = json.dumps([receiver, sorted(group_by), sorted(named.items())], ensure_ascii=False)
    key = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    return Group(key, receiver, dict(named), first_at)


def awakened(known: Group, new: Group) -> Group:
    """A group that gets an alert: it looks no later than ``new`` does if it rested or never looked."""
    if known.next_at is None:
        return replace(known, next_at=new.next_at, has_looked=False)
    if not known.has_looked and new.next_at is not None:
        return replace(known, next_at=min(known.next_at, new.next_at))
    return known


def flush(group: Group, members: Sequence[Member], muted: frozenset[str], now: datetime, pace: Pace) -> Flushed:
    """What the group tells at ``now``, which is its ``next_at`` or later. ``muted`` members are not looked at.

    Members that have ended leave, told or not.
    """
    assert group.next_at is not None
    nominal = group.next_at + (now - group.next_at) // pace.interval * pace.interval
    heard = [m for m in members if m.fingerprint not in muted]
    firing = frozenset(m.fingerprint for m in heard if m.ends_at is None)
    resolved = frozenset(m.fingerprint for m in heard if m.ends_at is not None)
    left = frozenset(m.fingerprint for m in members if m.ends_at is not None)
    group = replace(group, next_at=nominal + pace.interval if len(left) < len(members) else None, has_looked=True)
    if not heard or not _has_news(group, heard, firing, resolved, nominal, pace):
        return Flushed(group, (), left)
    told = replace(group, sequence=group.sequence + 1, told_at=nominal, firing=firing, resolved=resolved)
    return Flushed(told, tuple(heard), left)


def is_forgotten(group: Group, now: datetime, pace: Pace) -> bool:
    """Whether a group that rests has nothing left that a later alert would need."""
    if group.next_at is not None:
        return False
    return not group.firing or group.told_at is None or now - group.told_at > 2 * pace.repeat


def _has_news(
    group: Group,
    heard: Sequence[Member],
    firing: frozenset[str],
    resolved: frozenset[str],
    now: datetime,
    pace: Pace,
) -> bool:
    if group.told_at is None:
        return bool(firing)
    if not firing <= group.firing:
        return True
    if not firing:
        return bool(group.firing)
    if not resolved <= group.resolved:
        return True
    is_in_hand = all(m.is_acknowledged for m in heard if m.ends_at is None)
    return now - group.told_at >= pace.repeat and not is_in_hand
