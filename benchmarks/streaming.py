"""A topic scored into PostgreSQL, side by side in one run: a consumer that only polls, a hand-written loop, ours.

Interleaved rounds over one topic of JSON records with 30 features; the consumer has one core, broker, producer and
database the other. Then 5,000 events a second, and how long each is booked after it was appended.

    python benchmarks/streaming.py        ROUNDS=3 ROWS=400000 SECONDS=10 ONLY=trueup in the environment
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from contestants import FEATURES, pinned

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

ROUNDS, ROWS = int(os.environ.get("ROUNDS", "3")), int(os.environ.get("ROWS", "300000"))
SECONDS, RATE = float(os.environ.get("SECONDS", "10")), 5_000
ONLY = os.environ.get("ONLY", "")
PARTITIONS = 6
DIFFERENT = 5_000


def event(number: int) -> bytes:
    features = {f"f{j}": round(((number * 37 + j * 11) % 1000) / 500 - 1, 3) for j in range(FEATURES)}
    return json.dumps({"item": f"I{number}", **features}, separators=(",", ":")).encode()


def model(folder: Path) -> str:
    """200 trees, as everybody's own library has them."""
    import numpy as np
    import xgboost

    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, FEATURES))
    names = [f"f{i}" for i in range(FEATURES)]
    data = xgboost.DMatrix(x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int), feature_names=names)
    path = folder / "model.ubj"
    xgboost.train({"objective": "binary:logistic", "max_depth": 4}, data, 200).save_model(path)
    return str(path)


def filled(bootstrap: str, topic: str, rows: int, per_second: float = 0) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5 if not per_second else 1})
    values = [event(number) for number in range(DIFFERENT)]
    began = time.perf_counter()
    for number in range(rows):
        while True:
            try:
                producer.produce(topic, values[number % DIFFERENT])
                break
            except BufferError:
                producer.poll(0.05)
        if number % 50 == 0:
            producer.poll(0)
            if per_second:
                time.sleep(max(0.0, began + number / per_second - time.perf_counter()))
    producer.flush(60)


def run(name: str, bootstrap: str, topic: str, most: int, path: str) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    answer: Any = context.Queue()
    process = context.Process(target=_run, args=(name, bootstrap, topic, most, path, answer))
    process.start()
    told: dict[str, Any] = answer.get(timeout=600)
    process.join(60)
    return told


def _run(name: str, bootstrap: str, topic: str, most: int, path: str, answer: Any) -> None:
    from consumers import CONTESTANTS

    pinned(0)
    answer.put(CONTESTANTS[name][0](bootstrap, topic, most, path))


def throughput(cluster: Any, path: str) -> None:
    from consumers import CONTESTANTS

    topic = cluster.topic("rates", PARTITIONS)
    filled(cluster.bootstrap, topic, ROWS)
    names = [name for name in CONTESTANTS if name.startswith(ONLY)]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            rounds[name].append(run(name, cluster.bootstrap, topic, int(ROWS * CONTESTANTS[name][1]), path))
    rates = {name: statistics.median(r["rows"] / r["seconds"] for r in found) for name, found in rounds.items()}
    cpu = {name: statistics.median(1e6 * r["cpu_s"] / r["rows"] for r in found) for name, found in rounds.items()}
    base = rates.get("hand-written loop, at least once", float("nan"))
    print("\n| loop | rows/s | / hand-written | CPU us/row | all rounds, rows/s |\n|---|---|---|---|---|")
    for name in names:
        every = ", ".join(f"{r['rows'] / r['seconds']:,.0f}" for r in rounds[name])
        print(f"| {name} | {rates[name]:,.0f} | {rates[name] / base:.1f} | {cpu[name]:.1f} | {every} |", flush=True)


def latency(cluster: Any, path: str) -> None:
    from consumers import CONTESTANTS

    print(f"\n{RATE:,} events/s for {SECONDS:g} s\n\n| loop | p50 ms | p99 ms | CPU share |\n|---|---|---|---|")
    for name in (n for n in CONTESTANTS if n.startswith(ONLY)):
        topic = cluster.topic(f"latency-{abs(hash(name))}", PARTITIONS)
        rows = int(RATE * SECONDS)
        producing = threading.Thread(target=_later, args=(cluster.bootstrap, topic, rows))
        producing.start()
        told = run(name, cluster.bootstrap, topic, rows, path)
        producing.join()
        print(f"| {name} | {told['p50']:.1f} | {told['p99']:.1f} | {told['cpu_s'] / told['seconds']:.0%} |", flush=True)


def _later(bootstrap: str, topic: str, rows: int) -> None:
    time.sleep(8)  # until the consumer has started
    filled(bootstrap, topic, rows, RATE)


def main() -> None:
    from brokers import Cluster

    pinned(1)
    cluster = Cluster()
    try:
        cluster.start()
        with tempfile.TemporaryDirectory() as folder:
            path = model(Path(folder))
            throughput(cluster, path)
            latency(cluster, path)
    finally:
        cluster.close()


if __name__ == "__main__":
    main()
