"""The brokers' fake: topics in memory, for tests without Kafka. ``tests/contract/test_broker_contract.py`` holds it
and the real ones to the same sentences.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from trueup.doors.kafka.broker import Message, Watcher
from trueup.doors.kafka.records import Record
from trueup.settings import Streaming

CLUSTER = "memory"


class MemoryTopics:
    """Topics of several partitions, which any number of brokers read and write. Safe to use from several threads."""

    def __init__(self) -> None:
        self._topics: dict[str, list[list[Record]]] = {}
        self.changed = threading.Condition()

    def make(self, name: str, partitions: int = 1) -> str:
        """A topic without records."""
        self._topics[name] = [[] for _ in range(partitions)]
        return name

    def append(
        self,
        topic: str,
        value: bytes | None,
        *,
        partition: int = 0,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_us: int | None = None,
    ) -> int:
        """Writes a record; its offset. It is dated now unless told otherwise."""
        moment = time.time_ns() // 1_000_000 * 1000 if timestamp_us is None else timestamp_us
        with self.changed:
            records = self.partition(topic, partition)
            records.append(Record(topic, partition, len(records), moment, key, value, tuple(headers)))
            self.changed.notify_all()
            return len(records) - 1

    def partition(self, topic: str, partition: int) -> list[Record]:
        """Its records."""
        return self._topics[topic][partition]

    def partitions(self, topic: str) -> range:
        """Their numbers."""
        return range(len(self._topics[topic]))

    def records(self, topic: str) -> list[Record]:
        """All that was written."""
        return list(chain.from_iterable(self._topics[topic]))


@dataclass(slots=True)
class _Rebalance:
    """Told to the watcher when the broker is next asked for records, as Kafka's client does."""

    kind: Literal["give", "revoke", "lose"]
    partitions: list[int]


@dataclass
class MemoryBroker:
    """Reads one topic of ``topics``. Whose its partitions are is what the test says: all, unless told otherwise."""

    topics: MemoryTopics
    topic: str
    bounds: Streaming
    partitions: Iterable[int] | None = None
    cluster: str = CLUSTER
    fails: int = 0  # so many of the next deliveries fail
    confirms: bool = True  # False: deliveries wait
    held: bool = False
    committed: dict[int, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)  # what was asked of it, for tests of the order of steps
    _watcher: Watcher | None = None
    _at: dict[int, int] = field(default_factory=dict)  # the next offset of each of our partitions
    _began: dict[int, int] = field(default_factory=dict)
    _silent: set[int] = field(default_factory=set)  # partitions that nobody knows the position of yet
    _coming: list[_Rebalance] = field(default_factory=list)
    _unsent: list[tuple[Message, Callable[[bool], None]]] = field(default_factory=list)
    _turn: int = 0

    @property
    def ended(self) -> bool:
        """A topic never is."""
        return False

    @property
    def ours(self) -> list[int]:
        """The partitions that are ours now."""
        return sorted(self._at)

    def open(self, watcher: Watcher) -> None:
        """Its partitions are given when records are first asked for."""
        self._watcher = watcher
        numbers = self.topics.partitions(self.topic) if self.partitions is None else self.partitions
        self.give(*numbers)

    def give(self, *partitions: int) -> None:
        """They are ours from the next time on that records are asked for."""
        self._coming.append(_Rebalance("give", list(partitions)))

    def revoke(self, *partitions: int) -> None:
        """They are another's after it."""
        self._coming.append(_Rebalance("revoke", list(partitions)))

    def lose(self, *partitions: int) -> None:
        """They are another's already."""
        self._coming.append(_Rebalance("lose", list(partitions)))

    def take(self, most: int, wait_s: float) -> list[Record]:
        """Of one partition after the other, each in its order."""
        self.told.append("take")
        self._rebalance()
        until = time.monotonic() + wait_s
        with self.topics.changed:
            found = self._taken(most)
            while not found and (left := until - time.monotonic()) > 0:
                self.topics.changed.wait(left)
                found = self._taken(most)
        return found

    def hold(self, wait_s: float) -> None:
        """Takes nothing until ``go_on``."""
        self.told.append("hold")
        self.held = True
        self._rebalance()
        time.sleep(wait_s)

    def go_on(self, offsets: Mapping[int, int | None]) -> None:
        """Reads these partitions from these offsets."""
        self.told.append("go_on")
        for partition, offset in offsets.items():
            if partition in self._at:
                self._at[partition] = self._began[partition] if offset is None else offset
                self._silent.discard(partition)
        self.held = False

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Remembers them."""
        self.told.append("commit")
        self.committed.update({p: offset for p, offset in offsets.items() if p in self._at})

    def send(self, message: Message, delivered: Callable[[bool], None]) -> None:
        """Queues it."""
        self.told.append("send")
        self._unsent.append((message, delivered))

    def serve(self, wait_s: float = 0.0) -> int:
        """Writes what was queued, unless it is to fail or to wait."""
        if not self.confirms:
            time.sleep(wait_s)
            return len(self._unsent)
        waiting, self._unsent = self._unsent, []
        for message, delivered in waiting:
            good = self.fails <= 0
            self.fails -= not good
            if good:
                self._write(message)
            delivered(good)
        return len(self._unsent)

    def beginnings(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """The ends when they were first ours, where the past is not wanted."""
        return {} if self.bounds.start == "earliest" else {p: self._began[p] for p in partitions}

    def behind(self) -> Mapping[int, int]:
        """To the ends of the partitions."""
        return {p: len(self.topics.partition(self.topic, p)) - at for p, at in self._at.items()}

    def close(self) -> None:
        """Gives its partitions back."""
        if self._watcher is not None and self._at:
            self.revoke(*self._at)
            self._rebalance()

    def _write(self, message: Message) -> None:
        partition = hash(message.key) % len(self.topics.partitions(message.topic))
        self.topics.append(message.topic, message.value, partition=partition, key=message.key, headers=message.headers)

    def _rebalance(self) -> None:
        assert self._watcher is not None
        while self._coming:
            change = self._coming.pop(0)
            if change.kind == "give":
                self._assign([p for p in change.partitions if p not in self._at])
                continue
            gone = [p for p in change.partitions if p in self._at]
            if gone:
                (self._watcher.revoked if change.kind == "revoke" else self._watcher.lost)(gone)
            for partition in gone:
                del self._at[partition]
                self._silent.discard(partition)

    def _assign(self, partitions: list[int]) -> None:
        assert self._watcher is not None
        if not partitions:
            return
        for partition in partitions:
            end = len(self.topics.partition(self.topic, partition))
            self._began.setdefault(partition, 0 if self.bounds.start == "earliest" else end)
        offsets = self._watcher.assigned(partitions)
        for partition in partitions:
            offset = None if offsets is None else offsets[partition]
            self._at[partition] = self._began[partition] if offset is None else offset
        if offsets is None:
            self._silent.update(partitions)

    def _taken(self, most: int) -> list[Record]:
        found: list[Record] = []
        if self.held:
            return found
        numbers = [p for p in self.ours if p not in self._silent]
        self._turn += 1  # another one comes first each time
        for place in range(len(numbers)):
            partition = numbers[(self._turn + place) % len(numbers)]
            at = self._at[partition]
            piece = self.topics.partition(self.topic, partition)[at : at + most - len(found)]
            self._at[partition] = at + len(piece)
            found += piece
        return found
