"""`trueup`, which kills itself right after a step of sending, the n-th time it is taken.

``TRUEUP_TEST_KILL=step:n`` says which.
"""

from __future__ import annotations

import os
from typing import Any

from killing import killed_after
from trueup.doors.cli.server import main
from trueup.notifying.postgres import PostgresOutbox
from trueup.notifying.webhook import WebhookNotifier

STEPS: dict[str, tuple[Any, str]] = {
    "claimed": (PostgresOutbox, "claim"),
    "sent": (WebhookNotifier, "send"),
    "marked": (PostgresOutbox, "sent"),
    "failed": (PostgresOutbox, "failed"),
}


if __name__ == "__main__":
    wanted = os.environ.get("TRUEUP_TEST_KILL")
    if wanted:
        killed_after(STEPS, wanted)
    main()
