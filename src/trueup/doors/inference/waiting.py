"""What waits for one deployment, and when it is worth a batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trueup.doors.inference.asks import Ask
from trueup.settings import Limits

FIXED_ROWS = 32


@dataclass(slots=True)
class Pace:
    """How long decoding and predicting take: ``row_ns`` for a row, as if a batch were ``FIXED_ROWS`` rows longer."""

    row_ns: float = 1e6  # unknown: as if it were slow

    def took(self, rows: int, ns: int) -> None:
        """Learns from a batch."""
        self.row_ns += 0.2 * (ns / (rows + FIXED_ROWS) - self.row_ns)

    def rows(self, most_ms: float) -> int:
        """How many rows are done within ``most_ms`` milliseconds."""
        return int(most_ms * 1e6 / self.row_ns) - FIXED_ROWS


@dataclass(slots=True)
class Line:
    """What waits for one deployment and kind of source."""

    waiting: deque[Ask] = field(default_factory=deque)
    rows: int = 0
    in_flight: int = 0  # batches
    booking: int = 0  # rows of them
    arrived: int = 0  # requests, since the start
    keys: set[str] = field(default_factory=set)  # of them: a repeat waits until its first is booked
    crowd: int = 0  # the most rows that lately waited or were being booked
    watched: bool = False  # a later turn of the loop will look whether a batch can start
    pace: Pace = field(default_factory=Pace)

    def has_its_share(self, limits: Limits) -> bool:
        """Whether half of the crowd waits, or a full batch: the other half is being booked or answered meanwhile."""
        share = min((self.crowd + 1) // 2, limits.gathered_rows)
        return self.rows >= share and self.in_flight < limits.commits_in_flight

    def may_go_on(self, limits: Limits) -> bool:
        """Whether a batch may start when nobody else comes: none is being booked, or a quarter of the crowd waits."""
        return not self.in_flight or (self.in_flight < limits.commits_in_flight and 4 * self.rows >= self.crowd)

    def came(self, ask: Ask) -> None:
        """One more waits."""
        self.waiting.append(ask)
        self.rows += ask.rows
        self.arrived += 1
        self.crowd = max(self.crowd, self.rows + self.booking)

    def started(self, asks: Sequence[Ask]) -> None:
        """A batch is being booked."""
        self.in_flight += 1
        self.booking += sum(ask.rows for ask in asks)
        for ask in asks:
            self.keys.update(ask.source.keys)

    def ended(self, asks: Sequence[Ask]) -> None:
        """A batch is booked."""
        self.crowd -= (self.crowd - self.booking - self.rows + 7) // 8  # whoever stayed away is forgotten by and by
        self.in_flight -= 1
        self.booking -= sum(ask.rows for ask in asks)
        for ask in asks:
            self.keys.difference_update(ask.source.keys)

    def next_batch(self, bound: int, expired: Callable[[Ask], None]) -> list[Ask]:
        """Takes what goes into the next batch; the rest keeps its order."""
        chosen: list[Ask] = []
        left: list[Ask] = []
        keys: set[str] = set()
        rows, now = 0, time.monotonic()
        while self.waiting and rows < bound and len(left) < bound:
            ask = self.waiting.popleft()
            if (ask.answer is not None and ask.answer.done()) or (ask.deadline is not None and now > ask.deadline):
                self.rows -= ask.rows
                expired(ask)
                continue
            fits = not chosen or (ask.goes_with(chosen[0]) and rows + ask.rows <= bound)
            if not fits or not (keys.isdisjoint(ask.source.keys) and self.keys.isdisjoint(ask.source.keys)):
                left.append(ask)
                continue
            chosen.append(ask)
            keys.update(ask.source.keys)
            rows += ask.rows
        self.waiting.extendleft(reversed(left))
        self.rows -= rows
        return chosen
