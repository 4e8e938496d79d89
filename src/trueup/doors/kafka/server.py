"""The stream: a topic's records scored exactly once into the ledger.

1. *assign*: the ledger's positions say where each partition is read from, never the group's.
2. *poll* a bounded batch.
3. *score and book* it: rows, refusals, dead letters, owed replies and positions are one transaction, which fails
   where a position is not what it started from: then another owner has moved on.
4. *relay* the replies, and forget them when the broker has confirmed them.
5. *commit* the group's offsets, for tools that watch lag.

A stop after any step loses and doubles nothing (``docs/explanation/streams.md``). While one batch is being booked, in
a thread, the next is polled and scored. After any fault the stream looks anew where the ledger says it stands.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Protocol

from trueup.domain.batch import Receipt
from trueup.domain.stream import Place, Read
from trueup.doors.kafka.broker import Broker
from trueup.doors.kafka.records import Record
from trueup.doors.kafka.replies import Replies
from trueup.errors import Fenced, TrueupError, Unavailable
from trueup.ports import StreamLedger
from trueup.settings import Streaming
from trueup.telemetry import log
from trueup.telemetry.metrics import Metrics

HEARTBEAT_S = 0.5  # a stream that waits for the ledger is seen by its group so often
AHEAD = 2  # batches that are booked or wait for it while the next is polled and scored
GLANCE_S = 0.002  # a stream that waits for records looks so often whether its batch is booked
COMMIT_S = 1.0


class Pace:
    """How many records make a commit of the time that one may take."""

    def __init__(self, bounds: Streaming) -> None:
        self._bounds = bounds
        self.rows = bounds.batch_rows

    def took(self, rows: int, seconds: float) -> None:
        """Learns from a batch: of one that is not full only that it took too long."""
        bounds = self._bounds
        if rows >= self.rows or seconds * 1e3 > bounds.batch_ms:
            fits = int(rows * bounds.batch_ms / 1e3 / max(seconds, 1e-6))
            self.rows = min(bounds.batch_rows, max(bounds.least_rows, min(fits, 2 * self.rows)))


class Piece(Protocol):
    """Records that were worked on and are not booked yet."""

    @property
    def records(self) -> Sequence[Record]:
        """As they were taken."""
        ...

    @property
    def read(self) -> Read:
        """What their commit says of them."""
        ...

    @property
    def positions(self) -> Mapping[int, int]:
        """Where their partitions stand once they are booked."""
        ...

    @property
    def took_s(self) -> float:
        """Seconds of work so far."""
        ...


class Work(Protocol):
    """What is done with records: ``Handlers`` scores them, ``OutcomeHandlers`` records them."""

    def scored(self, records: Sequence[Record], expected: Mapping[int, int | None]) -> Iterator[Any]:
        """Pieces, each to be booked before the next. Raises Unavailable."""
        ...

    def book(self, batch: Any) -> Receipt | None:
        """Raises Fenced, LedgerUnavailable."""
        ...


class StreamServer:
    """Runs one stream in the calling thread until ``stop`` is called from another or by a signal."""

    def __init__(
        self,
        handlers: Work,
        broker: Broker,
        replies: Replies,
        streams: StreamLedger,
        place: Place,
        bounds: Streaming,
        metrics: Metrics,
    ) -> None:
        self._handlers = handlers
        self._broker = broker
        self._replies = replies
        self._streams = streams
        self._place = place
        self._bounds = bounds
        self._metrics = metrics
        self._pace = Pace(bounds)
        self._stopping = threading.Event()
        self._thread = ThreadPoolExecutor(1, "trueup-stream")
        self._next: dict[int, int | None] = {}  # where each of our partitions stands, with what is being booked
        self._booking: deque[tuple[Piece, Future[Receipt | None]]] = deque()  # oldest first
        self._fault: TrueupError | None = None  # met where it could not be raised
        self._retry_s = bounds.retry_s
        self._holds = False  # the broker, until there is room for replies
        self._commit_at = 0.0
        self._uncommitted: dict[int, int] = {}
        self.is_ready = False
        self.behind: Mapping[int, int] = {}  # records of each of our partitions that were not taken yet

    @property
    def topic(self) -> str:
        """What it reads."""
        return self._place.topic

    def stop(self) -> None:
        """Ends ``run`` after what is in hand."""
        self._stopping.set()

    def run(self) -> bool:
        """Whether everything that it owed was sent. Raises StreamFailed, InvalidInput."""
        self._broker.open(self)
        try:
            while not self._stopping.is_set() and (self._is_busy or not self._broker.ended):
                self.turn()
            return self._drain()
        finally:
            self._thread.shutdown()
            self._broker.close()

    def turn(self) -> None:
        """Steps 2 to 5, once; after a fault, step 1 again."""
        try:
            self._turn()
            self.is_ready = True
        except (Unavailable, Fenced) as fault:
            self.is_ready = False
            self._look_anew(fault)

    def _turn(self) -> None:
        """Steps 2 to 5, once. Raises Unavailable, Fenced."""
        self._raise_fault()
        if self._replies.is_full or (self._holds and not self._replies.has_room):
            self._holds = True
            self._broker.hold(GLANCE_S)
        else:
            if self._holds:
                self._go_on()
            self._start(self._polled())
        while self._booking and self._booking[0][1].done():
            self._finish()
        self._replies.turn()
        self._commit()

    def _polled(self) -> Sequence[Record]:
        """Step 2: what nobody has scored yet, of partitions that are still ours."""
        found = self._broker.take(self._pace.rows, GLANCE_S if self._is_busy else self._bounds.wait_s)
        self._raise_fault()
        return self._unread(found)

    def _unread(self, records: Sequence[Record]) -> Sequence[Record]:
        return [r for r in records if r.partition in self._next and r.offset >= (self._next[r.partition] or 0)]

    @property
    def _is_busy(self) -> bool:
        return bool(self._booking) or self._replies.in_flight > 0

    def _start(self, records: Sequence[Record]) -> None:
        """Step 3: scores, and has it booked after the batches before, of which few may wait."""
        while records:
            for batch in self._handlers.scored(records, dict(self._next)):
                while len(self._booking) >= AHEAD:
                    self._finish()
                if not self._follows(batch):
                    self._refuse_a_gap(batch)
                    break
                self._booking.append((batch, self._thread.submit(self._book, batch)))
                self._next.update(batch.positions)
            records = self._unread(records)  # some where a partition came or went while a batch before was booked

    def _follows(self, batch: Piece) -> bool:
        """Whether its partitions are ours, and stand where it begins."""
        nobody = -1
        return all(self._next.get(p.partition, nobody) == p.expected for p in batch.read.portions)

    def _refuse_a_gap(self, batch: Piece) -> None:
        """What is in hand may only go where its partition has gone. One that came back meanwhile stands elsewhere:
        what lies between would never be read. Raises Fenced."""
        moved = [p for p in batch.read.portions if self._next.get(p.partition, p.expected) != p.expected]
        if moved:
            raise Fenced("a partition has come back and stands elsewhere")

    def _book(self, batch: Piece) -> Receipt | None:
        """In the thread. A batch behind one that failed is fenced by its position."""
        began = time.perf_counter()
        receipt = self._handlers.book(batch)
        self._pace.took(len(batch.records), batch.took_s + time.perf_counter() - began)
        return receipt

    def _finish(self) -> None:
        """The rest of step 3: waits until the oldest batch is booked, and answers it. Raises Unavailable, Fenced."""
        batch, future = self._booking[0]
        held = False
        while not _done_within(future, HEARTBEAT_S):
            self._broker.hold(0)
            held = True
        self._booking.popleft()
        receipt = future.result()
        if held:
            self._go_on()
        self._retry_s = self._bounds.retry_s
        self._uncommitted.update(batch.positions)
        self._replies.answer(batch, receipt)

    def _go_on(self) -> None:
        self._broker.go_on(self._next)
        self._holds = False

    def _commit(self) -> None:
        """Step 5, once a second."""
        if time.monotonic() < self._commit_at:
            return
        if self._uncommitted:
            self._broker.commit(self._uncommitted)
            self._uncommitted = {}
        self.behind = self._broker.behind()
        self._commit_at = time.monotonic() + COMMIT_S

    def _look_anew(self, fault: TrueupError) -> None:
        """Forgets what is in hand, and goes on from where the ledger says, when it can be asked again."""
        log("stream").warning("looks_anew", topic=self._place.topic, because=type(fault).__name__)
        self._metrics.stream_turned(self._place.deployment_id, restarts=1)
        self._abandon()
        while not self._stopping.is_set():
            wait_s, self._retry_s = self._retry_s, min(2 * self._retry_s, self._bounds.retry_most_s)
            self._broker.hold(wait_s)
            with suppress(Unavailable):
                positions = self._positions()
                self._fault = None
                self._next = {partition: positions.get(partition) for partition in self._next}
                self._go_on()
                self._replies.follow(list(self._next))
                return

    def _abandon(self) -> None:
        """Waits for what is in hand, whatever becomes of it: the ledger knows."""
        while self._booking:
            _, future = self._booking.popleft()
            while not _done_within(future, HEARTBEAT_S):
                self._broker.hold(0)
            with suppress(TrueupError):
                future.result()
        self._uncommitted = {}

    def _raise_fault(self) -> None:
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _drain(self) -> bool:
        """What is being booked is booked, and what is owed is sent."""
        try:
            while self._booking:
                self._finish()
            self._commit_at = 0.0
            self._commit()
            return self._replies.drain(self._bounds.drain_s)
        except (Unavailable, Fenced):
            return False

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None] | None:
        """Step 1."""
        self._metrics.stream_turned(self._place.deployment_id, rebalances=1)
        log("stream").info("assigned", topic=self._place.topic, partitions=list(partitions))
        self._next.update(dict.fromkeys(partitions))
        self._replies.follow(list(self._next))
        try:
            positions = self._positions()
        except Unavailable as fault:
            self._fault = fault
            return None
        mine = {partition: positions.get(partition) for partition in partitions}
        self._next.update(mine)
        return mine

    def _positions(self) -> Mapping[int, int]:
        """Where the ledger says that our partitions stand, and those begin that were never read. Raises Unavailable."""
        positions = self._streams.positions(self._place)
        beginnings = self._broker.beginnings([p for p in self._next if p not in positions])
        if beginnings:
            self._streams.begin_at(self._place, beginnings)
            positions = self._streams.positions(self._place)
        return positions

    def revoked(self, partitions: Sequence[int]) -> None:
        """Lets go of partitions after what was read of them is booked."""
        self._metrics.stream_turned(self._place.deployment_id, rebalances=1)
        log("stream").info("revoked", topic=self._place.topic, partitions=list(partitions))
        until = time.monotonic() + self._bounds.session_ms / 1e3
        for _, future in list(self._booking):
            with suppress(TrueupError, TimeoutError):
                future.result(max(0.0, until - time.monotonic()))
        self._forgo(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """Forgets partitions that others have. What is being booked of them is fenced."""
        self._metrics.stream_turned(self._place.deployment_id, rebalances=1)
        log("stream").warning("lost", topic=self._place.topic, partitions=list(partitions))
        self._forgo(partitions)

    def _forgo(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._next.pop(partition, None)
            self._uncommitted.pop(partition, None)
        self._replies.follow(list(self._next))


def _done_within(future: Future[Receipt | None], seconds: float) -> bool:
    """Whether it ends in time."""
    return bool(wait([future], seconds).done)
