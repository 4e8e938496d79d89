"""Durations as Prometheus writes them."""

from __future__ import annotations

import re
from datetime import timedelta

from trueup.errors import InvalidFile

_DURATION = re.compile(r"(?:(\d{1,4})w)?(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?\Z")


def parse_duration(text: object, what: str) -> timedelta:
    """``30s``, ``5m``, ``1h30m``, ``2d``, ``1w`` or 0. Raises InvalidFile, which names ``what``."""
    found = _DURATION.match(str(text)) if text not in ("", 0, "0") else None
    if found is None or not any(found.groups()):
        if text in (0, "0"):
            return timedelta()
        raise InvalidFile(f"{what}: not a duration", next_step="write 30s, 5m, 1h30m or 2d")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
