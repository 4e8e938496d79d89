"""How each worker is: a file a worker, so that any of them can tell for all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil

from trueup.bootstrap import Services
from trueup.doors.workers.order import WORKER
from trueup.telemetry import log
from trueup.telemetry.metrics import resident_bytes

REPORT_S = 1.0
MOST_WORKERS = 64


class Reports:
    """``own`` describes this process. In a ``folder`` it is written every ``REPORT_S``, and others' are read."""

    def __init__(self, own: Callable[[], dict[str, Any]], folder: Path | None = None) -> None:
        self._own = own
        self._folder = folder
        self._stopped = threading.Event()

    def start(self) -> None:
        """Writes until ``stop``."""
        if self._folder is not None:
            threading.Thread(target=self._writing, name="trueup-reports", daemon=True).start()

    def stop(self) -> None:
        """Writes no more."""
        self._stopped.set()

    def all(self) -> list[dict[str, Any]]:
        """Every worker's report, this one's as of now and the others' of the last second or so."""
        own = self._own()
        found = {own["worker"]: own}
        for path in [] if self._folder is None else sorted(self._folder.glob("*.json"))[:MOST_WORKERS]:
            try:
                other = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
                found.setdefault(int(other["worker"]), other)
            except (OSError, KeyError, ValueError, TypeError):
                continue  # it has just ended
        return [found[number] for number in sorted(found)]

    def _writing(self) -> None:
        assert self._folder is not None
        while True:
            own = self._own()
            place = path_of(self._folder, own["worker"])
            try:
                fresh = place.with_suffix(".new")
                fresh.write_bytes(msgspec.json.encode(own))
                fresh.replace(place)
            except OSError as error:
                log("workers").warning("not_reported", kind=type(error).__name__)
            if self._stopped.wait(REPORT_S):
                return


def path_of(folder: Path, number: int) -> Path:
    """Where a worker's report is."""
    return folder / f"{number}.json"


def number() -> int:
    """This worker's, 1 where there is only one."""
    text = os.environ.get(WORKER, "1")
    return int(text) if text.isdigit() else 1


def reporting(services: Services, draining: Callable[[], bool]) -> Callable[[], dict[str, Any]]:
    """Makes what describes this process."""
    began, process, models = time.monotonic(), psutil.Process(), services.scoring.models
    started_at = datetime.fromtimestamp(process.create_time(), UTC).isoformat()

    def report() -> dict[str, Any]:
        return {
            "worker": number(),
            "pid": process.pid,
            "started_at": started_at,
            "uptime_s": round(time.monotonic() - began, 1),
            "rss_bytes": resident_bytes(),
            "ready": models.ready() and not draining(),
            "deployments": models.counts(),
            "models": models.listed(),
        }

    return report
