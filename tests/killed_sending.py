"""`trueup`, which kills itself right after a step of sending, the n-th time it is taken.

``TRUEUP_TEST_KILL=step:n`` says which.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from trueup.doors.cli.server import main
from trueup.notifying.postgres import PostgresOutbox
from trueup.notifying.webhook import WebhookNotifier

STEPS: dict[str, tuple[Any, str]] = {
    "claimed": (PostgresOutbox, "claim"),
    "sent": (WebhookNotifier, "send"),
    "marked": (PostgresOutbox, "sent"),
    "failed": (PostgresOutbox, "failed"),
}


def killed_after(step: str, times: int) -> None:
    owner, name = STEPS[step]
    original = getattr(owner, name)
    left = times

    def wrapped(*parameters: Any, **named: Any) -> Any:
        nonlocal left
        result = original(*parameters, **named)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    wanted = os.environ.get("TRUEUP_TEST_KILL")
    if wanted:
        killed_after(wanted.partition(":")[0], int(wanted.partition(":")[2]))
    main()
