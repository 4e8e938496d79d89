"""A worker: one process of several on a port. Started by the supervisor, never by hand.

Its database is open and up to date already; its connections and models are its own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import NoReturn

from trueup.bootstrap import open_worker
from trueup.doors.api.server import serve
from trueup.doors.cli.errors import debugging, show
from trueup.doors.cli.settings import read_settings
from trueup.doors.serving import SHUTDOWN_S
from trueup.doors.workers.order import Order
from trueup.errors import TrueupError
from trueup.telemetry import log


def main() -> NoReturn:
    """Serves until told to stop, or until the supervisor is gone. Exits with 0 when everything was answered."""
    order = Order.read(sys.argv[1])
    if not debugging():
        warnings.simplefilter("ignore")
    threading.Thread(target=_end_with_parent, args=(order,), name="trueup-lifeline", daemon=True).start()
    try:
        with open_worker(read_settings()) as services:
            clean = serve(
                services,
                host=order.host,
                port=order.port,
                drain_s=order.drain_s,
                started=lambda addresses: _say(order, addresses),
                shared=True,
                reports=Path(order.reports),
            )
    except TrueupError as error:
        sys.exit(show(error))
    sys.exit(0 if clean else 1)


def _say(order: Order, addresses: list[str]) -> None:
    os.write(order.control, (" ".join(addresses) + "\n").encode())
    os.close(order.control)


def _end_with_parent(order: Order) -> None:
    """Drains when the supervisor has ended, however it ended, and does not outlive it by more than that takes."""
    while os.read(order.lifeline, 64):
        pass
    log("workers").error("supervisor_gone")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(order.drain_s + 2 * SHUTDOWN_S)
    os._exit(1)


if __name__ == "__main__":
    main()
