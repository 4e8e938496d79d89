"""A real `trueup up` under mixed load at a moderate rate: does its memory stay flat?

    python benchmarks/soak.py [--minutes 10] [--rate 150]

Samples the server's own process (not its PostgreSQL): memory, open files, threads, connections, and what waits.
The verdict is the slope of memory after a warm-up of a fifth of the time, with its 95 % interval from blocks of
samples, because neighbouring samples are alike. Exits with 1 where the slope is surely above the bound, or
where a request was answered otherwise than it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil

FLAT_MB_H = 30.0  # a slope that is surely below is flat: less than a day's work adds
BLOCKS = 8
CONTRACT = """
name: soak
version: 1
fields:
  item: {type: string, role: key}
  note: {type: string, nullable: true}
  day: {type: date, nullable: true}
  count: {type: int64, nullable: true}
""" + "".join(f"  f{i}: {{type: float64, nullable: true}}\n" for i in range(10)) + """
output: {kind: probability}
label: {name: l, type: bool, horizon: {days: 1}}
decision: {threshold: 0.5}
"""  # fmt: skip


@dataclass
class Server:
    """The running server and what was seen of it."""

    process: subprocess.Popen[bytes]
    address: str
    grpc: str
    key: str
    samples: list[tuple[float, int, int, int, int]] = field(default_factory=list)

    def sample(self, since: float) -> None:
        """Seconds, bytes in memory, open files, threads, connections."""
        seen = psutil.Process(self.process.pid)
        with seen.oneshot():
            self.samples.append(
                (
                    time.monotonic() - since,
                    seen.memory_info().rss,
                    seen.num_fds(),
                    seen.num_threads(),
                    len(seen.net_connections(kind="tcp")),
                )
            )


def start(folder: Path) -> Server:
    """Deploys a model and runs `trueup up` with every door that this version has."""
    import trueup
    from trueup.settings import Settings

    (folder / "soak_model.py").write_text(
        "import numpy as np\n\ndef score(columns):\n    return np.clip(np.nan_to_num(columns.numeric('f0')), 0, 1)\n"
    )
    sys.path.insert(0, str(folder))
    environment = {**os.environ, "TRUEUP_DATA_DIR": str(folder / "data")}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), environment.get("PYTHONPATH", "")])
    grpc = "grpc_port" in Settings.model_fields
    if grpc:
        environment["TRUEUP_GRPC_PORT"] = "0"
    with trueup.connect(trueup.Settings(data_dir=folder / "data")) as up:
        up.deploy("m", contract=CONTRACT, model="python:soak_model:score", version="1")
        process, out, err = _up(folder, environment)
        log = _line(process, err, r"listens on grpc://(\S+)" if grpc else r"listens on http://(\S+)")
        address = re.search(r"listens on http://(\S+)", err.read_text())
        assert address is not None
    return Server(process, address[1], log if grpc else "", out.read_text().strip().splitlines()[-1])


def _up(folder: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], Path, Path]:
    out, err = folder / "out", folder / "err"
    program = [Path(sys.executable).parent / "trueup", "up", "--port", "0", "--drain-seconds", "0"]
    with out.open("w") as stdout, err.open("w") as stderr:
        return subprocess.Popen(program, env=environment, stdout=stdout, stderr=stderr), out, err


def _line(process: subprocess.Popen[bytes], file: Path, pattern: str) -> str:
    deadline = time.monotonic() + 60
    while not (found := re.search(pattern, file.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start: {file.read_text()}")
        time.sleep(0.05)
    return found[1]


class Load:
    """Requests of all kinds, good and bad, new and repeated, over connections that stay and that do not."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._headers = {"Authorization": f"Bearer {server.key}"}
        self._http = httpx2.AsyncClient(base_url=f"http://{server.address}", headers=self._headers, timeout=30)
        self._grpc = _grpc_call(server) if server.grpc else None
        self.wrong: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.waiting = 0

    def kinds(self) -> list[Callable[[int], Awaitable[None]]]:
        found = [self._record, self._records, self._oip, self._oip, self._batch, self._binary, self._bad, self._repeat,
                 self._reads, self._once, self._gone]  # fmt: skip
        return [*found, self._call_grpc] if self._grpc is not None else found

    async def one(self, number: int) -> None:
        """The request of this number. What it is answered otherwise than it should be is counted."""
        kinds = self.kinds()
        call = kinds[number % len(kinds)]
        self.waiting += 1
        try:
            await call(number)
            self.answered[call.__name__.strip("_")] += 1
        except Exception as error:
            self.wrong[f"{call.__name__.strip('_')}: {type(error).__name__} {error}"[:120]] += 1
        finally:
            self.waiting -= 1

    async def close(self) -> None:
        await self._http.aclose()

    def instance(self, number: int) -> dict[str, Any]:
        values = {f"f{i}": (number * 37 + i) % 1_000 / 1_000 for i in range(10)}
        return {"item": f"I{number}", "note": "é" * (number % 50), "day": "2026-11-20", "count": number, **values}

    def document(self, numbers: list[int]) -> dict[str, Any]:
        n = len(numbers)
        data = [v for number in numbers for name, v in self.instance(number).items() if name.startswith("f")]
        return {
            "id": f"é{numbers[0]}",
            "inputs": [
                {"name": "item", "shape": [n], "datatype": "BYTES", "data": [f"I{number}" for number in numbers]},
                {"name": "features", "shape": [n, 10], "datatype": "FP64", "data": data},
            ],
        }

    async def _post(self, path: str, status: int = 200, **more: Any) -> Any:
        answer = await self._http.post(path, **more)
        assert answer.status_code == status, f"{answer.status_code} {answer.text[:60]}"
        return answer

    async def _record(self, number: int) -> None:
        await self._post(
            "/v1/deployments/m/score", json={"instance": self.instance(number), "key": f"r{number}", "reasons": True}
        )

    async def _records(self, number: int) -> None:
        rows = [self.instance(number * 100 + i) for i in range(20)]
        await self._post("/v1/deployments/m/score", json={"instances": [*rows, {"item": 5}]})

    async def _oip(self, number: int) -> None:
        await self._post("/v2/models/m/infer", json=self.document([number]))

    async def _batch(self, number: int) -> None:
        await self._post("/v2/models/m/infer", json=self.document([number * 100 + i for i in range(100)]))

    async def _binary(self, number: int) -> None:
        document = self.document([number])
        tail = np.array(document["inputs"][1].pop("data"), "<f8").tobytes()
        document["inputs"][1]["parameters"] = {"binary_data_size": len(tail)}
        head = json.dumps(document | {"parameters": {"binary_data_output": True}}).encode()
        length = {"Inference-Header-Content-Length": str(len(head))}
        await self._post("/v2/models/m/infer", content=head + tail, headers=length)

    async def _bad(self, number: int) -> None:
        document = self.document([number])
        document["inputs"][1]["data"] = [[number] * 3] * 500
        await self._post("/v2/models/m/infer", 400, json=document)
        await self._post(f"/v2/models/none{number}/infer", 404, json=document)
        await self._post("/v2/models/m/infer", 401, json=document, headers={"Authorization": f"Bearer tu_{number}"})

    async def _repeat(self, number: int) -> None:
        await self._post(
            "/v2/models/m/infer", json=self.document([number % 50]), headers={"Idempotency-Key": f"k{number % 50}"}
        )

    async def _reads(self, number: int) -> None:
        for path in ("/v1/predictions?limit=20", "/v1/deployments", "/v2/models/m", "/health/ready", "/openapi.json"):
            answer = await self._http.get(path)
            assert answer.status_code == 200, path

    async def _once(self, number: int) -> None:
        """A connection for one request."""
        async with httpx2.AsyncClient(headers=self._headers, timeout=30) as http:
            address = f"http://{self._server.address}/v2/models/m/infer"
            assert (await http.post(address, json=self.document([number]))).status_code == 200

    async def _gone(self, number: int) -> None:
        """A caller that goes away in the middle of its body."""
        host, port = self._server.address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v2/models/m/infer HTTP/1.1\r\nauthorization: {self._headers['Authorization']}\r\n"
        writer.write(head.encode() + b"content-length: 100000\r\n\r\n" + b" " * 70_000)
        await writer.drain()
        writer.close()

    async def _call_grpc(self, number: int) -> None:
        assert self._grpc is not None
        await self._grpc(number)


def _grpc_call(server: Server) -> Callable[[int], Awaitable[None]]:
    import grpc

    from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb

    channel = grpc.aio.insecure_channel(server.grpc)
    infer = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )

    async def call(number: int) -> None:
        request = pb.ModelInferRequest(model_name="m")
        request.inputs.add(name="item", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"I%d" % number)
        values = request.inputs.add(name="features", datatype="FP64", shape=[1, 10])
        values.contents.fp64_contents.extend([number % 1_000 / 1_000] * 10)
        answer = await infer(request, metadata=[("authorization", f"Bearer {server.key}")], timeout=30)
        assert len(answer.outputs) > 2

    return call


async def drive(server: Server, seconds: float, rate: float) -> Load:
    """Sends at a steady rate, whatever the answers take, and samples once a second."""
    load = Load(server)
    running: set[asyncio.Task[None]] = set()
    began = time.monotonic()
    number, most_waiting = 0, 0
    next_sample = 0.0
    print("|  seconds | memory MB | files | threads | connections | waiting | answered | wrong |")
    print("|---|---|---|---|---|---|---|---|")
    every = max(1, int(seconds / 20))
    while (passed := time.monotonic() - began) < seconds:
        for _ in range(max(0, int(passed * rate) - number)):
            if len(running) < 500:
                task = asyncio.create_task(load.one(number))
                running.add(task)
                task.add_done_callback(running.discard)
            number += 1
        most_waiting = max(most_waiting, load.waiting)
        if passed >= next_sample:
            server.sample(began)
            if int(next_sample) % every == 0:
                _row(server.samples[-1], most_waiting, load)
                most_waiting = 0
            next_sample += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*running, return_exceptions=True)
    await load.close()
    return load


def _row(sample: tuple[float, int, int, int, int], waiting: int, load: Load) -> None:
    seconds, memory, files, threads, connections = sample
    print(
        f"| {seconds:,.0f} | {memory / 1e6:.1f} | {files} | {threads} | {connections} | {waiting} | "
        f"{load.answered.total():,} | {load.wrong.total()} |",
        flush=True,
    )


def slope(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """Bytes a second and the half-width of its 95 % interval.

    The line is laid through medians of blocks: a neighbour's sample says little that its own does not.
    """
    size = max(1, len(samples) // BLOCKS)
    blocks = [samples[i : i + size] for i in range(0, size * BLOCKS, size)]
    t = np.array([statistics.mean(s for s, _ in block) for block in blocks if block])
    y = np.array([statistics.median(m for _, m in block) for block in blocks if block])
    if len(t) < 4:
        return float("nan"), float("inf")
    fitted, intercept = np.polyfit(t, y, 1)
    left = y - (fitted * t + intercept)
    error = np.sqrt((left**2).sum() / (len(t) - 2) / ((t - t.mean()) ** 2).sum())
    return float(fitted), 2.45 * float(error)  # Student's t for six degrees of freedom


def verdict(server: Server, load: Load, seconds: float) -> bool:
    """Says what was found; whether it is good."""
    warm = [(s, float(memory)) for s, memory, *_ in server.samples if s >= seconds / 5]
    found, half = (value * 3600 / 1e6 for value in slope(warm))
    files = [files for s, _, files, *_ in server.samples if s >= seconds / 5]
    print(f"\nanswered: {dict(sorted(load.answered.items()))}")
    if load.wrong:
        print(f"wrong: {dict(load.wrong.most_common(10))}")
    print(f"memory after warm-up: {found:+.1f} MB/h (95 %: {found - half:+.1f} to {found + half:+.1f})")
    print(f"open files after warm-up: {min(files)} to {max(files)}")
    if seconds < 300:
        print("a run of less than five minutes shows that it works, and no slope that means anything")
        return not load.wrong
    grows, flat = found - half > 0 and found > FLAT_MB_H, found + half < FLAT_MB_H
    print("verdict: " + ("grows" if grows else "flat" if flat else "not decided: run it longer"))
    return not grows and not load.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=150, help="requests a second")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = start(Path(folder))
        try:
            load = asyncio.run(drive(server, asked.minutes * 60, asked.rate))
            good = verdict(server, load, asked.minutes * 60)
        finally:
            server.process.terminate()
            server.process.wait(60)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
