"""The Kafka and the schema registry that other tests build on, and `make kafka`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import psutil
import pytest
import yaml
from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

import brokers
from brokers import Cluster, Registry

ROOT = Path(__file__).parents[2]


def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """The first records of a topic: of transactions, the committed ones."""
    reader = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"reads-{topic}",
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 3000,
        }
    )
    reader.subscribe([topic])
    found = []
    while len(found) < count:
        record = reader.poll(30)
        assert record is not None, f"{len(found)} of {count}"
        assert not record.error(), record.error()
        found.append(record.value())
    reader.close()
    return found


def write(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def test_a_record_is_read_back_also_after_a_stop(kafka: Cluster):
    kafka.topic("back", partitions=2)
    write(kafka.bootstrap, "back", b"one")
    kafka.stop()
    kafka.start()
    write(kafka.bootstrap, "back", b"two")
    assert sorted(read(kafka.bootstrap, "back", 2)) == [b"one", b"two"]


def test_what_was_committed_outlives_the_leader(kafka_trio: Cluster):
    kafka_trio.topic("kept")
    producer = Producer({"bootstrap.servers": kafka_trio.bootstrap, "transactional.id": "t", "acks": "all"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce("kept", b"committed")
    producer.commit_transaction(30)
    producer.begin_transaction()
    producer.produce("kept", b"in the middle")
    producer.flush(30)
    killed = kafka_trio.leader("kept")
    kafka_trio.kill(killed)
    producer.commit_transaction(60)
    write(kafka_trio.bootstrap, "kept", b"after")
    assert kafka_trio.leader("kept") != killed
    kafka_trio.restart(killed)
    assert read(kafka_trio.bootstrap, "kept", 3) == [b"committed", b"in the middle", b"after"]


def test_the_registry_gives_a_schema_back(schema_registry: Registry):
    schema = '{"type": "record", "name": "Trade", "fields": [{"name": "amount", "type": "double"}]}'
    of = SerializationContext("trades", MessageField.VALUE)
    written = AvroSerializer(SchemaRegistryClient({"url": schema_registry.url}), schema)({"amount": 2.5}, of)
    another = SchemaRegistryClient({"url": schema_registry.url})
    assert "trades-value" in another.get_subjects()  # others use the registry too
    assert AvroDeserializer(another)(written, of) == {"amount": 2.5}


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_what_make_kafka_runs_leaves_no_process(how: signal.Signals, code: int, tmp_path: Path):
    port = brokers.free_ports(1)[0]
    command = [sys.executable, brokers.__file__, "--port", str(port)]
    here = {**os.environ, "TMPDIR": str(tmp_path)}  # where a killed one leaves its data
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=here) as program:
        assert program.stdout
        said = next(line for line in program.stdout if "listens" in line)
        children = psutil.Process(program.pid).children(recursive=True)
        program.send_signal(how)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert said == f"Kafka listens on 127.0.0.1:{port}\n"
        assert (len(children), alive, program.wait(30)) == (1, [], code)


def test_the_how_to_shows_a_program_that_works(kafka: Cluster):
    page = (ROOT / "docs/how-to/run-kafka-locally.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    here = program.replace("127.0.0.1:9092", kafka.bootstrap)
    done = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, timeout=60)
    assert done.stdout == "b'{\"amount\": 2.5}'\n", done.stderr


def test_docker_runs_the_same_versions_ports_and_settings():
    services = yaml.safe_load((ROOT / "deploy/compose/kafka.yaml").read_text())["services"]
    pinned = xml.parse(brokers.POM).getroot()
    kafka, registry = (pinned.findtext(f".//{{*}}{name}.version") for name in ("kafka", "apicurio"))
    assert services["kafka"]["image"] == f"apache/kafka:{kafka}"
    assert services["registry"]["image"] == f"apicurio/apicurio-registry-mem:{registry}"
    ports = dict(re.findall(r"^(\w*PORT) \?= (\d+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert services["kafka"]["ports"] == [f"127.0.0.1:{ports['PORT']}:{ports['PORT']}"]
    assert services["registry"]["ports"] == [f"127.0.0.1:{ports['REGISTRY_PORT']}:8080"]
    wanted = {f"KAFKA_{name.replace('.', '_').upper()}": value for name, value in brokers.settings_of(1).items()}
    assert wanted.items() <= services["kafka"]["environment"].items()
