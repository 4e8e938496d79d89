"""The loops that ``streaming.py`` compares: each reads a topic from its beginning, in a process of its own on core 0.

A loop ends after so many records, or when nothing came for ``IDLE_S``; it tells how many rows it had booked when, by
the clock of this machine, so that the time between append and commit is known of every record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contestants import CONTRACT, FEATURES, pinned

IDLE_S = 3.0
PEERS = Path(__file__).parent / "peers"
QUIX = Path(__file__).parents[1] / ".venv-quix" / "bin" / "python"
Told = dict[str, Any]  # rows, seconds, cpu_s, and milliseconds from append to booked: p50, p99


class Watch:
    """When records were booked, and how old they were."""

    def __init__(self, most: int) -> None:
        self.most, self.rows = most, 0
        self.began = self.ended = 0.0
        self.cpu = 0.0
        self.ages: list[Any] = []

    def started(self) -> None:
        if not self.began:
            self.began, self.cpu = time.perf_counter(), time.process_time()

    def booked(self, appended_ms: Any) -> None:
        self.ages.append(time.time() * 1e3 - np.asarray(appended_ms, np.float64))
        self.rows += len(self.ages[-1])
        self.ended = time.perf_counter()

    @property
    def over(self) -> bool:
        idle = time.perf_counter() - (self.ended or time.perf_counter())
        return self.rows >= self.most or idle > IDLE_S

    def told(self) -> Told:
        ages = np.concatenate(self.ages) if self.ages else np.zeros(1)
        return {
            "rows": self.rows,
            "seconds": self.ended - self.began,
            "cpu_s": time.process_time() - self.cpu,
            "p50": float(np.percentile(ages, 50)),
            "p99": float(np.percentile(ages, 99)),
        }


def consumer(bootstrap: str, topic: str) -> Any:
    from confluent_kafka import Consumer

    made = Consumer({"bootstrap.servers": bootstrap, "group.id": f"bench-{time.time_ns()}", "enable.auto.commit": False,
                     "auto.offset.reset": "earliest"})  # fmt: skip
    made.subscribe([topic])
    return made


def polls(bootstrap: str, topic: str, most: int, model: str) -> Told:
    """The limit: polls, and does nothing."""
    reading, watch = consumer(bootstrap, topic), Watch(most)
    while not watch.over:
        found = [m for m in reading.consume(10_000, 0.1) if m.error() is None]
        if found:
            watch.started()
            values = [m.value() for m in found]
            watch.booked([m.timestamp()[1] for m in found[: len(values)]])
    reading.close()
    return watch.told()


def hand_written(bootstrap: str, topic: str, most: int, model: str) -> Told:
    """What people write: poll, parse, score, insert, commit the offsets. At least once."""
    import psycopg
    import xgboost

    booster = xgboost.Booster(model_file=model, params={"nthread": 1})
    names = [f"f{i}" for i in range(FEATURES)]
    reading, watch = consumer(bootstrap, topic), Watch(most)
    with Database() as url, psycopg.connect(url) as connection:
        columns = ", ".join(f"{name} double precision" for name in names)
        connection.execute(
            f"CREATE TABLE scored (id bigserial PRIMARY KEY, item text, {columns}, score double precision)"
        )
        connection.commit()
        insert = f"INSERT INTO scored (item, {', '.join(names)}, score) VALUES ({', '.join(['%s'] * (FEATURES + 2))})"
        while not watch.over:
            found = [m for m in reading.consume(500, 0.05) if m.error() is None]
            if not found:
                continue
            watch.started()
            rows = [json.loads(m.value()) for m in found]
            scores = booster.inplace_predict(np.array([[row[name] for name in names] for row in rows], np.float32))
            connection.cursor().executemany(
                insert,
                [
                    (row["item"], *(row[name] for name in names), float(score))
                    for row, score in zip(rows, scores, strict=True)
                ],
            )
            connection.commit()
            reading.commit(asynchronous=False)
            watch.booked([m.timestamp()[1] for m in found])
    reading.close()
    return watch.told()


def quix(bootstrap: str, topic: str, most: int, model: str) -> Told:
    """Quix Streams with its own sink, watched from outside: when how many rows were there."""
    import subprocess

    import psutil
    import psycopg

    watch = Watch(most)
    with Database() as url, psycopg.connect(url, autocommit=True) as connection:
        folder = str(connection.info.host)
        process = subprocess.Popen(
            [str(QUIX), str(PEERS / "quix_loop.py"), bootstrap, topic, folder, "bench", "postgres", model],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        pinned(1)
        seen: list[tuple[float, int]] = []  # moment, rows
        while not watch.over:
            time.sleep(0.01)
            found = _counted(connection)
            if found > watch.rows:
                watch.started()
                watch.rows, watch.ended = found, time.perf_counter()
                seen.append((time.time() * 1e3, found))
        cpu = psutil.Process(process.pid).cpu_times()
        process.kill()
        process.wait()
        at = [row[0] for row in connection.execute("SELECT extract(epoch FROM timestamp) * 1e3 FROM scored ORDER BY 1")]
    booked = np.repeat([moment for moment, _ in seen], np.diff([0, *(rows for _, rows in seen)]))
    watch.ages = [booked - np.array(at[: len(booked)], np.float64)]
    first = seen[0][1] if seen else 0
    return {**watch.told(), "rows": max(1, watch.rows - first), "cpu_s": cpu.user + cpu.system}


def _counted(connection: Any) -> int:
    import psycopg

    try:
        return int(connection.execute("SELECT count(*) FROM scored").fetchone()[0])
    except psycopg.errors.UndefinedTable:
        return 0


def ours(bootstrap: str, topic: str, most: int, model: str) -> Told:
    """As `trueup stream`: exactly once."""
    return _stream(bootstrap, topic, most, model, books=True)


def ours_unbooked(bootstrap: str, topic: str, most: int, model: str) -> Told:
    """The same loop, and the same work on every row, but nothing is sent to the ledger."""
    return _stream(bootstrap, topic, most, model, books=False)


def _stream(bootstrap: str, topic: str, most: int, model: str, *, books: bool) -> Told:
    import tempfile

    import trueup
    from trueup.domain.stream import Stream
    from trueup.doors.collector import calm_collector
    from trueup.doors.kafka.handlers import Handlers
    from trueup.doors.kafka.opening import kafka, stream_server
    from trueup.ledger.streaming import PostgresStreams
    from trueup.settings import Streaming

    watch = Watch(most)
    streaming = Streaming(bootstrap=bootstrap, group=f"bench-{time.time_ns()}")
    with tempfile.TemporaryDirectory() as folder:
        pinned(1)  # the database's core
        settings = trueup.Settings(data_dir=Path(folder), stream=streaming)
        with trueup.connect(settings) as up:
            pinned(0)
            serving = trueup.Serving(
                replay_grade=trueup.ReplayGrade.TOLERANCE, tolerance=1e-6, reason_codes=0, stream=Stream(topic)
            )
            up.deploy("m", contract=CONTRACT, model=model, version="1", serving=serving)
            aged(up.services.urls.owner)
            server = stream_server(up.services, "m", lambda name: kafka(up.services, "m", name))
            book, scored = Handlers.book, Handlers.scored

            def watched(self: Handlers, batch: Any) -> Any:
                receipt = book(self, batch)
                watch.booked([record.timestamp_us / 1e3 for record in batch.records])
                if watch.over:
                    server.stop()
                return receipt

            def begun(self: Handlers, *given: Any) -> Any:
                watch.started()
                return scored(self, *given)

            Handlers.book, Handlers.scored = watched, begun  # type: ignore[method-assign]
            if not books:
                PostgresStreams.book_read = _nothing  # type: ignore[method-assign]
            _ended_when_idle(watch, server.stop)
            calm_collector()
            server.run()
            told = watch.told()
            if books:
                (row,) = up.query("SELECT count(*) AS n, count(DISTINCT source_key) AS keys FROM predictions").rows()
                assert row["n"] == row["keys"] == watch.rows
            return told


def _nothing(self: Any, booking: Any, read: Any) -> Any:
    """A commit that never happens."""
    from trueup.domain.batch import Booked, Receipt

    n = len(booking)
    return Receipt(1, np.zeros((n, 16), np.uint8), np.full(n, Booked.NEW, np.int8), booking.scored[0].answers)


def _ended_when_idle(watch: Watch, stop: Callable[[], None]) -> None:
    import threading

    def look() -> None:
        while not watch.over:
            time.sleep(0.1)
        stop()

    threading.Thread(target=look, daemon=True).start()


def aged(url: str) -> None:
    from contestants import _aged

    _aged(url)


class Database:
    """A PostgreSQL of the loop's own, on the other core."""

    def __enter__(self) -> str:
        import tempfile

        from trueup.ledger.embedded import EmbeddedPostgres

        pinned(1)
        self._folder = tempfile.TemporaryDirectory()
        self._server = EmbeddedPostgres(Path(self._folder.name))
        url = self._server.start("bench").owner
        pinned(0)
        aged(url)
        return url

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._folder.cleanup()


CONTESTANTS: dict[str, tuple[Callable[[str, str, int, str], Told], float]] = {
    "polls only (limit)": (polls, 1.0),
    "trueup, booking nothing": (ours_unbooked, 1.0),
    "trueup, exactly once": (ours, 1.0),
    "hand-written loop, at least once": (hand_written, 0.15),
    **({"Quix Streams, PostgreSQL sink": (quix, 0.1)} if QUIX.exists() else {}),
}
"""Each with the share of the records that it is given: a slow one needs no more."""
