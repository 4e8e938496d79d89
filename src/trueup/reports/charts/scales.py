"""From values to places in a picture, with ticks at round values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

DAY_S = 86_400.0
_HOUR_S = 3_600.0
_STEPS_S = tuple(_HOUR_S * n for n in (1, 3, 6, 12)) + tuple(DAY_S * n for n in (1, 2, 7, 14))
_MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 240)


@dataclass(frozen=True, slots=True)
class Tick:
    """A value that is marked, and what stands there."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps ``low`` to ``start`` and ``high`` to ``end``, straight."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...] = ()

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Bands:
    """Gives each of some values a stretch of its own."""

    values: tuple[str, ...]
    start: float
    end: float

    @property
    def step(self) -> float:
        """From one value to the next."""
        return (self.end - self.start) / max(len(self.values), 1)

    def __call__(self, index: int) -> float:
        """The middle of a value's stretch."""
        return self.start + (index + 0.5) * self.step

    def shown(self, width_of: Callable[[str], float]) -> list[int]:
        """The values whose labels have room: every one, or every so manieth."""
        widest = max((width_of(value) for value in self.values), default=0.0) + 8
        every = max(1, math.ceil(widest / abs(self.step))) if self.values else 1
        return list(range(0, len(self.values), every))


def linear(values: Sequence[float], start: float, end: float, write: Callable[[float], str], *, zero: bool) -> Scale:
    """A scale over the values with about five ticks, from zero where ``zero`` or where zero is near."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if zero or 0 < low < 0.5 * high:
        low = min(low, 0.0)
    if zero or 0.5 * low < high < 0:
        high = max(high, 0.0)
    if low == high:
        low, high = (low - abs(low) * 0.5, high + abs(high) * 0.5) if low else (0.0, 1.0)
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(Tick(i * step, write(i * step)) for i in range(first, last + 1))
    return Scale(first * step, last * step, start, end, ticks)


def moments(seconds: Sequence[float], start: float, end: float) -> Scale:
    """A scale over moments (seconds since 1970), with ticks at round days, months or years."""
    low, high = (min(seconds), max(seconds)) if seconds else (0.0, DAY_S)
    if low == high:
        low, high = low - DAY_S / 2, high + DAY_S / 2
    most = max(3, int(abs(end - start) / 75))
    return Scale(low, high, start, end, tuple(_moment_ticks(low, high, most)))


def seconds_of(text: str) -> float:
    """An ISO day or moment as seconds since 1970."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _round_step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next((size * n for n in (1, 2, 2.5, 5) if size * n >= rough * (1 - 1e-9)), size * 10)


def _moment_ticks(low: float, high: float, most: int) -> list[Tick]:
    for step in _STEPS_S:
        if (high - low) / step <= most:
            first = math.ceil(low / step) * step
            return [
                Tick(first + i * step, _label(first + i * step, step)) for i in range(int((high - first) / step) + 1)
            ]
    for months in _MONTHS:
        ticks = _month_ticks(low, high, months)
        if len(ticks) <= most or months == _MONTHS[-1]:
            return ticks
    return []


def _month_ticks(low: float, high: float, months: int) -> list[Tick]:
    first, last = _utc(low), _utc(high)
    ticks = []
    for count in range((first.year * 12) // months * months, last.year * 12 + 12, months):
        at = datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC).timestamp() if count >= 12 else low - 1
        if low <= at <= high:
            ticks.append(Tick(at, f"{_utc(at):%Y}" if months >= 12 else f"{_utc(at):%b %Y}"))
    return ticks


def _label(seconds: float, step: float) -> str:
    at = _utc(seconds)
    if step < DAY_S and at.hour:
        return f"{at:%H:%M}"
    return f"{at.day} {at:%b}"


def _utc(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def day_label(text: str) -> str:
    """An ISO day in the words of an axis: 15 Feb 2021."""
    found = date.fromisoformat(text[:10])
    return f"{found.day} {found:%b %Y}"
