"""`trueup up`, which kills itself at a point that a test aims at.

TRUEUP_TEST_KILL is ``POINT:N``: the N-th time that the point is reached, the process is gone, as by ``kill -9``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from trueup.doors.cli.server import main
from trueup.ledger.postgres import PostgresLedger
from trueup.ledger.spool_files import SpoolFolder

POINTS: dict[str, tuple[type, str]] = {
    "written, not synced": (SpoolFolder, "append"),
    "synced, not answered": (SpoolFolder, "sync"),
    "booked, position not written": (PostgresLedger, "book"),
    "position written": (SpoolFolder, "_advance"),
    "committed, not answered": (PostgresLedger, "_receipt"),
}


def aim(point: str, nth: int) -> None:
    """Wraps the real function."""
    owner, name = POINTS[point]
    real: Callable[..., Any] = getattr(owner, name)
    calls = count(1)

    def deadly(*given: Any, **named: Any) -> Any:
        done = real(*given, **named)
        if next(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, name, deadly)


if __name__ == "__main__":
    if "TRUEUP_TEST_KILL" in os.environ:
        named_point, _, number = os.environ["TRUEUP_TEST_KILL"].partition(":")
        aim(named_point, int(number))
    sys.argv = ["trueup", *sys.argv[1:]]
    main()
