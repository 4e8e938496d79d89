"""`trueup up` as a process of its own, on a database of the test's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from trueup.ledger.urls import Urls


@dataclass
class Running:
    """A server that runs. ``key`` is an admin's, "" where the database had one already."""

    process: subprocess.Popen[bytes]
    address: str  # host:port
    key: str
    log: Path

    def __post_init__(self) -> None:
        self._seen = psutil.Process(self.process.pid)

    def memory(self) -> int:
        """Bytes of the process that are in memory now."""
        return int(self._seen.memory_info().rss)

    @contextmanager
    def watched(self, most: int) -> Iterator[list[int]]:
        """Looks at the memory every 5 ms while the block runs, and asserts that it never exceeds ``most`` bytes."""
        seen = [self.memory()]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.005):
                seen.append(self.memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield seen
        finally:
            over.set()
            watcher.join()
        assert max(seen) <= most, f"{max(seen) / 2**20:.0f} MiB at the peak, {seen[0] / 2**20:.0f} MiB before"


@contextmanager
def running(database: Urls, folder: Path, **settings: str) -> Iterator[Running]:
    """Runs until the block is left; its output goes to ``folder``. ``settings`` are TRUEUP_* without the prefix."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "TRUEUP_DATABASE_URL": database.owner,
        "TRUEUP_DATA_DIR": str(folder / "data"),
        **{f"TRUEUP_{name}": value for name, value in settings.items()},
    }
    output = [folder / f"{os.urandom(4).hex()}.{name}" for name in ("out", "err")]
    with output[0].open("w") as out, output[1].open("w") as err:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "trueup", "up", "--port", "0", "--drain-seconds", "0"],
            stdout=out,
            stderr=err,
            env=environment,
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"listens on http://(\S+)", output[1].read_text())):
            assert process.poll() is None, output[1].read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        yield Running(process, found[1], output[0].read_text().strip(), output[1])
    finally:
        process.terminate()
        try:
            process.wait(40)
        finally:
            process.kill()
            process.wait()
