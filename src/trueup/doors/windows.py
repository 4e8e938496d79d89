"""Windows and instants of knowledge as people write them."""

from __future__ import annotations

from datetime import date

from trueup.domain.monitoring import KnownBy, Window, WindowKind
from trueup.errors import InvalidQuery
from trueup.monitoring.windows import window_of as calendar_window


def window_of(text: str) -> Window:
    """``half-month:2021-01-16``: the window of that kind which holds the day. Raises InvalidQuery."""
    kind, _, day = text.partition(":")
    try:
        return calendar_window(WindowKind(kind), date.fromisoformat(day))
    except (ValueError, OverflowError):
        raise InvalidQuery(
            "a window is KIND:DAY", next_step=f"for example half-month:2021-01-16; kinds: {', '.join(WindowKind)}"
        ) from None


def known_by_of(text: str) -> KnownBy:
    """``recorded`` or ``observed``. Raises InvalidQuery."""
    try:
        return KnownBy(text)
    except ValueError:
        raise InvalidQuery("a fact is known by `recorded` or `observed`") from None
