"""Which alerts are silenced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from trueup.alerts.matching import all_match
from trueup.domain.alert import Labels, Silence


def is_silenced(labels: Labels, silences: Sequence[Silence], now: datetime) -> bool:
    """Whether a silence that is in force matches."""
    return any(s.starts_at <= now < s.ends_at and all_match(s.matchers, labels) for s in silences)
