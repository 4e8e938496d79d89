"""Interleaved rounds: every contestant once a round, so that a drifting machine is fair to all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def medians(contestants: dict[str, Callable[[], object]], *, rounds: int = 15, calls: int = 1) -> dict[str, float]:
    """Median seconds of one call of each contestant."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()
    for _ in range(rounds):
        for name, call in contestants.items():
            began = time.perf_counter()
            for _ in range(calls):
                call()
            times[name].append((time.perf_counter() - began) / calls)
    return {name: statistics.median(measured) for name, measured in times.items()}


def half(columns: object) -> list[float]:
    """A model for benchmarks that measure something else."""
    return [0.5] * len(columns)  # type: ignore[arg-type]
