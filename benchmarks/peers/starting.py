"""Starts a contestant of ``benchmarks/serving.py`` that lives in an environment of its own (``make bench-peers``).

Each function returns when the server can answer; the server's processes run on core 0 only. All of them serve the
model ``m`` at ``/v2/models/m/infer`` and take ``as_oip``'s requests: what they make nothing of, they ignore.

    python benchmarks/peers/starting.py     starts each, and compares its answers with the model's own
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).resolve().parent
READY_S = 90.0


@dataclass
class Peer:
    """A running server. ``key`` is an API key, "" where none is asked for."""

    process: subprocess.Popen[bytes]
    port: int
    key: str = ""
    folder: Path | None = None  # made for it

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def start_mlserver(port: int, model_path: str) -> Peer:
    """MLServer with one custom model, in one process: without its pool of workers, which one core cannot use."""
    folder = Path(tempfile.mkdtemp(prefix="mlserver-"))
    server = {"http_port": port, "grpc_port": port + 100, "metrics_port": port + 200, "parallel_workers": 0,
              "host": "127.0.0.1", "debug": False, "metrics_endpoint": None, "metrics_dir": str(folder)}  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(server))
    model = {"name": "m", "implementation": "mlserver_model.OnnxModel"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    process = _started("mlserver", ["-m", "mlserver.cli.main", "start", str(folder)], model_path)
    return _ready(Peer(process, port, folder=folder))


def start_kserve(port: int, model_path: str) -> Peer:
    """KServe's Python server with one custom model."""
    process = _started("kserve", [str(PEERS / "kserve_model.py"), "--http_port", str(port)], model_path)
    return _ready(Peer(process, port))


def start_granian(port: int, model_path: str) -> Peer:
    """Our own door under granian."""
    key_file = Path(tempfile.mkdtemp(prefix="granian-")) / "key"
    program = [sys.executable, str(PEERS / "granian_ours.py"), str(port), model_path, str(key_file)]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + READY_S
    while not key_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("granian did not start")
        time.sleep(0.05)
    return _ready(Peer(process, port, key_file.read_text(), key_file.parent))


def _started(name: str, arguments: list[str], model_path: str) -> subprocess.Popen[bytes]:
    """``arguments`` run by the peer's interpreter on core 0."""
    python = Path(f"{sys.prefix}-{name}") / "bin" / "python"
    if not python.exists():
        raise RuntimeError(f"{python} is missing; `make bench-peers` makes it")
    environment = {**os.environ, "MODEL_PATH": model_path, "PYTHONPATH": str(PEERS), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [python, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_pinned
    )


def _pinned() -> None:
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {0})


def _ready(peer: Peer) -> Peer:
    """Waits until the model says that it can answer."""
    address = urllib.request.Request(f"http://127.0.0.1:{peer.port}/v2/models/m/ready", headers=_headers(peer.key))
    deadline = time.monotonic() + READY_S
    while peer.process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return peer
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    peer.stop()
    raise RuntimeError("the server is not ready in time")


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


STARTS = {
    "MLServer 1.7.1, records nothing": start_mlserver,
    "KServe 0.21.0, records nothing": start_kserve,
    "trueup, durable, under granian": start_granian,
}


def main() -> None:
    """Each contestant's scores beside the model's own."""
    sys.path.insert(0, str(PEERS.parent))
    import numpy as np
    import onnxruntime

    from serving import FEATURES, as_oip, model, record  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        path = str(model(Path(folder)))
        rows = np.array([[record(i)[f"f{j}"] for j in range(FEATURES)] for i in range(50)], np.float32)
        own = onnxruntime.InferenceSession(path).run(None, {"X": rows})[1][:, 1]
        for place, (name, start) in enumerate(STARTS.items()):
            peer = start(8600 + place, path)
            try:
                scores = [_score(peer, *as_oip(i)) for i in range(50)]
            finally:
                peer.stop()
            print(f"{name}: the largest difference in 50 scores is {np.abs(own - scores).max():.1e}")


def _score(peer: Peer, path: str, body: bytes) -> float:
    sent = urllib.request.Request(
        f"http://127.0.0.1:{peer.port}{path}", body, _headers(peer.key) | {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(sent, timeout=30) as answer:
        outputs = json.load(answer)["outputs"]
    return float(next(output["data"][0] for output in outputs if output["name"] == "score"))


if __name__ == "__main__":
    main()
