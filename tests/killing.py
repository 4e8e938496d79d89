"""Programs that kill themselves right after a step, the n-th time it is taken, as a machine that loses power."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

Step = tuple[Any, str]  # whose function, and its name


def killed_after(
    steps: Mapping[str, Step], said: str, counts: Callable[[str, Any], bool] = lambda step, result: True
) -> None:
    """From now on a process that ends after ``said``, ``step:n``. ``counts``: whether what a step gave was one."""
    step, _, times = said.partition(":")
    owner, name = steps[step]
    original = getattr(owner, name)
    left = int(times)

    def wrapped(*parameters: Any, **named: Any) -> Any:
        nonlocal left
        result = original(*parameters, **named)
        left -= counts(step, result)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)
