"""A desk of streams: a topic that somebody fills, consumers that are killed and started again, and what came of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition

import trueup
from brokers import Cluster
from trueup.bootstrap import wired
from trueup.domain.stream import Stream
from trueup.ledger import migrating
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls

TESTS = Path(__file__).parent
CONTRACT = trueup.load_contract("""
name: t
version: 1
fields:
  account: {type: string, role: key}
  amount: float64
output: {kind: probability}
""")


def event(number: int) -> bytes:
    return b'{"account":"A%d","amount":%d.0}' % (number, 1000 * (number % 900))


def score_of(account: str) -> float:
    return float(1000 * (int(account[1:]) % 900)) / 1e6


@dataclass
class Field:
    """A topic of events, a ledger of its own, and the processes between them."""

    cluster: Cluster
    postgres: EmbeddedPostgres
    urls: Urls
    folder: Path
    topic: str
    stream: Stream
    more: dict[str, str] = field(default_factory=dict)  # of the environment

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TRUEUP_DATABASE_URL": self.urls.owner,
            "TRUEUP_DATA_DIR": str(self.folder / "data"),
            "TRUEUP_STREAM__BOOTSTRAP": self.cluster.bootstrap,
            "TRUEUP_TEST_TOPIC": self.topic,
            "TRUEUP_LOG_LEVEL": "info",
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            **self.more,
        }

    def deploy(self) -> None:
        migrating.migrate(self.urls.owner)
        with self.opened() as up:
            serving = trueup.Serving(stream=self.stream, replay_grade=trueup.ReplayGrade.RECORD_ONLY, reason_codes=0)
            model = "python:small_models:share_of_a_million"
            up.deploy("t", contract=CONTRACT, model=model, version="1", serving=serving)

    def opened(self) -> trueup.Trueup:
        return trueup.Trueup(wired(trueup.Settings(data_dir=self.folder / "data"), self.urls))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.urls.owner) as connection:
            return connection.execute(sql.encode()).fetchall()

    def kill_postgres(self) -> None:
        """The server with all its processes, as when its machine fails; it comes back after a second."""
        import psutil

        server = psutil.Process(int((self.folder / "pg" / "postgres" / "postmaster.pid").read_text().splitlines()[0]))
        for process in [server, *server.children()]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(1)
        self.postgres._ensure_running()

    def ended(self, count: int) -> bool:
        """Whether everything that was written has been read."""
        with suppress(psycopg.Error):
            found = self.query("SELECT coalesce(sum(next_offset), 0) FROM ledger.positions")
            return int(found[0][0]) >= count
        return False


@dataclass
class Member:
    """A consumer that is started again whenever it ends, each time with the next of ``kills``."""

    place: Field
    program: str
    arguments: tuple[str, ...]
    kills: list[str] = field(default_factory=list)
    deaths: list[float] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    _ending: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._ending.is_set():
            kill = {"TRUEUP_TEST_KILL": self.kills.pop(0)} if self.kills else {}
            with (self.place.folder / "consumers.log").open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, str(TESTS / self.program), *self.arguments],
                    env=self.place.environment | kill, stdout=log, stderr=log,
                )  # fmt: skip
            self.process.wait()
            self.deaths.append(time.time())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def end(self) -> int:
        """Asks it to end; its exit code."""
        self._ending.set()
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)


@contextmanager
def members(
    place: Field, count: int, program: str, *arguments: str, kills: list[str] | None = None
) -> Iterator[list[Member]]:
    """So many consumers, until the block is left."""
    made = [Member(place, program, arguments, (kills or [])[number::count]) for number in range(count)]
    threads = [threading.Thread(target=one.run, daemon=True) for one in made]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        for one in made:
            one._ending.set()
            one.kill()
        for thread in threads:
            thread.join(30)


@contextmanager
def field_of(cluster: Cluster, folder: Path, partitions: int, **declared: Any) -> Iterator[Field]:
    """A PostgreSQL of its own, which may be killed, and fresh topics."""
    postgres = EmbeddedPostgres(folder / "pg")
    urls = postgres.start("stream")
    name = f"t{random.randrange(10**9)}"
    replies, dead = cluster.topic(f"{name}-replies", 3), cluster.topic(f"{name}-dead", 1)
    stream = Stream(cluster.topic(name, partitions), replies=replies, dead_letters=dead, **declared)
    try:
        made = Field(cluster, postgres, urls, folder, name, stream)
        made.deploy()
        yield made
    finally:
        postgres.stop()


def produce(place: Field, numbers: range, per_second: float, value: Callable[[int], bytes] = event) -> None:
    """Writes the events of these numbers at a steady rate, each once."""
    producer = Producer(
        {"bootstrap.servers": place.cluster.bootstrap, "enable.idempotence": True, "linger.ms": 5, "acks": "all"}
    )
    failed: list[Any] = []

    def told(error: Any, _: Any) -> None:
        if error is not None:
            failed.append(error)

    began = time.monotonic()
    for done, number in enumerate(numbers):
        while True:
            try:
                producer.produce(place.topic, value(number), b"%d" % number, on_delivery=told)
                break
            except BufferError:
                producer.poll(0.1)
        if done % 100 == 0:
            producer.poll(max(0.0, began + done / per_second - time.monotonic()))
    assert producer.flush(120) == 0
    assert failed == []


@contextmanager
def producing(place: Field, numbers: range, per_second: float) -> Iterator[threading.Thread]:
    """The same in a thread of its own, which is over when the block is left."""
    faults: list[BaseException] = []

    def run() -> None:
        try:
            produce(place, numbers, per_second)
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(600)
    assert faults == []


def all_of(cluster: Cluster, topic: str) -> list[tuple[dict[str, bytes], bytes | None, bytes | None]]:
    """Headers, key and value of every record of a topic."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "looking", "enable.auto.commit": False,
                         "isolation.level": "read_committed"})  # fmt: skip
    found = []
    try:
        partitions = list(consumer.list_topics(topic, 30).topics[topic].partitions)
        ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), 30)[1] for p in partitions}
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        while any(end > 0 for end in ends.values()):
            for message in consumer.consume(10_000, 1.0):
                if message.error() is None:
                    found.append((dict(message.headers() or ()), message.key(), message.value()))
                    if message.offset() + 1 >= ends[message.partition()]:
                        ends[message.partition()] = 0
    finally:
        consumer.close()
    return found


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Waits for it."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.05)
