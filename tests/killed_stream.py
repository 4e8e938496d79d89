"""`trueup stream`, which kills itself right after a step, the n-th time it is taken: ``TRUEUP_TEST_KILL=step:n``."""

from __future__ import annotations

import os
from typing import Any

from killing import killed_after
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


if __name__ == "__main__":
    wanted = os.environ.get("TRUEUP_TEST_KILL")
    if wanted:
        killed_after(STEPS, wanted, lambda step, result: step != "polled" or bool(result))
    main()
