"""`trueup up` as processes of its own, and callers that keep it busy on kept connections."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trueup
from trueup.ledger.urls import Urls

CONTRACT = trueup.load_contract("""
name: t
version: 1
fields:
  account: {type: string, role: key}
  amount: float64
output: {kind: probability}
""")


class Up:
    """A running server; ``key`` is its first admin key."""

    def __init__(self, folder: Path, urls: Urls | None, *, workers: int, drain: str = "1", **environment: str) -> None:
        database = {} if urls is None else {"TRUEUP_DATABASE_URL": urls.owner}
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            **database,
            "TRUEUP_DATA_DIR": str(folder / "data"),
            "PYTHONPATH": os.pathsep.join(paths),
            **environment,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trueup", "up", "--port", "0", "--workers", str(workers), "--drain-seconds", drain],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=self.environment,
        )
        self.said: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(pipe,), daemon=True)
            for pipe in (self.process.stdout, self.process.stderr)
        ]
        for thread in self._threads:
            thread.start()
        self.address = self.told(r"listens on http://(\S+)")
        self.key = next((line for line in self.said if line.startswith("tu_")), "")

    def _read(self, pipe: Any) -> None:
        for line in pipe:
            self.said.append(line.strip())

    def told(self, pattern: str, seconds: float = 60) -> str:
        """What it said, once it has."""
        found: list[str] = []

        def said() -> bool:
            found.extend(m[1] for line in list(self.said) if (m := re.search(pattern, line)))
            return bool(found) or self.process.poll() is not None

        until(said, seconds)
        assert found, "\n".join(self.said)
        return found[0]

    def get(self, path: str) -> tuple[int, Any]:
        """Status and document, on a connection of its own."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.key}"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def ask(self, number: int, key: str, amount: float, oip: bool = False) -> tuple[int, Any]:
        """One request on a connection of its own."""
        caller = Caller(self, f"one-{number}")
        try:
            return caller.asked(key, amount, oip=oip)
        finally:
            caller.connection.close()

    def workers(self) -> list[dict[str, Any]]:
        """What each worker reports."""
        status, found = self.get("/v1/server")
        assert status == 200
        workers: list[dict[str, Any]] = found["workers"]
        return workers

    def pids(self) -> list[int]:
        """Process ids of the workers; none where the question came to one that is being killed."""
        try:
            return [worker["pid"] for worker in self.workers()]
        except (ConnectionError, http.client.HTTPException):
            return []

    def ready(self) -> bool:
        """Whether it says so."""
        try:
            return self.get("/health/ready")[0] == 200
        except OSError:
            return False

    def stop(self, sig: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Its exit code."""
        self.process.send_signal(sig)
        return self.process.wait(seconds)


@contextmanager
def running(folder: Path, urls: Urls | None, *, workers: int, drain: str = "1", **environment: str) -> Iterator[Up]:
    """Kills it at the end, if it runs still."""
    up = Up(folder, urls, workers=workers, drain=drain, **environment)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.kill()
        up.process.wait(60)
        for thread in up._threads:
            thread.join(90)


@dataclass
class Answered:
    """One request's end: ``status`` 0 where no answer came, ``whole`` False where half of one did."""

    key: str
    status: int
    document: Any = None
    whole: bool = True
    closing: bool = False  # the answer said `Connection: close`


@dataclass
class Caller:
    """Sends one request after another, records and tensors in turn, on a kept connection."""

    up: Up
    name: str
    again: bool = False  # keeps calling though the connection was refused or lost, under the same key
    ends: list[Answered] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.connection = http.client.HTTPConnection(self.up.address, timeout=30)
        self.thread = threading.Thread(target=self._call, daemon=True)

    def asked(self, key: str, amount: float, *, oip: bool = False) -> tuple[int, Any]:
        """Sends one request and reads its answer; whatever the connection raises passes through."""
        headers = {"Authorization": f"Bearer {self.up.key}", "Content-Type": "application/json"}
        if oip:
            body: Any = {"inputs": [_tensor("account", "BYTES", key), _tensor("amount", "FP64", amount)]}
            path, headers["Idempotency-Key"] = "/v2/models/t/infer", key
        else:
            body, path = {"instance": {"account": key, "amount": amount}, "key": key}, "/v1/deployments/t/score"
        self.connection.request("POST", path, json.dumps(body), headers)
        answer = self.connection.getresponse()
        self.closing = answer.will_close
        return answer.status, json.loads(answer.read())

    def _call(self) -> None:
        number = 0
        while not self.stopped.is_set():
            if self.connection.sock is None:
                try:
                    self.connection.connect()
                except OSError:
                    if not self.again:
                        return
                    time.sleep(0.01)
                    continue
            key, oip = f"{self.name}-{number}", bool(number % 2)
            try:
                status, document = self.asked(key, 1000.0 * (number % 900), oip=oip)
                self.ends.append(Answered(key, status, document, closing=self.closing))
            except (OSError, http.client.HTTPException) as error:
                whole = not isinstance(error, (http.client.IncompleteRead, http.client.BadStatusLine)) or isinstance(
                    error, http.client.RemoteDisconnected
                )
                self.ends.append(Answered(key, 0, whole=whole))
                self.connection.close()
                if self.again:
                    continue
            number += 1


@contextmanager
def load(up: Up, callers: int, *, again: bool = False) -> Iterator[list[Caller]]:
    """So many callers, until the block is left."""
    made = [Caller(up, f"c{i}", again=again) for i in range(callers)]
    for caller in made:
        caller.thread.start()
    try:
        yield made
    finally:
        for caller in made:
            caller.stopped.set()
        for caller in made:
            caller.thread.join(60)
            caller.connection.close()


def ends(callers: list[Caller]) -> list[Answered]:
    """Of all callers."""
    return [end for caller in callers for end in caller.ends]


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Waits for it."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)


def _tensor(name: str, datatype: str, value: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [1], "data": [value]}
