"""How often someone may come: a bucket of tokens each, kept for a bounded number of them.

A bucket holds ``burst`` tokens and gains ``per_s`` tokens a second. What is asked takes tokens; where there
are too few, it is refused with the time after which there are enough. The arithmetic is in whole
nanoseconds: a bucket is one number, the moment at which it will be full again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """``cost_ns`` refills one token; ``burst_ns`` refills the whole bucket."""

    cost_ns: int
    burst_ns: int

    @classmethod
    def of(cls, per_s: float, burst: float) -> Rate | None:
        """So many a second; None for 0. Burst 0 stands for what a second brings, and for 1 at least."""
        if per_s <= 0:
            return None
        cost = max(1, round(SECOND / per_s))
        return cls(cost, max(cost, round(cost * (burst or per_s))))


def take(rate: Rate, full_at: int, now: int, tokens: int) -> tuple[int, int]:
    """The bucket after ``tokens`` are asked for at ``now``, and the wait in ns: 0 where they were given.

    More tokens than the bucket ever holds are given where it is full, and are owed: the rate holds in the long run.
    """
    begins = max(full_at, now)
    need = tokens * rate.cost_ns
    wait = begins + min(need, rate.burst_ns) - now - rate.burst_ns
    return (full_at, wait) if wait > 0 else (begins + need, 0)


class Buckets:
    """One bucket a name, at most ``most`` of them; the one used longest ago is forgotten first.

    A forgotten bucket is full when it is made again: the bound on memory outranks the bound on the rate.
    Safe for threads. Each process counts for itself.
    """

    def __init__(self, rate: Rate, most: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._rate = rate
        self._most = most
        self._clock = clock
        self._full_at: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        self.refused = 0  # since the start

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, name: str, tokens: int = 1) -> float:
        """Seconds to wait: 0 where the tokens were given."""
        with self._lock:
            full_at, wait = take(self._rate, self._full_at.get(name, 0), self._clock(), tokens)
            if wait:
                self.refused += 1
            self._full_at[name] = full_at
            self._full_at.move_to_end(name)
            if len(self._full_at) > self._most:
                self._full_at.popitem(last=False)
        return wait / SECOND

    def wait(self, name: str) -> float:
        """Seconds until there is a token, none taken."""
        with self._lock:
            wait = take(self._rate, self._full_at.get(name, 0), self._clock(), 1)[1]
            if wait:
                self.refused += 1
            return wait / SECOND
