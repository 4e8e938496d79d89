"""When to ask again, and when to stop: arithmetic on a clock, free of any network."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from trueup.errors import InvalidInput, TrueupError

AGAIN = frozenset({429, 502, 503, 504})  # statuses after which the same request may be answered


@dataclass(frozen=True, slots=True)
class Retries:
    """Bounds of asking again.

    Pauses double from ``first_s`` to ``longest_s`` seconds, each cut at random ("full jitter"). A ``Retry-After`` of
    the server is waited for in full. A pause that the call's deadline does not leave time for is not begun.
    """

    attempts: int = 5
    first_s: float = 0.1
    longest_s: float = 5.0

    def __post_init__(self) -> None:
        if not (1 <= self.attempts <= 100 and 0 <= self.first_s <= self.longest_s <= 3_600):
            raise InvalidInput("retries: 1 to 100 attempts, and 0 <= first_s <= longest_s <= 3600 seconds")


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that failed. ``again``: whether another may do better."""

    error: TrueupError
    again: bool
    retry_after_s: float | None = None


class Attempts:
    """The attempts of one call. ``seconds`` before each, ``pause`` after one that failed."""

    def __init__(
        self,
        retries: Retries,
        timeout_s: float,
        clock: Callable[[], float],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._retries = retries
        self._clock = clock
        self._draw = draw
        self._end = clock() + timeout_s
        self._made = 0

    def seconds(self, attempt_s: float) -> float:
        """Seconds that the next attempt may take, at least a millisecond."""
        self._made += 1
        return max(1e-3, min(attempt_s, self._end - self._clock()))

    def pause(self, failed: Failed) -> float:
        """Seconds to wait before the next attempt. Raises the error where there is to be none."""
        longest = min(self._retries.longest_s, self._retries.first_s * 2.0 ** (self._made - 1))
        pause = longest * self._draw() + (failed.retry_after_s or 0.0)
        if not failed.again or self._made >= self._retries.attempts or self._clock() + pause >= self._end:
            raise failed.error
        return pause


def retry_after(header: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header, which is a number or a date; None where it is neither."""
    if header is None:
        return None
    if header.isascii() and header.strip().isdigit():
        return float(header.strip()[:9])
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
