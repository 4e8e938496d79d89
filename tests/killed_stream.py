"""`trueup stream`, which kills itself right after a step, the n-th time it is taken: ``TRUEUP_TEST_KILL=step:n``."""

from __future__ import annotations

import os
import signal
from typing import Any

from trueup.doors.cli.server import main
from trueup.doors.kafka.confluent import ConfluentBroker
from trueup.doors.kafka.handlers import Handlers
from trueup.doors.kafka.replies import Replies
from trueup.doors.kafka.server import StreamServer
from trueup.ledger.streaming import PostgresStreams

STEPS: dict[str, tuple[Any, str]] = {
    "assigned": (StreamServer, "assigned"),
    "polled": (StreamServer, "_polled"),
    "scored": (Handlers, "_predicted"),
    "sent": (PostgresStreams, "_commit"),  # in the booking thread, when the commit was confirmed
    "booked": (Handlers, "book"),
    "answered": (Replies, "answer"),
    "confirmed": (Replies, "_delivered"),
    "forgotten": (Replies, "_forget"),
    "committed": (ConfluentBroker, "commit"),
}


def killed_after(step: str, times: int) -> None:
    owner, name = STEPS[step]
    original = getattr(owner, name)
    left = times

    def wrapped(*parameters: Any, **named: Any) -> Any:
        nonlocal left
        result = original(*parameters, **named)
        if name != "_polled" or result:
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
