"""Prometheus' alerting semantics, said over a whole history at once, to hold the state machine against.

A history is a list of (moment, present). Nothing here steps: an instance's life is cut into episodes, and each
episode is described by when it begins, fires and ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

History = list[tuple[int, bool]]


@dataclass(frozen=True)
class Episode:
    """Moments: of the first row, of firing (None: never), and of the evaluation that ended it (None: still on)."""

    active: int
    fired: int | None
    ended: int | None


def episodes(history: History, hold: int, keep: int) -> list[Episode]:
    if not any(present for _, present in history):
        return []
    start = next(i for i, (_, present) in enumerate(history) if present)
    life = history[start:]
    active = life[0][0]
    together = list(takewhile(lambda one: one[1], life))
    fired = next((at for at, _ in together if at - active >= hold), None)
    ended = _end(life, keep) if fired is not None else next((at for at, present in life if not present), None)
    found = Episode(active, fired, ended)
    rest = [] if ended is None else [one for one in life if one[0] > ended]
    return [found, *episodes(rest, hold, keep)]


def _end(life: History, keep: int) -> int | None:
    """The first moment at which the absence that includes it has lasted for ``keep``."""
    for i, (at, present) in enumerate(life):
        if present:
            continue
        since = next(life[j + 1][0] for j in range(i, -1, -1) if life[j][1])
        if at - since >= keep:
            return at
    return None


def state_at(history: History, hold: int, keep: int, retention: int, now: int) -> tuple[str, int | None, int | None]:
    """(state, active since, fired at) after the evaluation at ``now``; ``gone`` where nothing is remembered."""
    known = [one for one in history if one[0] <= now]
    lives = episodes(known, hold, keep)
    if not lives:
        return "gone", None, None
    last = lives[-1]
    if last.ended is None:
        return ("pending" if last.fired is None else "firing"), last.active, last.fired
    fired = [e for e in lives if e.fired is not None]
    if last.fired is None or not fired:
        return "gone", None, None
    assert last.ended is not None
    return ("gone", None, None) if now - last.ended > retention else ("inactive", last.active, last.fired)
