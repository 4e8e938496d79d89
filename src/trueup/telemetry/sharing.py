"""Cells in a file for each worker, so that any worker can answer a scrape for all of them.

A worker of several on one port has ``TRUEUP_WORKER``, its number, in its environment. Its cells
are a file mapped into memory: what it counted is there when it is killed, and its successor
counts on from there, so that no counter ever falls. The folder belongs to one supervisor (by
process id and start), and goes when that one is gone.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from trueup.telemetry.layout import NAME_BYTES, Layout, State
from trueup.telemetry.logs import log
from trueup.telemetry.metrics import Metrics

WORKER = "TRUEUP_WORKER"
SAMPLE_S = 1.0  # how old another worker's gauges may be
DEAD_S = 10.0  # a worker that has not sampled for so long has ended: its counters count, its gauges do not
MOST_WORKERS = 256
_NUMBER = re.compile(r"[0-9]{1,4}\Z")
_DIGEST_BYTES = 32


class Workers:
    """The workers' files in one folder, of which ``own`` is this process's."""

    def __init__(self, folder: Path, own: str, metrics: Metrics) -> None:
        self._folder = folder
        self.own = own
        self._metrics = metrics
        folder.mkdir(parents=True, exist_ok=True)
        layout = metrics.state.layout
        metrics.share(_mapped(self._path(own), layout))
        metrics.sample()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sampling, name="trueup-metrics", daemon=True)
        self._thread.start()

    @classmethod
    def joined(cls, run: Path, metrics: Metrics, environment: Mapping[str, str] = os.environ) -> Workers | None:
        """The workers under this process's supervisor; None where it is no worker. ``run`` holds their folders."""
        number = environment.get(WORKER, "")
        if not _NUMBER.match(number):
            return None
        supervisor = _life(os.getppid())
        try:
            _sweep(run / "metrics", keep=supervisor)
            return cls(run / "metrics" / supervisor, number, metrics)
        except OSError as error:
            log("telemetry").warning("metrics_not_shared", kind=type(error).__name__)
            return None

    def states(self) -> Iterator[tuple[str, State, bool]]:
        """Every worker's number, cells, and whether it lives; this one's are as of now."""
        layout = self._metrics.state.layout
        for path in sorted(self._folder.glob("*.cells"))[:MOST_WORKERS]:
            if path.stem == self.own:
                yield self.own, self._metrics.state, True
            elif (found := _read(path, layout)) is not None:
                sampled = float(found.views["process"][1])
                yield path.stem, found, time.time() - sampled < DEAD_S

    def leave(self) -> None:
        """Stops sampling; the counters stay for whoever scrapes next."""
        self._stopped.set()
        self._thread.join(SAMPLE_S)
        self._metrics.state.clear_gauges()

    def _path(self, number: str) -> Path:
        return self._folder / f"{number}.cells"

    def _sampling(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            try:
                self._metrics.sample()
            except Exception as error:  # a gauge that cannot be read now is read a second later
                log("telemetry").warning("not_sampled", kind=type(error).__name__)


def _bytes(layout: Layout) -> tuple[int, int]:
    """Where the cells begin, and where the file ends."""
    begin = _DIGEST_BYTES + layout.places * NAME_BYTES
    return begin, begin + layout.size * 8


def _mapped(path: Path, layout: Layout) -> State:
    """The file as cells that can be written; made anew where it holds other cells than these."""
    _, end = _bytes(layout)
    with path.open("a+b") as file:
        file.seek(0)
        if file.read(_DIGEST_BYTES) != layout.digest or path.stat().st_size != end:
            file.truncate(0)
            file.truncate(end)
            if hasattr(os, "posix_fallocate"):  # a hole that the disk has no room for kills whoever writes to it
                os.posix_fallocate(file.fileno(), 0, end)
        mapped = mmap.mmap(file.fileno(), end)
    mapped[:_DIGEST_BYTES] = layout.digest
    return _state(mapped, layout)


def _read(path: Path, layout: Layout) -> State | None:
    """A copy of another worker's cells; None where it is of another version, or just being made."""
    try:
        held = path.read_bytes()
    except OSError:
        return None
    if len(held) != _bytes(layout)[1] or held[:_DIGEST_BYTES] != layout.digest:
        return None
    return _state(held, layout)


def _state(held: mmap.mmap | bytes, layout: Layout) -> State:
    begin, _ = _bytes(layout)
    names = np.frombuffer(held, f"S{NAME_BYTES}", layout.places, _DIGEST_BYTES)
    return State(layout, np.frombuffer(held, np.float64, layout.size, begin), names)


def _life(pid: int) -> str:
    """A name for one life of a process: a later process with its number has another."""
    import psutil

    return f"{pid}-{int(psutil.Process(pid).create_time() * 100)}"


def _sweep(folder: Path, keep: str) -> None:
    """Removes the folders of supervisors that have ended."""
    import psutil

    for old in folder.glob("*-*"):
        pid = old.name.partition("-")[0]
        if old.name == keep or not pid.isdigit():
            continue
        try:
            lives = _life(int(pid)) == old.name
        except (psutil.Error, OSError, OverflowError):
            lives = False
        if not lives:
            shutil.rmtree(old, ignore_errors=True)
