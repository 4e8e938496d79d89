"""Online scoring, side by side in one run: ours, durable and spooled, beside a hand-written FastAPI handler that
records nothing, other makers' servers, and a bare echo on the same server.

Interleaved rounds, every request with other rows; the server has one core, the client (wrk, as Debian has it) with our
PostgreSQL the other.
Other makers' servers take part where ``make bench-peers`` has put them.

    python benchmarks/serving.py [--picture FILE.svg]       ROUNDS=3 SECONDS=2 in the environment
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contestants import CONTRACT, FEATURES, Contestant, all_of_them, model, pinned

__all__ = ["CONTRACT", "FEATURES", "as_oip", "model", "record"]

ROUNDS, SECONDS = int(os.environ.get("ROUNDS", "3")), int(os.environ.get("SECONDS", "2"))
LOAD = Path(__file__).parent / "load.lua"
CONNECTIONS = (1, 8, 32, 128)
DIFFERENT = 512  # requests that are made beforehand
FASTAPI = "FastAPI + pydantic + onnxruntime, records nothing"
Request = tuple[str, bytes, dict[str, str]]  # path, body, further headers


def record(i: int) -> dict[str, Any]:
    return {"item": f"I{i}", **{f"f{j}": ((i * 37 + j * 11) % 1000) / 500 - 1 for j in range(FEATURES)}}


def rows(i: int) -> list[dict[str, Any]]:
    return [record(100 * i + k) for k in range(100)]


def as_oip(i: int) -> tuple[str, bytes]:
    return "/v2/models/m/infer", oip([record(i)])


def oip(found: list[dict[str, Any]]) -> bytes:
    data = [row[f"f{j}"] for row in found for j in range(FEATURES)]
    items = {"name": "item", "shape": [len(found)], "datatype": "BYTES", "data": [row["item"] for row in found]}
    features = {"name": "features", "shape": [len(found), FEATURES], "datatype": "FP64", "data": data}
    return json.dumps({"inputs": [items, features]}).encode()


def oip_binary(found: list[dict[str, Any]]) -> Request:
    texts = [row["item"].encode() for row in found]
    items = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    block = np.array([[row[f"f{j}"] for j in range(FEATURES)] for row in found], "<f8").tobytes()
    inputs = [
        {"name": "item", "shape": [len(found)], "datatype": "BYTES", "parameters": {"binary_data_size": len(items)}},
        {"name": "features", "shape": [len(found), FEATURES], "datatype": "FP64",
         "parameters": {"binary_data_size": len(block)}},
    ]  # fmt: skip
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return "/v2/models/m/infer", head + items + block, {"inference-header-content-length": str(len(head))}


def request_of(one: Contestant, form: str, i: int) -> Request:
    """The ``i``-th request in the words that the server knows."""
    ours = one.name.startswith("trueup")
    score = "/v1/deployments/m/score"
    if form == "records":
        sent = {"instance": record(i)} if ours else record(i)
        return (score if ours else "/score"), json.dumps(sent).encode(), {}
    if form == "records x100":
        return (score if ours else "/score-many"), json.dumps({"instances": rows(i)}).encode(), {}
    if form == "oip binary x100":
        return oip_binary(rows(i))
    return "/v2/models/m/infer", oip(rows(i) if form == "oip x100" else [record(i)]), {}


def measured(one: Contestant, requests: Path, connections: int) -> dict[str, float]:
    """What wrk saw: keep-alive connections that each send the next request when the last is answered.

    wrk is written in C: a client in Python took a third of the core that it shares with PostgreSQL.
    """
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{SECONDS}s",
               "--script", str(LOAD), f"http://127.0.0.1:{one.port}/", "--", str(requests)]  # fmt: skip
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(said.rstrip().splitlines()[-1])
    return found


def wired(one: Contestant, form: str, folder: Path) -> Path:
    """A file of the requests as bytes on the wire, for wrk."""
    made = []
    for i in range(DIFFERENT if "x100" not in form else 64):
        path, body, more = request_of(one, form, i)
        headers = {"host": "x", "content-type": "application/json", "content-length": str(len(body)), **more}
        if one.key:
            headers["authorization"] = f"Bearer {one.key}"
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        made.append(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    file = folder / f"{one.port}-{form.replace(' ', '-')}"
    file.write_bytes(b"".join(f"{len(request):08d}".encode() + request for request in made))
    return file


def compared(found: list[Contestant], forms: tuple[str, ...], connections: int) -> dict[str, dict[str, float]]:
    """Medians of interleaved rounds, by server and form."""
    with tempfile.TemporaryDirectory() as folder:
        lanes = [(one, form, wired(one, form, Path(folder))) for one in found for form in one.speaks if form in forms]
        rounds: dict[str, list[dict[str, float]]] = {f"{one.name} ({form})": [] for one, form, _ in lanes}
        for _ in range(ROUNDS):
            for one, form, requests in lanes:
                rounds[f"{one.name} ({form})"].append(measured(one, requests, connections))
    medians = {name: {k: statistics.median(r[k] for r in many) for k in many[0]} for name, many in rounds.items()}
    for one, form, _ in lanes:
        medians[f"{one.name} ({form})"]["memory"] = one.memory_mb
    return medians


def shown(title: str, medians: dict[str, dict[str, float]], base: str) -> None:
    limit = medians[base]["rate"]
    print(f"\n### {title}\n")
    print("| server (form) | req/s | / FastAPI | p50 ms | p99 ms | p99.9 ms | memory MB | errors |")
    print("|---|---|---|---|---|---|---|---|")
    for name, m in medians.items():
        print(
            f"| {name} | {m['rate']:,.0f} | {m['rate'] / limit:.2f} | {m['p50']:.2f} | {m['p99']:.2f} | "
            f"{m['p99.9']:.2f} | {m['memory']:.0f} | {m['errors']:.0f} |",
            flush=True,
        )


def picture(path: Path, medians: dict[str, dict[str, float]]) -> None:
    """Bars of requests a second at 32 connections."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = [name for name in medians if not name.startswith("bare")]
    rates = [medians[name]["rate"] for name in names]
    colours = ["#1f6f8b" if name.startswith("trueup") else "#b8b8b8" for name in names]
    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(names) + 1))
    bars = axes.barh(names, rates, color=colours)
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4)
    axes.invert_yaxis()
    axes.set_xlabel("single-row requests a second, 32 connections, server on one core")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main(bench: Callable[[list[Contestant]], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = all_of_them(str(model(Path(folder))))
        try:
            pinned(1)
            bench(found)
        finally:
            for one in found:
                one.stop()


def everything(found: list[Contestant], svg: Path | None) -> None:
    single, large = ("records", "oip"), ("records x100", "oip x100", "oip binary x100")
    for connections in CONNECTIONS:
        medians = compared(found, single, connections)
        shown(f"Single rows, {connections} connection(s)", medians, f"{FASTAPI} (records)")
        if connections == 32 and svg is not None:
            picture(svg, medians)
    shown("100 rows a request, 8 connections", compared(found, large, 8), f"{FASTAPI} (records x100)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk makes the load: apt install wrk")
    main(lambda found: everything(found, asked.picture))
