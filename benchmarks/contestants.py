"""The servers that ``serving.py`` compares: each in a process of its own, on core 0 where there are two."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

FEATURES = 30
FIELDS = "".join(f"  f{i}: float64\n" for i in range(FEATURES))
CONTRACT = (
    f"name: bench\nversion: 1\nfields:\n  item: {{type: string, role: key}}\n{FIELDS}output: {{kind: probability}}\n"
    "label: {name: l, type: bool, horizon: {days: 1}}\ndecision: {threshold: 0.5}\n"
)


@dataclass
class Contestant:
    """A running server. ``key`` is an API key, "" where none is asked for."""

    name: str
    port: int
    pid: int
    stop: Callable[[], None]
    key: str = ""
    speaks: tuple[str, ...] = field(default_factory=tuple)

    @property
    def memory_mb(self) -> float:
        """Resident memory of the serving process."""
        return psutil.Process(self.pid).memory_info().rss / 1e6


def pinned(core: int) -> None:
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def model(folder: Path) -> Path:
    """200 trees as ONNX."""
    import numpy as np
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingClassifier

    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, FEATURES)).astype(np.float32)
    fitted = GradientBoostingClassifier(n_estimators=200, max_depth=4).fit(x, x[:, 0] + x[:, 1] * x[:, 2] > 0)
    path = folder / "model.onnx"
    path.write_bytes(to_onnx(fitted, x[:1], options={"zipmap": False}).SerializeToString())
    return path


def all_of_them(model_path: str) -> list[Contestant]:
    """Every server that can be started here; those of other makers where ``make bench-peers`` has put them."""
    context = multiprocessing.get_context("spawn")
    found = [
        _started(context, "bare echo, no model", 8501, _echo, model_path, ("records", "oip")),
        _started(context, "FastAPI + pydantic + onnxruntime, records nothing", 8502, _fastapi, model_path,
                 ("records", "records x100")),
        _started(context, "trueup, durable", 8503, _durable, model_path,
                 ("oip", "records", "records x100", "oip x100", "oip binary x100")),
        _started(context, "trueup, spooled", 8504, _spooled, model_path, ("oip",)),
    ]  # fmt: skip
    return found + list(_peers(model_path))


def _peers(model_path: str) -> Any:
    sys.path.insert(0, str(Path(__file__).parent / "peers"))
    import starting  # type: ignore[import-not-found]

    for place, (name, start) in enumerate(starting.STARTS.items()):
        try:
            peer = start(8510 + place, model_path)
        except (RuntimeError, OSError) as error:
            print(f"({name} is left out: {error})", file=sys.stderr)
            continue
        speaks = ("oip",) if "granian" in name else ("oip", "oip x100")
        yield Contestant(name, peer.port, peer.process.pid, peer.stop, peer.key, speaks)


def _started(context: Any, name: str, port: int, serve: Any, model_path: str, speaks: tuple[str, ...]) -> Contestant:
    ready = context.Queue()
    process = context.Process(target=serve, args=(port, model_path, ready))
    process.start()
    key = ready.get(timeout=120)

    def stop() -> None:
        process.terminate()
        process.join(30)

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    return Contestant(name, port, process.pid, stop, key, speaks)


def _run(app: Any, port: int) -> None:
    import uvicorn

    uvicorn.run(
        app, port=port, log_level="error", access_log=False, lifespan="off", loop="uvloop", http="httptools",
        proxy_headers=False,
    )  # fmt: skip


def _durable(port: int, model_path: str, ready: Any) -> None:
    _ours(port, model_path, ready, "durable")


def _spooled(port: int, model_path: str, ready: Any) -> None:
    _ours(port, model_path, ready, "spooled")


def _ours(port: int, model_path: str, ready: Any, mode: str) -> None:
    """As `trueup up` serves: keys, contract, bounds and metrics on. PostgreSQL has the other core."""
    import uvicorn

    import trueup
    from trueup.domain.deployment import Mode
    from trueup.doors.api.server import create_app
    from trueup.doors.auth import ApiRole, Gate, MemoryApiKeys
    from trueup.doors.collector import calm_collector
    from trueup.doors.inference.server import Front
    from trueup.doors.listening import listening
    from trueup.doors.serving import configured

    pinned(1)
    with tempfile.TemporaryDirectory() as folder, trueup.connect(trueup.Settings(data_dir=Path(folder))) as up:
        serving = trueup.Serving(
            mode=Mode(mode), replay_grade=trueup.ReplayGrade.TOLERANCE, tolerance=1e-6, reason_codes=0
        )
        up.deploy("m", contract=CONTRACT, model=model_path, version="1", serving=serving)
        keys = MemoryApiKeys()
        pinned(0)
        up.services.open_spool()
        gate = Gate(keys, None, up.services.settings.rates)
        _aged(up.services.urls.owner)
        front = Front(create_app(up.services, gate), up.services, gate, lambda: False)
        up.services.scoring.models.start(60)
        calm_collector()
        with listening("127.0.0.1", port) as door:
            ready.put(keys.create("bench", ApiRole.SCORER, by="bench")[1])
            uvicorn.Server(configured(front, up.services.settings)).run([door])


def _aged(url: str) -> None:
    """A database that has run for a while: it uses the files of its write-ahead log again, and need not make them."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET min_wal_size = '1GB'")
        connection.execute("SELECT pg_reload_conf()")
        for _ in range(60):
            connection.execute("SELECT pg_logical_emit_message(false, 'age', repeat('x', 16000000))")
        connection.execute("CHECKPOINT")


def _fastapi(port: int, model_path: str, ready: Any) -> None:
    """What people write: a pydantic model of the features, one call of the model, nothing recorded."""
    import numpy as np
    import onnxruntime
    from fastapi import FastAPI
    from pydantic import create_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model_path, options)
    row_type = create_model("Row", item=(str, ...), **{f"f{i}": (float, ...) for i in range(FEATURES)})  # type: ignore[call-overload]
    many_type = create_model("Many", instances=(list[row_type], ...))  # type: ignore[valid-type]
    app = FastAPI()

    def values(row: Any) -> list[float]:
        return [getattr(row, f"f{i}") for i in range(FEATURES)]

    def score(row: Any) -> dict[str, float]:
        return {"score": float(session.run(None, {"X": np.array([values(row)], np.float32)})[1][0, 1])}

    def score_many(many: Any) -> dict[str, list[float]]:
        rows = np.array([values(row) for row in many.instances], np.float32)
        return {"scores": session.run(None, {"X": rows})[1][:, 1].tolist()}

    score.__annotations__["row"] = row_type  # of classes that exist only now
    score_many.__annotations__["many"] = many_type
    app.post("/score")(score)
    app.post("/score-many")(score_many)
    ready.put("")
    pinned(0)
    _run(app, port)


def _echo(port: int, model_path: str, ready: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    ready.put("")
    pinned(0)
    _run(app, port)
