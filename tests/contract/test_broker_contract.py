"""What every log of records must do for the stream: in order, bounded, nothing lost or repeated after a pause."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from brokers import Cluster
from streams import all_of, until
from trueup.doors.kafka.broker import Broker, Message
from trueup.doors.kafka.files import FileBroker
from trueup.doors.kafka.memory import MemoryBroker, MemoryTopics
from trueup.doors.kafka.records import Record
from trueup.settings import Streaming

NOW_US = time.time_ns() // 1_000_000 * 1000
Written = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


@dataclass
class Ledger:
    """Knows positions, or does not answer."""

    positions: dict[int, int] = field(default_factory=dict)
    away: bool = False
    given: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None] | None:
        self.given += partitions
        return None if self.away else {p: self.positions.get(p) for p in partitions}

    def revoked(self, partitions: Sequence[int]) -> None:
        self.gone += partitions

    def lost(self, partitions: Sequence[int]) -> None:
        self.gone += partitions


class Log:
    """A topic of some partitions, which tests write, and brokers on it."""

    partitions = 2

    def write(self, *values: bytes | None, partition: int = 0, key: bytes | None = None,
              headers: Sequence[tuple[str, bytes | None]] = ()) -> None: ...  # fmt: skip

    def broker(self, **bounds: Any) -> Broker: ...  # type: ignore[empty-body]

    def sent(self) -> list[Written]: ...  # type: ignore[empty-body]


class InMemory(Log):
    def __init__(self) -> None:
        self.topics = MemoryTopics()
        self.topics.make("t", 2)
        self.topics.make("out")

    def write(self, *values: bytes | None, partition: int = 0, key: bytes | None = None,
              headers: Sequence[tuple[str, bytes | None]] = ()) -> None:  # fmt: skip
        for value in values:
            self.topics.append("t", value, partition=partition, key=key, headers=headers, timestamp_us=NOW_US)

    def broker(self, **bounds: Any) -> Broker:
        return MemoryBroker(self.topics, "t", Streaming(**bounds))

    def sent(self) -> list[Written]:
        return [(r.key, r.value, tuple(r.headers)) for r in self.topics.records("out")]


class InFile(Log):
    partitions = 1

    def __init__(self, folder: Path) -> None:
        self.path = folder / "t"
        self.path.touch()
        self.out = io.BytesIO()

    def write(self, *values: bytes | None, partition: int = 0, **_: Any) -> None:
        with self.path.open("ab") as file:
            file.writelines((value or b"") + b"\n" for value in values)

    def broker(self, **bounds: Any) -> Broker:
        return FileBroker(self.path, Streaming(**bounds), self.out, "out")

    def sent(self) -> list[Written]:
        return [(None, line, ()) for line in self.out.getvalue().splitlines()]


class InKafka(Log):
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.topic = cluster.topic(f"c{random.randrange(10**9)}", 2)
        self.out = cluster.topic(f"{self.topic}-out")
        self.producer = Producer({"bootstrap.servers": cluster.bootstrap, "linger.ms": 1})

    def write(self, *values: bytes | None, partition: int = 0, key: bytes | None = None,
              headers: Sequence[tuple[str, bytes | None]] = ()) -> None:  # fmt: skip
        for value in values:
            self.producer.produce(self.topic, value, key, partition, timestamp=NOW_US // 1000, headers=list(headers))
        assert self.producer.flush(30) == 0

    def broker(self, **bounds: Any) -> Broker:
        from trueup.doors.kafka.confluent import ConfluentBroker

        return ConfluentBroker(self.topic, f"g{self.topic}", Streaming(bootstrap=self.cluster.bootstrap, **bounds))

    def sent(self) -> list[Written]:
        return [(key, value, tuple(headers.items())) for headers, key, value in all_of(self.cluster, self.out)]


@pytest.fixture(params=["memory", "file", "kafka"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    if request.param == "kafka":
        return InKafka(request.getfixturevalue("kafka"))
    return InMemory() if request.param == "memory" else InFile(tmp_path)


@pytest.fixture
def opened(log: Log) -> Iterator[Callable[..., Broker]]:
    made: list[Broker] = []

    def opens(ledger: Ledger | None = None, **bounds: Any) -> Broker:
        broker = log.broker(**bounds)
        made.append(broker)
        broker.open(ledger or Ledger())
        return broker

    yield opens
    for broker in made:
        broker.close()


def taken(broker: Broker, count: int, *, most: int = 100, more: bool = False) -> list[Record]:
    """So many records, and none more."""
    found: list[Record] = []
    limit = time.monotonic() + 20
    while len(found) < count:
        found += broker.take(most, 0.2)
        assert time.monotonic() < limit, f"{len(found)} of {count}"
    if not more:
        found += broker.take(most, 0.1)
        assert len(found) == count
    return found


def values(records: Sequence[Record], partition: int = 0) -> list[bytes | None]:
    return [r.value for r in records if r.partition == partition]


def numbered(start: int, end: int) -> list[bytes]:
    return [b"%d" % i for i in range(start, end)]


class TestEveryBroker:
    def test_records_come_as_they_were_written(self, log: Log, opened: Callable[..., Broker]):
        headers = [("a", b"1"), ("b", None), ("a", b"\xff"), ("c", b"")]
        log.write(b"{}", key=b"k", headers=headers)
        log.write(b"x\x00\xff")
        (first, second) = taken(opened(), 2)
        assert (first.partition, first.offset, first.value) == (0, 0, b"{}")
        assert (second.offset, second.value, second.key, list(second.headers)) == (1, b"x\x00\xff", None, [])
        if not isinstance(log, InFile):
            assert (first.key, list(first.headers), first.timestamp_us) == (b"k", headers, NOW_US)

    def test_a_tombstone_has_no_value_and_an_empty_value_is_none(self, log: Log, opened: Callable[..., Broker]):
        if isinstance(log, InFile):
            pytest.skip("an empty line is no record")
        log.write(None, b"", key=b"")
        assert [(r.value, r.key) for r in taken(opened(), 2)] == [(None, b""), (b"", b"")]

    def test_at_most_so_many_at_once_and_in_order_within_a_partition(self, log: Log, opened: Callable[..., Broker]):
        for partition in range(log.partitions):
            log.write(*numbered(0, 50), partition=partition)
        broker = opened()
        found: list[Record] = []
        limit = time.monotonic() + 20
        while len(found) < 50 * log.partitions and time.monotonic() < limit:
            some = broker.take(7, 0.2)
            assert len(some) <= 7
            found += some
        for partition in range(log.partitions):
            assert values(found, partition) == numbered(0, 50)
            assert [r.offset for r in found if r.partition == partition] == list(range(50))

    def test_one_at_once(self, log: Log, opened: Callable[..., Broker]):
        log.write(*numbered(0, 3))
        assert values(taken(opened(), 3, most=1)) == numbered(0, 3)

    def test_nothing_comes_while_held_and_nothing_is_lost_or_repeated_after(
        self, log: Log, opened: Callable[..., Broker]
    ):
        for partition in range(log.partitions):
            log.write(*numbered(0, 40), partition=partition)
        broker = opened()
        found = taken(broker, 10, most=10, more=True)
        for _ in range(3):
            broker.hold(0.05)
            assert broker.take(100, 0.05) == []
        log.write(*numbered(40, 60))
        next_ones: dict[int, int | None] = {
            p: max((r.offset + 1 for r in found if r.partition == p), default=None) for p in range(log.partitions)
        }
        broker.go_on(next_ones)
        found += taken(broker, 40 * log.partitions + 20 - len(found))
        assert values(found) == numbered(0, 60)
        if log.partitions > 1:
            assert values(found, 1) == numbered(0, 40)

    def test_going_on_further_back_reads_again_from_there(self, log: Log, opened: Callable[..., Broker]):
        log.write(*numbered(0, 30))
        broker = opened()
        taken(broker, 30)
        for start in (12, 0, 29):
            broker.hold(0)
            broker.go_on(dict.fromkeys(range(log.partitions), None) | {0: start})
            assert values(taken(broker, 30 - start)) == numbered(start, 30)

    def test_a_partition_starts_where_the_ledger_says(self, log: Log, opened: Callable[..., Broker]):
        log.write(*numbered(0, 30))
        assert values(taken(opened(Ledger({0: 20})), 10)) == numbered(20, 30)

    def test_without_a_position_all_is_read_unless_it_starts_with_the_latest(
        self, log: Log, opened: Callable[..., Broker]
    ):
        log.write(*numbered(0, 5))
        if isinstance(log, InFile):
            pytest.skip("a file is read from its beginning")
        ledger = Ledger()
        broker = opened(ledger, start="latest")
        deadline = time.monotonic() + 20
        while len(ledger.given) < log.partitions:
            assert broker.take(10, 0.1) == []
            assert time.monotonic() < deadline
        log.write(*numbered(5, 9))
        assert values(taken(broker, 4)) == numbered(5, 9)
        broker.hold(0)
        broker.go_on({0: None, 1: None})  # the end as it was when the partition was first ours
        assert values(taken(broker, 4)) == numbered(5, 9)

    def test_while_the_ledger_is_away_nothing_is_read(self, log: Log, opened: Callable[..., Broker]):
        log.write(*numbered(0, 5))
        ledger = Ledger(away=True)
        broker = opened(ledger)
        deadline = time.monotonic() + 20
        while len(ledger.given) < log.partitions:
            assert broker.take(10, 0.1) == []
            assert time.monotonic() < deadline
        assert broker.take(10, 0.3) == []
        broker.hold(0.01)
        broker.go_on(dict.fromkeys(range(log.partitions), None) | {0: 2})
        assert values(taken(broker, 3)) == numbered(2, 5)

    def test_what_was_committed_to_the_group_moves_nobody(self, log: Log, opened: Callable[..., Broker]):
        log.write(*numbered(0, 10))
        first = opened()
        taken(first, 10)
        first.commit({0: 10})
        first.commit({0: 10, 7: 3})
        first.commit({})
        first.close()
        second = log.broker()
        second.open(Ledger({0: 4}))
        assert values(taken(second, 6)) == numbered(4, 10)
        second.close()

    def test_deliveries_are_told_when_served(self, log: Log, opened: Callable[..., Broker]):
        broker = opened()
        out = log.out if isinstance(log, InKafka) else "out"
        told: list[bool] = []
        headers = (("h", b"1"),)
        for i in range(20):
            broker.send(Message(out, b"k%d" % i, b"%d" % i, headers), told.append)
        until(lambda: broker.serve(0.05) == 0 and len(told) == 20, 20)
        assert all(told)
        sent = log.sent()
        assert [value for _, value, _ in sent] == numbered(0, 20)
        if not isinstance(log, InFile):
            assert sent[3] == (b"k3", b"3", headers)

    def test_closing_gives_the_partitions_back(self, log: Log):
        if isinstance(log, InFile):
            pytest.skip("a file is nobody else's")
        log.write(b"1")
        broker, ledger = log.broker(), Ledger()
        broker.open(ledger)
        taken(broker, 1)
        broker.close()
        assert sorted(ledger.gone) == sorted(ledger.given) == [0, 1]

    def test_how_far_behind_it_is(self, log: Log, opened: Callable[..., Broker]):
        if isinstance(log, InFile):
            pytest.skip("nobody has counted its lines")
        log.write(*numbered(0, 10))
        broker = opened()
        taken(broker, 3, most=3, more=True)
        assert broker.behind()[0] == 7
        taken(broker, 7)
        assert broker.behind()[0] == 0
