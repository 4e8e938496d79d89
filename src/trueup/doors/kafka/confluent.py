"""Kafka by confluent-kafka's client (extra `kafka`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka import Message as Fetched

from trueup.doors.kafka.broker import Message, Watcher
from trueup.doors.kafka.records import Record
from trueup.errors import InvalidInput, StreamFailed, Unavailable
from trueup.settings import Streaming
from trueup.telemetry import log

CHECK_S = 2.0  # the same for a question of one partition
ASK_S = 10.0  # how long a question to the cluster may take
SEEK_S = 10.0
_SEEK_AGAIN_S = 0.05
_LAST_MS = 253_402_300_799_999  # of the year 9999: beyond it somebody has sent other units
# What the promises of this door rest on, and nobody may set otherwise.
OURS = frozenset(
    (
        *("group.id", "enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset", "isolation.level"),
        *("partition.assignment.strategy", "group.protocol", "enable.idempotence", "acks", "bootstrap.servers"),
        *("session.timeout.ms", "heartbeat.interval.ms", "enable.partition.eof", "transactional.id"),
        *("auto.commit.enable", "metadata.broker.list", "request.required.acks"),  # other names of some of them
    )
)
_FATAL = (
    KafkaError._AUTHENTICATION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError._FATAL,
    KafkaError._FENCED,
)


class ConfluentBroker:
    """A member of a consumer group, and a producer beside it."""

    def __init__(self, topic: str, group: str, bounds: Streaming) -> None:
        """Raises Unavailable where no broker answers, InvalidInput for a wrong setting."""
        self._topic = topic
        self._bounds = bounds
        self._ours: set[int] = set()  # partitions
        self._ends: dict[int, int] = {}  # of those that were never read, when they were first ours
        self._held = False
        self._failure: KafkaError | None = None
        self._refused = ""  # why this topic is not the one that the ledger knows
        options = client_options(bounds)
        try:
            self._consumer = Consumer(_READING | options | _promised(group, bounds), logger=_client_log())
            self._producer = Producer(_WRITING | options | {"enable.idempotence": True}, logger=_client_log())
        except (KafkaException, ValueError, TypeError):
            raise InvalidInput(
                "the Kafka client refuses its settings", next_step="check TRUEUP_STREAM__CLIENT and the secrets"
            ) from None
        self.cluster = bounds.cluster or self._cluster_id()

    @property
    def ended(self) -> bool:
        """A topic never is."""
        return False

    def open(self, watcher: Watcher) -> None:
        """Joins the group, if there is such a topic."""
        self._cluster_id()
        self._consumer.subscribe(
            [self._topic],
            on_assign=partial(self._assigned, watcher),
            on_revoke=lambda _, partitions: self._gone(watcher.revoked, partitions),
            on_lost=lambda _, partitions: self._gone(watcher.lost, partitions),
        )

    def take(self, most: int, wait_s: float) -> list[Record]:
        """Waits for a first record, and takes what else the client has fetched already."""
        first = self._consumer.poll(wait_s)
        if first is None or self._refused:
            self._raise_failure()
            return []
        return self._records([first, *(self._consumer.consume(most - 1, 0) if most > 1 else ())])

    def hold(self, wait_s: float) -> None:
        """Takes nothing, but stays a member."""
        self._pause()
        until = time.monotonic() + wait_s
        while True:
            found = self._consumer.poll(max(0.0, until - time.monotonic()))
            if found is not None and (error := found.error()) is not None:
                self._failed(error)
            self._pause()  # also what was assigned meanwhile
            if found is None and time.monotonic() >= until:
                return

    def go_on(self, offsets: Mapping[int, int | None]) -> None:
        """Seeks and resumes. Raises Unavailable."""
        places = [self._at(partition, offset) for partition, offset in offsets.items() if partition in self._ours]
        until = time.monotonic() + SEEK_S
        for place in places:
            while True:
                try:
                    self._consumer.seek(place)
                    break
                except KafkaException:  # a partition just assigned is not fetched yet
                    if time.monotonic() > until or place.partition not in self._ours:
                        raise Unavailable("a partition cannot be read yet", next_step="try again") from None
                    self._consumer.poll(_SEEK_AGAIN_S)
        with suppress(KafkaException):  # also those that were assigned while a seek was tried again
            self._consumer.resume([TopicPartition(self._topic, number) for number in self._ours])
        self._held = False

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Tells the group, without waiting for its answer."""
        with suppress(KafkaException):
            self._consumer.commit(
                offsets=[TopicPartition(self._topic, p, offset) for p, offset in offsets.items() if p in self._ours],
                asynchronous=True,
            )

    def send(self, message: Message, delivered: Callable[[bool], None]) -> None:
        """Waits while the client's queue is full."""
        while True:
            try:
                self._producer.produce(
                    message.topic,
                    message.value,
                    message.key,
                    headers=list(message.headers),
                    on_delivery=lambda error, _: delivered(error is None),
                )
                return
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as error:  # too large for the broker, say: told as a delivery that failed
                log("kafka").error("not_sent", topic=message.topic, code=_code(error.args[0]))
                delivered(False)
                return

    def serve(self, wait_s: float = 0.0) -> int:
        """Has deliveries told."""
        self._producer.poll(wait_s)
        return len(self._producer)

    def beginnings(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """The ends when they were first ours, where the past is not wanted. Raises Unavailable."""
        if self._bounds.start == "earliest":
            return {}
        try:
            for partition in partitions:
                if partition not in self._ends:
                    place = TopicPartition(self._topic, partition)
                    self._ends[partition] = int(self._consumer.get_watermark_offsets(place, CHECK_S)[1])
        except (KafkaException, TypeError):  # it says None where nobody answered in time
            raise Unavailable("the end of a partition is not known now", next_step="try again") from None
        return {p: self._ends[p] for p in partitions}

    def behind(self) -> Mapping[int, int]:
        """By what the client has heard from the brokers: no question is asked."""
        found = {}
        for partition in list(self._ours):
            place = TopicPartition(self._topic, partition)
            with suppress(KafkaException):
                _, high = self._consumer.get_watermark_offsets(place, cached=True)
                (at,) = self._consumer.position([place])
                if high >= 0 and at.offset >= 0:
                    found[partition] = max(0, high - at.offset)
        return found

    def close(self) -> None:
        """Leaves the group; what is unsent stays owed."""
        self._producer.poll(0)
        self._consumer.close()

    def _cluster_id(self) -> str:
        try:
            found = self._consumer.list_topics(self._topic, ASK_S)
        except KafkaException as error:
            raise Unavailable(
                "no Kafka broker answers", next_step="check TRUEUP_STREAM__BOOTSTRAP, or `make kafka`"
            ) from error
        topic = found.topics.get(self._topic)
        if topic is None or topic.error is not None:
            raise InvalidInput("the stream's topic does not exist", next_step="create it with as many partitions as "
                               "processes will ever share it")  # fmt: skip
        return str(found.cluster_id)

    def _assigned(self, watcher: Watcher, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        numbers = [place.partition for place in partitions]
        for number in numbers:
            self._ours.add(number)
        offsets = watcher.assigned(numbers)
        known = offsets or dict.fromkeys(numbers)
        with suppress(Unavailable):
            self.beginnings([number for number in numbers if known[number] is None])
        with suppress(KafkaException, TypeError):  # asked again at the next assignment; a stream does not fail for it
            for number in numbers:
                self._check(number, known[number])
        consumer.incremental_assign([self._at(number, known[number]) for number in numbers])
        if offsets is None or self._held:
            consumer.pause([TopicPartition(self._topic, number) for number in numbers])

    def _gone(self, told: Callable[[Sequence[int]], None], partitions: Sequence[TopicPartition]) -> None:
        numbers = [place.partition for place in partitions]
        told(numbers)
        for number in numbers:
            self._ours.discard(number)

    def _check(self, partition: int, offset: int | None) -> None:
        """Notices a topic that was made again, whose records would be taken for old ones, and records that expired."""
        if offset is None:
            return
        low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), CHECK_S)
        if offset > high:
            self._refused = "the topic holds less than the ledger has read of it: it was made again"
        elif offset < low:
            log("kafka").error("records_expired", topic=self._topic, partition=partition, records=low - offset)

    def _beginning(self, partition: int) -> int:
        """Where a partition starts that has no position."""
        return OFFSET_BEGINNING if self._bounds.start == "earliest" else self._ends.get(partition, OFFSET_END)

    def _at(self, partition: int, offset: int | None) -> TopicPartition:
        return TopicPartition(self._topic, partition, self._beginning(partition) if offset is None else offset)

    def _pause(self) -> None:
        self._held = True
        with suppress(KafkaException):
            self._consumer.pause([TopicPartition(self._topic, number) for number in self._ours])

    def _records(self, fetched: Sequence[Fetched]) -> list[Record]:
        found, topic = [], self._topic
        for message in fetched:
            error = message.error()
            if error is not None:
                self._failed(error)
                continue
            kind, moment = message.timestamp()
            place: tuple[Any, Any] = (message.partition(), message.offset())  # both are there without an error
            known = kind != TIMESTAMP_NOT_AVAILABLE and 0 <= moment <= _LAST_MS
            appended = moment * 1000 if known else -1
            found.append(Record(topic, *place, appended, message.key(), message.value(), _headers_of(message)))
        if not found or self._refused:
            self._raise_failure()
        return found

    def _failed(self, error: KafkaError) -> None:
        log("kafka").warning("client_error", code=_code(error))
        if error.fatal() or error.code() in _FATAL:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._refused:
            raise StreamFailed(self._refused, next_step="name its cluster anew by TRUEUP_STREAM__CLUSTER")
        if self._failure is not None:
            raise StreamFailed(f"Kafka refuses this stream ({_code(self._failure)})", next_step="check its rights")


def _headers_of(message: Fetched) -> Any:
    """Nothing where a name is no UTF-8, at which the client fails."""
    try:
        return message.headers() or ()
    except (SystemError, UnicodeDecodeError):
        log("kafka").warning("headers_not_readable", partition=message.partition(), offset=message.offset())
        return ()


def client_options(bounds: Streaming) -> dict[str, Any]:
    """The client's settings that a deployment chooses. Raises InvalidInput for one that is ours."""
    secrets = {name: value.get_secret_value() for name, value in bounds.client_secrets.items()}
    chosen = {**bounds.client, **secrets}
    wrong = sorted(OURS & set(chosen))
    if wrong:
        raise InvalidInput(f"{', '.join(wrong)} cannot be set: exactly once rests on it")
    return {"client.id": "trueup", **chosen, "bootstrap.servers": bounds.bootstrap}


def _promised(group: str, bounds: Streaming) -> dict[str, Any]:
    """What is ours of a consumer's settings."""
    return {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",  # of a position that the broker has deleted: all that is left is read
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": bounds.session_ms,
        "heartbeat.interval.ms": max(100, bounds.session_ms // 4),
    }


# What a deployment may set otherwise. A dead letter is as large as its record: the broker says what is too large.
_READING: dict[str, Any] = {"fetch.error.backoff.ms": 50}
_WRITING: dict[str, Any] = {"linger.ms": 5, "compression.type": "lz4", "message.max.bytes": 100_000_000}


def _client_log() -> Any:
    import logging

    found = logging.getLogger("trueup.kafka.client")  # librdkafka's own lines, with addresses: for who asks for them
    found.propagate = False
    if not found.handlers:
        found.addHandler(logging.NullHandler())
    return found


def _code(error: Any) -> str:
    return str(error.name()) if isinstance(error, KafkaError) else type(error).__name__
