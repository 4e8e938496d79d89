"""Single-row requests: ours, durable, beside a hand-written FastAPI handler that records nothing, and a bare echo.

One run, interleaved rounds. Where there are two cores the server has one (with its PostgreSQL beside the client
on the other), so that the client does not take the server's time.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FEATURES = 30
FIELDS = "".join(f"  f{i}: float64\n" for i in range(FEATURES))
CONTRACT = (
    f"name: bench\nversion: 1\nfields:\n  item: {{type: string, role: key}}\n{FIELDS}output: {{kind: probability}}\n"
    "label: {name: l, type: bool, horizon: {days: 1}}\ndecision: {threshold: 0.5}\n"
)
ROUNDS, SECONDS = int(os.environ.get("ROUNDS", "3")), 3.0
CONNECTIONS = (1, 8, 32, 128)


def pinned(core: int) -> None:
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def model(folder: Path) -> Path:
    """200 trees of depth 6 as ONNX."""
    import numpy as np
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingClassifier

    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, FEATURES)).astype(np.float32)
    fitted = GradientBoostingClassifier(n_estimators=200, max_depth=4).fit(x, x[:, 0] + x[:, 1] * x[:, 2] > 0)
    path = folder / "model.onnx"
    path.write_bytes(to_onnx(fitted, x[:1], options={"zipmap": False}).SerializeToString())
    return path


def run(app: Any, port: int) -> None:
    import uvicorn

    uvicorn.run(
        app, port=port, log_level="error", access_log=False, lifespan="off", loop="uvloop", http="httptools",
        proxy_headers=False,
    )  # fmt: skip


def ours(port: int, model_path: str, ready: Any) -> None:
    import trueup
    from trueup.doors.api.server import calm_collector, create_app
    from trueup.doors.auth import ApiRole, MemoryApiKeys
    from trueup.doors.inference.server import Front

    with tempfile.TemporaryDirectory() as folder, trueup.connect(trueup.Settings(data_dir=Path(folder))) as up:
        up.deploy("m", contract=CONTRACT, model=model_path, version="1",
                  serving=trueup.Serving(replay_grade=trueup.ReplayGrade.TOLERANCE, tolerance=1e-6,
                                         reason_codes=0))  # fmt: skip
        keys = MemoryApiKeys()
        ready.put(keys.create("bench", ApiRole.SCORER, by="bench")[1])
        pinned(0)
        app = create_app(up.services, keys)
        calm_collector()
        run(Front(app, up.services, keys, lambda: False), port)


def fastapi_handler(port: int, model_path: str, ready: Any) -> None:
    """What people write: a pydantic model of the features, one call of the model, nothing recorded."""
    import numpy as np
    import onnxruntime
    from fastapi import FastAPI
    from pydantic import create_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model_path, options)
    row_type = create_model("Row", item=(str, ...), **{f"f{i}": (float, ...) for i in range(FEATURES)})  # type: ignore[call-overload]
    app = FastAPI()

    def score(row: Any) -> dict[str, float]:
        values = np.array([[getattr(row, f"f{i}") for i in range(FEATURES)]], np.float32)
        return {"score": float(session.run(None, {"X": values})[1][0, 1])}

    score.__annotations__["row"] = row_type  # of a class that exists only now
    app.post("/score")(score)
    ready.put("")
    pinned(0)
    run(app, port)


def echo(port: int, model_path: str, ready: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    ready.put("")
    pinned(0)
    run(app, port)


def record(i: int) -> dict[str, Any]:
    return {"item": f"I{i}", **{f"f{j}": ((i * 37 + j * 11) % 1000) / 500 - 1 for j in range(FEATURES)}}


def as_record(i: int) -> tuple[str, bytes]:
    return "/score", json.dumps(record(i)).encode()


def as_oip(i: int) -> tuple[str, bytes]:
    row = record(i)
    document = {
        "inputs": [
            {"name": "item", "shape": [1], "datatype": "BYTES", "data": [row["item"]]},
            {"name": "features", "shape": [1, FEATURES], "datatype": "FP64",
             "data": [row[f"f{j}"] for j in range(FEATURES)]},
        ]
    }  # fmt: skip
    return "/v2/models/m/infer", json.dumps(document).encode()


async def client(port: int, key: str, make: Callable[[int], tuple[str, bytes]], connections: int) -> dict[str, float]:
    """Keep-alive connections that each send the next request when the last is answered."""
    requests = []
    for i in range(512):
        path, body = make(i)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        requests.append(head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body)
    times: list[float] = []
    errors = 0
    until = time.perf_counter() + SECONDS

    async def one(start: int) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        i = start
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(requests[i % 512])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            times.append(time.perf_counter() - began)
            errors += not head.startswith(b"HTTP/1.1 200")
            i += 7
        writer.close()

    await asyncio.gather(*(one(c * 13) for c in range(connections)))
    times.sort()
    return {
        "rate": len(times) / SECONDS,
        "p50": times[len(times) // 2] * 1e3,
        "p99": times[len(times) * 99 // 100] * 1e3,
        "p999": times[len(times) * 999 // 1000] * 1e3,
        "errors": float(errors),
    }


def main() -> None:
    import uvloop

    with tempfile.TemporaryDirectory() as folder:
        path = str(model(Path(folder)))
        contestants: dict[str, tuple[Any, Callable[[int], tuple[str, bytes]]]] = {
            "bare echo": (echo, as_record),
            "FastAPI + pydantic + onnxruntime, records nothing": (fastapi_handler, as_record),
            "trueup, durable": (ours, as_oip),
        }
        context = multiprocessing.get_context("spawn")
        running = {}
        for number, (name, (serve, _)) in enumerate(contestants.items()):
            ready = context.Queue()
            process = context.Process(target=serve, args=(8500 + number, path, ready))
            process.start()
            running[name] = (process, 8500 + number, ready.get(timeout=120))
        time.sleep(2)
        pinned(1)
        print("| connections | server | req/s | p50 ms | p99 ms | p99.9 ms | errors |\n|---|---|---|---|---|---|---|")
        for connections in CONNECTIONS:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
            for _ in range(ROUNDS):
                for name, (_, make) in contestants.items():
                    _, port, key = running[name]
                    found[name].append(uvloop.run(client(port, key, make, connections)))
            for name, rounds in found.items():
                median = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
                print(
                    f"| {connections} | {name} | {median['rate']:,.0f} | {median['p50']:.2f} | {median['p99']:.2f} | "
                    f"{median['p999']:.2f} | {median['errors']:.0f} |"
                )
            sys.stdout.flush()
        for process, _, _ in running.values():
            process.terminate()
            process.join()


if __name__ == "__main__":
    main()
