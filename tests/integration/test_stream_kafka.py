"""The stream on a real Kafka: formats, poison, replies, zombies, rebalances, and a database that is slow or away."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import trueup
from brokers import Cluster, Registry
from databases import away
from streams import CONTRACT, TESTS, Field, all_of, event, produce, producing, until
from trueup.bootstrap import Services, wired
from trueup.domain.stream import Stream
from trueup.doors.kafka.opening import kafka as kafka_broker
from trueup.doors.kafka.opening import stream_server
from trueup.doors.kafka.server import StreamServer
from trueup.errors import InvalidInput, StreamFailed
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls
from trueup.settings import Streaming

GRADE = trueup.ReplayGrade.RECORD_ONLY
MODEL = "python:small_models:share_of_a_million"


@dataclass
class Topic(Field):
    """A topic of a test's own, on the session's Kafka and PostgreSQL."""

    def send(self, value: bytes | None, *, key: bytes | None = None, headers: Any = (), partition: int = 0,
             at_ms: int = 0) -> None:  # fmt: skip
        producer = Producer({"bootstrap.servers": self.cluster.bootstrap, "message.max.bytes": 10_000_000})
        failed: list[Any] = []
        producer.produce(
            self.topic,
            value,
            key,
            partition,
            headers=list(headers),
            timestamp=at_ms,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
        assert producer.flush(30) == 0
        assert failed == []

    @contextmanager
    def services(self, **bounds: Any) -> Iterator[Services]:
        streaming = Streaming(bootstrap=self.cluster.bootstrap, wait_s=0.05, **bounds)
        settings = trueup.Settings(data_dir=self.folder / "data", stream=streaming)
        with wired(settings, self.urls) as services:
            yield services

    @contextmanager
    def streamed(self, **bounds: Any) -> Iterator[StreamServer]:
        """The stream runs in a thread until the block is left, and ends cleanly."""
        with self.services(**bounds) as services:
            server = stream_server(services, "t", lambda topic: kafka_broker(services, "t", topic))
            with running(server) as ends:
                yield server
            assert ends == [True]

    @contextmanager
    def processes(self, count: int) -> Iterator[list[Process]]:
        made = [Process(self, number) for number in range(count)]
        try:
            yield made
        finally:
            for one in made:
                one.kill()

    def read(self, count: int, seconds: float = 30) -> None:
        """Waits until so many records were read and nothing is owed any more."""
        until(lambda: self.ended(count) and not self.query("SELECT 1 FROM ledger.owed_replies"), seconds)

    def keys(self) -> list[str]:
        return sorted(key for (key,) in self.query("SELECT business_key FROM ledger.predictions"))

    def replies(self) -> list[tuple[dict[str, bytes], bytes | None, bytes | None]]:
        assert self.stream.replies
        return all_of(self.cluster, self.stream.replies)

    def letters(self) -> list[tuple[dict[str, bytes], bytes | None, bytes | None]]:
        assert self.stream.dead_letters
        return all_of(self.cluster, self.stream.dead_letters)


class Process:
    """`trueup stream` with a log of its own."""

    def __init__(self, place: Topic, number: int, *arguments: str, **environment: str) -> None:
        self.log = place.folder / f"stream-{number}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(TESTS / "killed_stream.py"), "stream", "t", *arguments],
                env=place.environment | environment,
                stdout=log,
                stderr=log,
            )

    def says(self, pattern: str) -> list[str]:
        return re.findall(pattern, self.log.read_text())

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running(server: StreamServer) -> Iterator[list[Any]]:
    ends: list[Any] = []

    def run() -> None:
        try:
            ends.append(server.run())
        except BaseException as fault:
            ends.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ends
    finally:
        server.stop()
        thread.join(60)


@pytest.fixture
def topic(kafka: Cluster, server: EmbeddedPostgres, fresh_database: Urls, tmp_path: Path) -> Callable[..., Topic]:
    def make(partitions: int = 1, contract: Any = CONTRACT, large: bool = False, **declared: Any) -> Topic:
        name = f"t{random.randrange(10**9)}"
        more = {"max_message_bytes": "8000000", "message_timestamp_after_max_ms": str(2**60)} if large else {}
        stream = Stream(
            kafka.topic(name, partitions, **more),
            replies=kafka.topic(f"{name}-replies", 2),
            dead_letters=kafka.topic(f"{name}-dead", **more),
            **declared,
        )
        made = Topic(kafka, server, fresh_database, tmp_path, name, stream)
        made.more = {"TRUEUP_STREAM__SESSION_MS": "2000", "TRUEUP_STREAM__WAIT_S": "0.05"}
        with made.opened() as up:
            serving = trueup.Serving(stream=stream, replay_grade=GRADE, reason_codes=0)
            up.deploy("t", contract=contract, model=MODEL, version="1", serving=serving)
        return made

    return make


# --- formats


def avro_of(registry: Registry, topic: str) -> Callable[[dict[str, Any]], Any]:
    schema = {
        "type": "record",
        "name": "Trade",
        "fields": [{"name": "account", "type": "string"}, {"name": "amount", "type": "double"}],
    }
    serializer = AvroSerializer(SchemaRegistryClient({"url": registry.url}), json.dumps(schema))
    context = SerializationContext(topic, MessageField.VALUE)
    return lambda row: serializer(row, context)


def protobuf_of(registry: Registry, topic: str) -> Callable[[dict[str, Any]], Any]:
    file = descriptor_pb2.FileDescriptorProto(name=f"{topic}.proto", package="desk", syntax="proto3")
    trade = file.message_type.add(name="Trade")
    trade.field.add(name="account", number=1, type=9, label=1)
    trade.field.add(name="amount", number=2, type=1, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("desk.Trade"))
    client = SchemaRegistryClient({"url": registry.url})
    serializer = ProtobufSerializer(kind, client, {"use.deprecated.format": False})
    context = SerializationContext(topic, MessageField.VALUE)
    return lambda row: serializer(kind(**row), context)


ROWS = [{"account": f"A{i}", "amount": 1000.0 * i} for i in range(5)]


def check(place: Topic, bounds: dict[str, Any] | None = None) -> None:
    with place.streamed(**(bounds or {})):
        place.read(len(ROWS))
    found = place.query("SELECT business_key, score FROM ledger.predictions ORDER BY 1")
    assert found == [(row["account"], row["amount"] / 1e6) for row in ROWS]
    assert len(place.replies()) == len(ROWS)
    assert place.letters() == []


def test_json_is_read(topic: Callable[..., Topic]):
    place = topic()
    for row in ROWS:
        place.send(json.dumps(row).encode())
    check(place)
    assert {row[0] for row in place.query("SELECT source FROM ledger.predictions")} == {
        f"kafka:{cluster_of(place)}/{place.topic}"
    }


def cluster_of(place: Topic) -> str:
    return str(place.query("SELECT DISTINCT cluster FROM ledger.positions")[0][0])


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_cloud_events_are_read_and_one_that_comes_twice_is_one_prediction(topic: Callable[..., Topic], mode: str):
    place = topic(format="cloudevents", identity="cloudevent")
    for number, row in enumerate([*ROWS, ROWS[0]]):
        attributes = {"specversion": "1.0", "id": f"e{number % 5}", "source": "/desk", "type": "trade"}
        if mode == "binary":
            place.send(json.dumps(row).encode(), headers=[(f"ce_{k}", v.encode()) for k, v in attributes.items()])
        else:
            place.send(json.dumps({**attributes, "data": row}).encode())
    check(place)
    assert place.query("SELECT sum(answered), sum(repeated), sum(refused) FROM ledger.reads") == [(5, 1, 0)]


@pytest.mark.parametrize("serialized", [avro_of, protobuf_of])
def test_what_a_schema_registry_describes_is_read(
    topic: Callable[..., Topic], schema_registry: Registry, serialized: Any
):
    place = topic(format="avro" if serialized is avro_of else "protobuf")
    written = serialized(schema_registry, place.topic)
    for row in ROWS:
        place.send(written(row))
    check(place, {"registry": {"url": schema_registry.url, "timeout": "20"}})


def test_a_registry_that_is_away_is_waited_for(topic: Callable[..., Topic], schema_registry: Registry):
    place = topic(format="avro")
    written = avro_of(schema_registry, place.topic)
    place.send(written(ROWS[0]))
    with place.services(registry={"url": "http://127.0.0.1:1"}, session_ms=2_000) as services:
        server = stream_server(services, "t", lambda topic: kafka_broker(services, "t", topic))
        with running(server) as ends:
            time.sleep(3)
            assert ends == []
            assert list(server._next) == [0]
            assert services.telemetry.metrics.state.views["trueup_stream_restarts"].sum() >= 2
    assert ends == [True]
    assert place.query("SELECT 1 FROM ledger.dead_letters") == []
    with place.streamed(registry={"url": schema_registry.url}):
        place.read(1)
    assert place.keys() == ["A0"]


def test_a_record_may_hold_many_instances_and_the_good_ones_are_answered(topic: Callable[..., Topic]):
    fields = (("account", "value.legs.id"), ("amount", "value.legs.amount"))
    place = topic(instances="value.legs", fields=fields)
    legs = [{"id": "A1", "amount": 1.0}, {"id": "A2", "amount": "much"}, {"id": "A3", "amount": 3.0}]
    place.send(json.dumps({"legs": legs}).encode())
    place.send(b'{"legs": []}')
    with place.streamed():
        place.read(2)
        until(lambda: len(place.letters()) == 1, 10)
    assert place.query("SELECT business_key, source_key FROM ledger.predictions ORDER BY 1") == [
        ("A1", "0/0"),
        ("A3", "0/0/2"),
    ]
    ((headers, _, _),) = place.letters()
    assert (headers["trueup_reason"], headers["trueup_places"]) == (b"contract", b"1")
    assert place.query("SELECT sum(instances), sum(answered), sum(refused) FROM ledger.reads") == [(3, 2, 1)]


# --- what cannot be answered


def test_poison_is_refused_kept_and_sent_to_the_dead_letters_and_the_stream_goes_on(topic: Callable[..., Topic]):
    place = topic(large=True)
    large = b'{"account":"A1","amount":1.0,"x":"' + b"x" * 1_500_000 + b'"}'
    place.send(event(1))
    place.send(b"\x00\xff{", key=b"k\xff", headers=[("h", b"\xff"), ("n", None), ("trueup_reason", b"forged")])
    place.send(b'{"account":"A1","amount":"secret"}')
    place.send(large)
    place.send(event(2), at_ms=1_000 * (int(time.time()) + 400 * 86_400))
    place.send(None, key=b"deleted")
    place.send(event(3))
    with place.streamed():
        place.read(7)
        until(lambda: len(place.letters()) == 4, 20)
    assert place.keys() == ["A1", "A3"]
    kept = place.query("SELECT record_offset, reason, value, key FROM ledger.dead_letters ORDER BY 1")
    expected = [
        (1, "undecodable", b"\x00\xff{", b"k\xff"),
        (2, "contract", b'{"account":"A1","amount":"secret"}', None),
        (3, "too_large", large, None),
        (4, "contract", event(2), None),
    ]
    assert kept == expected
    refused = place.query("SELECT source_key, reason FROM ledger.refusals ORDER BY 1")
    assert refused == [(f"0/{offset}", reason) for offset, reason, _, _ in expected]
    assert "secret" not in str(place.query("SELECT detail FROM ledger.dead_letters"))
    sent = place.letters()
    cluster = cluster_of(place)
    assert [(key, value) for _, key, value in sent] == [(key, value) for _, _, value, key in expected]
    for (headers, _, _), (offset, reason, _, _) in zip(sent, expected, strict=True):
        assert headers["trueup_reason"] == reason.encode()
        assert headers["trueup_deployment"] == b"t"
        assert headers["trueup_position"] == f"{cluster}/{place.topic}/0/{offset}".encode()
    assert {"h": b"\xff", "n": None}.items() <= sent[0][0].items()
    assert place.query("SELECT sum(records), sum(tombstones), sum(instances), sum(answered), sum(refused) "
                       "FROM ledger.reads") == [(7, 1, 6, 2, 4)]  # fmt: skip
    assert place.query("SELECT count(*) FROM ledger.dead_letters WHERE relayed_at IS NULL") == [(0,)]


def test_an_id_that_comes_twice_is_one_prediction_and_with_other_content_a_conflict(topic: Callable[..., Topic]):
    place = topic(identity="headers.id")
    yesterday = 1_000 * (int(time.time()) - 86_400)
    place.send(event(1), headers=[("id", b"one")])
    with place.streamed():
        place.read(1)
        place.send(event(1), headers=[("id", b"one")], at_ms=yesterday)
        place.send(event(2), headers=[("id", b"one")])
        place.send(event(1), headers=[("id", b"one")])
        place.read(4)
        until(lambda: len(place.letters()) == 1, 20)
    assert place.keys() == ["A1"]
    ((headers, _, value),) = place.letters()
    assert (headers["trueup_reason"], value) == (b"conflict", event(2))
    assert len(place.replies()) == 1
    assert place.query("SELECT sum(answered), sum(repeated), sum(refused) FROM ledger.reads") == [(1, 2, 1)]


# --- replies

DECIDED = trueup.load_contract("""
name: t
version: 1
fields:
  account: {type: string, role: key}
  amount: float64
output: {kind: probability}
label: {name: failed, type: bool, horizon: {days: 1}}
decision: {threshold: 0.5, at_or_above: chase, below: pass, abstain_between: [0.2, 0.4]}
expected_cost: probability x amount
""")

DECIDED_BY_OTHERS = trueup.load_contract("""
name: other
version: 1
fields:
  account: {type: string, role: key}
  amount: float64
  lots: int64
output: {kind: probability}
""")


def test_replies_are_complete_and_the_same_from_memory_and_from_the_ledger(
    topic: Callable[..., Topic], monkeypatch: pytest.MonkeyPatch
):
    place = topic(2, DECIDED)
    produce(place, range(900), 100_000)
    with monkeypatch.context() as killed:
        killed.setattr("trueup.doors.kafka.replies.Replies._forget", lambda self: None)  # it dies before that
        with place.streamed():
            until(lambda: place.ended(900), 30)
    assert place.query("SELECT count(*) > 0 FROM ledger.owed_replies") == [(True,)]
    from_memory = place.replies()
    assert len(from_memory) == 900
    with place.streamed():
        place.read(900)
    everything = place.replies()
    assert Counter(map(repr, everything)) == Counter(map(repr, from_memory * 2))
    query = "SELECT prediction_id::text, business_key FROM ledger.predictions WHERE role = 'champion'"
    booked = dict(place.query(query))
    statuses = set()
    for headers, key, value in from_memory:
        document = json.loads(value or b"")
        number = document["prediction_id"]
        assert (key or b"").decode() == headers["ce_id"].decode() == number
        assert document["business_key"] == booked.pop(number) == headers["ce_subject"].decode()
        assert (headers["ce_specversion"], headers["ce_type"]) == (b"1.0", b"trueup.prediction.v1")
        assert headers["ce_source"] == b"/trueup/deployments/t"
        statuses.add(document["status"])
    assert booked == {}
    assert statuses == {"scored", "abstained"}


# --- members that come, go, and are no more what they believe


def test_a_zombie_books_nothing_and_looks_anew(topic: Callable[..., Topic]):
    place = topic(2)
    with place.processes(1) as (zombie,):
        produce(place, range(2_000), 20_000)
        until(lambda: place.ended(2_000), 40)
        with producing(place, range(2_000, 14_000), 2_000):
            time.sleep(1)
            zombie.process.send_signal(signal.SIGSTOP)
            with place.processes(0):
                other = Process(place, 7)
                try:
                    until(lambda: bool(other.says(r"assigned .*partitions=\[0, 1\]")), 30)
                    reached = place.query("SELECT sum(next_offset) FROM ledger.positions")[0][0]
                    until(lambda: place.ended(reached + 500), 30)
                    zombie.process.send_signal(signal.SIGCONT)
                    until(lambda: len(zombie.says(r"looks_anew|\blost\b|\brevoked\b")) >= 1, 30)
                    until(lambda: place.ended(14_000), 60)
                    assert zombie.process.poll() is None
                    assert other.stop() == 0
                    produce(place, range(14_000, 14_500), 20_000)
                    place.read(14_500)  # the zombie is a member again
                    assert zombie.stop() == 0
                finally:
                    other.kill()
    assert place.query("SELECT count(*), count(DISTINCT business_key) FROM ledger.predictions") == [(14_500, 14_500)]
    assert len({headers["ce_id"] for headers, _, _ in place.replies()}) == 14_500


def test_members_join_and_leave_while_a_producer_writes(topic: Callable[..., Topic]):
    place = topic(6)
    count = 12_000
    with place.streamed(session_ms=2_000), producing(place, range(count), 2_000):
        for _ in range(2):
            with place.streamed(session_ms=2_000) as second:
                until(lambda second=second: second.is_ready and len(second._next) == 3, 20)
                with place.streamed(session_ms=2_000) as third:
                    until(lambda third=third: third.is_ready and len(third._next) == 2, 20)
        place.read(count, 60)
    assert place.query("SELECT count(*), count(DISTINCT business_key) FROM ledger.predictions") == [(count, count)]
    assert place.query("SELECT sum(answered), sum(repeated), sum(refused) FROM ledger.reads") == [(count, 0, 0)]
    assert len({headers["ce_id"] for headers, _, _ in place.replies()}) == count


# --- a database that is slow, or away


def assignments(services: Services) -> float:
    return float(services.telemetry.metrics.state.views["trueup_stream_rebalances"].sum())


def test_with_a_slow_database_the_stream_waits_and_stays_a_member(topic: Callable[..., Topic]):
    place = topic(2)
    produce(place, range(100), 20_000)
    with place.services(session_ms=1_500, client={"max.poll.interval.ms": "2000"}) as services:
        server = stream_server(services, "t", lambda topic: kafka_broker(services, "t", topic))
        with running(server) as ends:
            place.read(100)
            before = assignments(services)
            with psycopg.connect(place.urls.owner) as connection:
                connection.execute("LOCK TABLE ledger.positions IN ACCESS EXCLUSIVE MODE")
                produce(place, range(100, 5_000), 100_000)
                time.sleep(4)
                assert server._booking is not None
            place.read(5_000)
            assert assignments(services) == before
        assert ends == [True]
    assert place.query("SELECT count(*), count(DISTINCT business_key) FROM ledger.predictions") == [(5_000, 5_000)]


def test_while_the_database_is_away_the_stream_waits_and_stays_a_member(
    topic: Callable[..., Topic], server: EmbeddedPostgres
):
    place = topic(2)
    produce(place, range(100), 20_000)
    with place.services(session_ms=1_500, client={"max.poll.interval.ms": "2000"}, retry_most_s=0.5) as services:
        streams = stream_server(services, "t", lambda topic: kafka_broker(services, "t", topic))
        with running(streams) as ends:
            place.read(100)
            before = assignments(services)
            with away(server, place.urls), producing(place, range(100, 5_000), 2_000):
                time.sleep(5)
                assert not streams.is_ready
            place.read(5_000)
            assert assignments(services) == before
            until(lambda: streams.is_ready, 10)
        assert ends == [True]
    assert place.query("SELECT count(*), count(DISTINCT business_key) FROM ledger.predictions") == [(5_000, 5_000)]


# --- the process


def test_the_process_tells_its_lag_and_stops_cleanly(topic: Callable[..., Topic]):
    place = topic(2)
    process = Process(place, 1, "--port", "0", TRUEUP_METRICS_OPEN="true")
    try:
        produce(place, range(1_000), 20_000)
        place.read(1_000)
        (address,) = process.says(r"health and metrics on (http://\S+)")

        def told() -> dict[str, float]:
            with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("trueup_stream_")]
            return {name: float(value) for name, value in pairs}

        with urllib.request.urlopen(f"{address}/health/ready", timeout=10) as answer:
            assert answer.status == 200
        of = '{deployment="t"}'
        assert told()[f"trueup_stream_booked_seconds_count{of}"] == 1_000
        assert told()[f"trueup_stream_owed_replies{of}"] == 0
        until(lambda: told()[f"trueup_stream_behind_records{of}"] == 0, 10)
        with psycopg.connect(place.urls.owner) as connection:
            connection.execute("LOCK TABLE ledger.positions IN ACCESS EXCLUSIVE MODE")
            place.send(event(1_000))
            time.sleep(1)
            produce(place, range(1_001, 1_500), 20_000)
        place.read(1_500)
        assert told()[f"trueup_stream_booked_seconds_count{of}"] == 1_500
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(30) == 0
        assert process.log.read_text().rstrip().endswith("trueup has stopped")
    finally:
        process.kill()
    group = Consumer({"bootstrap.servers": place.cluster.bootstrap, "group.id": "trueup.t"})
    partitions = [TopicPartition(place.topic, p) for p in (0, 1)]
    committed = {found.partition: found.offset for found in group.committed(partitions, 20)}
    group.close()
    assert committed == dict(place.query("SELECT partition, next_offset FROM ledger.positions"))


def test_a_stream_that_does_not_fit_its_contract_is_refused_when_it_is_deployed(up: trueup.Trueup):
    misfit = trueup.Serving(stream=Stream("t", fields=(("amuont", "value.a"),)), replay_grade=GRADE)
    fits = trueup.Serving(stream=Stream("t", fields=(("account", "key"), ("amount", "value.a"))), replay_grade=GRADE)
    with pytest.raises(InvalidInput):
        up.deploy("t", contract=CONTRACT, model=MODEL, version="1", serving=misfit)
    assert up.deployments() == []
    up.deploy("t", contract=CONTRACT, model=MODEL, version="1", serving=fits)
    with pytest.raises(InvalidInput):  # nor may the contract become another under it
        up.deploy("t", contract=DECIDED_BY_OTHERS, model=MODEL, version="2")


def test_a_topic_that_is_not_there_is_said_at_once(topic: Callable[..., Topic], kafka: Cluster):
    place = topic()
    with place.opened() as up:
        serving = trueup.Serving(stream=Stream("nowhere"), replay_grade=GRADE, reason_codes=0)
        up.deploy("t", contract=CONTRACT, model=MODEL, version="1", serving=serving)
    process = Process(place, 1)
    assert process.process.wait(60) != 0
    assert "topic does not exist" in process.log.read_text()
    assert os.path.getsize(process.log) < 5_000


def test_from_the_latest_on_means_from_when_it_was_first_ours(topic: Callable[..., Topic]):
    place = topic()
    place.send(event(0))
    with place.streamed(start="latest"):
        until(lambda: place.query("SELECT next_offset FROM ledger.positions") == [(1,)], 30)
    place.send(event(1))  # while nobody reads
    with place.streamed(start="latest"):
        place.send(event(2))
        place.read(3)
    assert place.keys() == ["A1", "A2"]


def test_a_topic_that_was_made_again_is_not_taken_for_the_old_one(topic: Callable[..., Topic], kafka: Cluster):
    place = topic()
    for number in range(3):
        place.send(event(number))
    with place.streamed(cluster="desk"):
        place.read(3)
    kafka.remove(place.topic)
    kafka.topic(place.topic)
    place.send(event(9))
    with place.services(cluster="desk") as services:
        server = stream_server(services, "t", lambda topic: kafka_broker(services, "t", topic))
        with pytest.raises(StreamFailed, match="made again"):
            server.run()
    with place.streamed(cluster="desk, anew"):
        until(lambda: place.keys() == ["A0", "A1", "A2", "A9"], 30)
