"""The garbage collector of a process that serves for long."""

from __future__ import annotations

import gc


def calm_collector() -> None:
    """What is loaded now stays: the garbage collector need not walk through it while requests wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
