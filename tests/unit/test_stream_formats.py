"""Formats: what real serializers write is read, and what is not of the format is refused without a word of it."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.confluent.type import decimal_pb2
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.type import date_pb2
from hypothesis import given
from hypothesis import strategies as st

import trueup
from trueup.contracts.decoding import Decoder
from trueup.domain.batch import RefusalReason
from trueup.domain.stream import Stream
from trueup.doors.kafka.formats import installed, schemas
from trueup.doors.kafka.formats.installed import Formats
from trueup.doors.kafka.formats.message import Format, Message, Undecodable
from trueup.doors.kafka.paths import parsed
from trueup.doors.kafka.reading import Reader
from trueup.doors.kafka.records import Record
from trueup.errors import InvalidInput, MissingExtra, Unavailable
from trueup.settings import Limits, Streaming
from trueup_examples.settlement_messages import sese023
from trueup_examples.settlement_messages.sese023 import instruction

CONTEXT = SerializationContext("trades", MessageField.VALUE)
EXAMPLE = Path(sese023.__file__).parent
SAMPLE = (EXAMPLE / "instruction.xml").read_bytes()


def record(value: bytes, headers: Sequence[tuple[str, bytes | None]] = (), key: bytes | None = None) -> Record:
    return Record("trades", 0, 0, -1, key, value, headers)


def registry(name: str) -> Any:
    return SchemaRegistryClient.new_client({"url": f"mock://{name}"})


def made(client: Any, **stream: Any) -> Format:
    return Formats(lambda: client).of(Stream("trades", **stream), exact=True)


def only(messages: Sequence[Message]) -> Any:
    assert len(messages) == 1
    return messages[0].value


# --- CloudEvents


EVENT = {"specversion": "1.0", "id": "e1", "source": "/desk", "type": "trade", "time": "2026-11-23T09:30:00Z"}
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
BATCHED = [("Content-Type", b"application/cloudevents-batch+json")]
BINARY = [(f"ce_{name}", value.encode()) for name, value in EVENT.items()]
events = Formats().of(Stream("trades", format="cloudevents"), exact=True)


@pytest.mark.parametrize("headers", [STRUCTURED, [], [("other", b"x")]])
def test_a_structured_event_is_known_by_its_type_or_its_shape(headers: Any):
    (message,) = events.read(record(json.dumps({**EVENT, "data": {"a": 1}}).encode(), headers, b"key"))
    assert message.value == {"a": 1}
    assert message.headers == EVENT
    assert message.key == b"key"


@pytest.mark.parametrize("headers", [BATCHED, []])
def test_a_batch_has_a_message_for_each_event(headers: Any):
    batch = [{**EVENT, "id": str(i), "data": i} for i in range(3)]
    assert [m.value for m in events.read(record(json.dumps(batch).encode(), headers))] == [0, 1, 2]


@pytest.mark.parametrize("kind", [b"application/json", b"application/vnd.desk+json; charset=utf-8", None])
def test_a_binary_events_attributes_are_its_headers(kind: bytes | None):
    headers = [*BINARY, ("CE_Desk", b"rates"), *([] if kind is None else [("content-type", kind)])]
    (message,) = events.read(record(b'{"a": 1}', headers))
    assert message.value == {"a": 1}
    assert message.headers["desk"] == "rates"
    assert {k: message.headers[k] for k in EVENT} == EVENT


def test_packed_data_is_unpacked():
    packed = base64.b64encode(b'{"a": 1.50}').decode()
    assert only(events.read(record(json.dumps({**EVENT, "data_base64": packed}).encode()))) == {"a": Decimal("1.50")}


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        ({**EVENT, "id": ""}, []),
        ({**EVENT, "id": 7}, []),
        ({k: v for k, v in EVENT.items() if k != "source"}, []),
        ({**EVENT, "specversion": "0.3"}, []),
        ({**EVENT, "Bad_Name": "x"}, []),
        ({**EVENT, "nested": {}}, []),
        ({**EVENT, "data": 1, "data_base64": "MQ=="}, []),
        ({**EVENT, "data_base64": "*"}, []),
        ({**EVENT, "data_base64": 1}, []),
        ({**EVENT, "data_base64": "MQ==", "datacontenttype": "application/xml"}, []),
        ([EVENT], STRUCTURED),
        (EVENT, BATCHED),
        ([EVENT, 7], []),
        (EVENT, [("content-type", b"application/cloudevents+avro")]),
        (EVENT, [("content-type", b"\xff")]),
        ({"a": 1}, [("ce_id", b"1")]),
        ({"a": 1}, [*BINARY, ("content-type", b"text/plain")]),
        ({"a": 1}, [*BINARY, ("ce_desk", b"\xff")]),
    ],
)
def test_what_is_no_event_is_undecodable(value: Any, headers: Any):
    with pytest.raises(Undecodable):
        events.read(record(json.dumps(value).encode(), headers))


FLOATS = trueup.load_contract("{name: f, version: 1, fields: {a: float64}, output: {kind: probability}}\n")


def reader(stream: Stream, client: Any = None, **limits: int) -> Reader:
    bounds = Limits(**limits)
    return Reader(stream, Decoder(FLOATS, bounds), bounds, Streaming(), Formats(lambda: client))


def test_a_cloud_events_identity_joins_source_and_id_without_doubt():
    stream = Stream("trades", format="cloudevents", identity="cloudevent", event_time="headers.time")
    batch = [{**EVENT, "source": s, "id": i, "data": {"a": 1}} for s, i in (("a", "b"), ('a","', "b"), ("a", '","b'))]
    reading = reader(stream).read([record(json.dumps(batch).encode())])
    assert reading.ids is not None
    assert reading.ids[0] == '["a","b"]'
    assert len(set(reading.ids)) == 3
    assert reading.event_us is not None
    assert reading.place_of.tolist() == [0, 1, 2]


def test_a_long_identity_is_a_digest_that_leaves_room_for_the_place():
    stream = Stream("trades", format="cloudevents", identity="cloudevent")
    long = json.dumps({**EVENT, "id": "é" * 500, "data": [{"a": 1}] * 1000}).encode()
    reading = reader(stream, key_chars=80).read([record(long)])
    assert reading.ids is not None
    assert len(set(reading.ids)) == 1000
    assert reading.ids[0].startswith("sha256:")


def test_an_event_without_data_has_no_instance():
    reading = reader(Stream("trades", format="cloudevents")).read([record(json.dumps(EVENT).encode())])
    assert [(b.reason, b.detail) for b in reading.bad] == [(RefusalReason.CONTRACT, "value: missing")]


# --- Avro

AVRO = {
    "type": "record",
    "name": "Trade",
    "namespace": "desk",
    "fields": [
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "lots", "type": ["null", "long"]},
        {"name": "side", "type": {"type": "enum", "name": "Side", "symbols": ["buy", "sell"]}},
        {
            "name": "legs",
            "type": {
                "type": "array",
                "items": {"type": "record", "name": "Leg", "fields": [{"name": "a", "type": "double"}]},
            },
        },
    ],
}
TRADE = {
    "id": UUID(int=7),
    "price": Decimal("12.5000"),
    "day": dt.date(2026, 11, 23),
    "at": dt.datetime(2026, 11, 23, 9, 30, 0, 1, tzinfo=dt.UTC),
    "lots": None,
    "side": "buy",
    "legs": [{"a": 1.5}, {"a": 2.5}],
}


def avro(client: Any, schema: Any = AVRO, value: Any = TRADE) -> bytes:
    data = AvroSerializer(client, json.dumps(schema))(value, CONTEXT)
    assert isinstance(data, bytes)
    return data


def test_avro_is_read_with_the_schema_it_was_written_with():
    client = registry("read")
    value = only(made(client, format="avro").read(record(avro(client))))
    assert value == {**TRADE, "id": str(TRADE["id"])}


def test_avro_instances_are_read_by_their_paths():
    client = registry("paths")
    stream = Stream("trades", format="avro", instances="value.legs", identity="value.id", event_time="value.at")
    reading = reader(stream, client).read([record(avro(client))])
    assert reading.decoded.columns.floats.tolist() == [[1.5], [2.5]]
    assert reading.ids == [f"{UUID(int=7)}/0", f"{UUID(int=7)}/1"]
    assert reading.event_us is not None
    assert reading.event_us.tolist() == [1_795_426_200_000_001] * 2


def test_avro_schemas_may_refer_to_others():
    client = registry("references")
    leg = AVRO["fields"][-1]["type"]["items"]  # type: ignore[index]
    client.register_schema("leg", Schema(json.dumps(leg), "AVRO"))
    whole = {"type": "record", "name": "T", "fields": [{"name": "leg", "type": "Leg"}]}
    schema = Schema(json.dumps(whole), "AVRO", [SchemaReference("Leg", "leg", 1)])
    data = AvroSerializer(client, schema)({"leg": {"a": 1.5}}, CONTEXT)
    assert isinstance(data, bytes)
    assert only(made(client, format="avro").read(record(data))) == {"leg": {"a": 1.5}}


NOTHING = {"type": "record", "name": "Nothing", "fields": []}
BOMBS = [
    {"type": "array", "items": "null"},
    {"type": "array", "items": NOTHING},
    {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}},
    {"type": "record", "name": "R", "fields": [{"name": "x", "type": {"type": "array", "items": "null"}}]},
    {"type": "record", "name": "R", "fields": [{"name": "n", "type": NOTHING},
                                               {"name": "x", "type": ["null", {"type": "array", "items": "Nothing"}]}]},
    {"type": "map", "values": {"type": "array", "items": "null"}},
    {"type": "record", "name": "R", "fields": [{"name": "x", "type": {"type": "record", "name": "Z", "fields": [
        {"name": "n", "type": "null"}]}}, {"name": "y", "type": "Z"}]},
]  # fmt: skip


@pytest.mark.parametrize("schema", BOMBS)
def test_a_schema_by_which_a_few_bytes_claim_a_billion_items_is_refused(schema: Any):
    client = registry("bombs")
    schema_id = client.register_schema(f"bomb-{BOMBS.index(schema)}", Schema(json.dumps(schema), "AVRO"))
    with pytest.raises(Undecodable, match="take no bytes"):
        made(client, format="avro").read(
            record(b"\x00" + schema_id.to_bytes(4, "big") + b"\x02" + b"\xff" * 8 + b"\x01")
        )


def test_a_schema_that_refers_to_itself_is_refused_because_deep_values_would_end_the_process():
    client = registry("deep")
    schema = {"type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"]}]}
    schema_id = client.register_schema("deep", Schema(json.dumps(schema), "AVRO"))
    with pytest.raises(Undecodable, match="refers to itself"):
        made(client, format="avro").read(record(b"\x00" + schema_id.to_bytes(4, "big") + b"\x02" * 900_000 + b"\x00"))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d[:-1],
        lambda d: d + b"\x00",
        lambda d: d[:5],
        lambda d: d[:4],
        lambda d: b"",
        lambda d: b"\x01" + d[1:],
        lambda d: d[:4] + b"\x63" + d[5:],
    ],
)
def test_what_is_not_of_its_avro_schema_is_undecodable(change: Callable[[bytes], bytes]):
    client = registry("wrong")
    with pytest.raises(Undecodable):
        made(client, format="avro").read(record(change(avro(client))))


# --- the registry


class Away:
    """A registry that fails, and counts how often it was asked."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    def get_schema(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [ConnectionError("x"), TimeoutError(), SchemaRegistryError(503, 50301, "x"), SchemaRegistryError(401, 1, "x")],
)
def test_a_registry_that_is_away_is_a_passing_fault(error: Exception):
    away = Away(error)
    stream = Stream("trades", format="avro")
    for _ in range(2):
        with pytest.raises(Unavailable):
            reader(stream, away).read([record(b"\x00\x00\x00\x00\x01x")])
    assert away.asked == 2


def test_an_unknown_schema_is_undecodable_and_asked_for_again_later(monkeypatch: pytest.MonkeyPatch):
    unknown = Away(SchemaRegistryError(404, 40403, "x"))
    made_reader = reader(Stream("trades", format="avro"), unknown)
    data = [record(b"\x00\x00\x00\x00\x01x")] * 3
    assert [b.reason for b in made_reader.read(data).bad] == [RefusalReason.UNDECODABLE] * 3
    assert unknown.asked == 1
    now = schemas.time.monotonic()
    monkeypatch.setattr(schemas.time, "monotonic", lambda: now + 31)
    made_reader.read(data)
    assert unknown.asked == 2


def test_schemas_in_memory_are_bounded():
    unknown = Away(SchemaRegistryError(404, 40403, "x"))
    held: schemas.Schemas[Any] = schemas.Schemas(unknown, lambda schema, client: schema, kind="AVRO")
    for schema_id in range(1000):
        with pytest.raises(Undecodable):
            held.of(schema_id)
    assert len(held._made) == 256


def test_a_schema_of_another_format_is_undecodable():
    client = registry("other")
    with pytest.raises(Undecodable, match="another format"):
        made(client, format="protobuf").read(record(avro(client)))


@pytest.mark.parametrize("text", ["{", '"unheard-of"', '{"type": "record"}', "[]", "7"])
def test_a_schema_that_is_none_is_undecodable(text: str):
    client = registry("none")
    schema_id = client.register_schema(f"none-{text}", Schema(text, "AVRO"))
    with pytest.raises(Undecodable):
        made(client, format="avro").read(record(b"\x00" + schema_id.to_bytes(4, "big") + b"xyz"))


# --- protobuf


def _protobuf() -> tuple[Any, Any]:
    """Two messages of a schema: Leg, and Trade with everything that a message may hold."""
    file = descriptor_pb2.FileDescriptorProto(name="trade.proto", package="desk", syntax="proto3")
    file.dependency.extend(
        ["google/protobuf/timestamp.proto", "google/type/date.proto", "confluent/type/decimal.proto"]
    )
    leg = file.message_type.add(name="Leg")
    leg.field.add(name="a", number=1, type=1, label=1)
    trade = file.message_type.add(name="Trade")
    trade.enum_type.add(name="Side").value.add(name="BUY", number=0)
    inner = trade.nested_type.add(name="Inner")
    inner.field.add(name="x", number=1, type=9, label=1)
    inner.field.add(name="again", number=2, type=11, label=1, type_name=".desk.Trade.Inner")
    entry = trade.nested_type.add(name="TagsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=5, label=1)
    entry.field.add(name="value", number=2, type=11, label=1, type_name=".desk.Leg")
    for number, (name, kind, label, of) in enumerate(
        [
            ("id", 4, 1, ""),
            ("legs", 11, 3, ".desk.Leg"),
            ("side", 14, 1, ".desk.Trade.Side"),
            ("at", 11, 1, ".google.protobuf.Timestamp"),
            ("day", 11, 1, ".google.type.Date"),
            ("price", 11, 1, ".confluent.type.Decimal"),
            ("inner", 11, 1, ".desk.Trade.Inner"),
            ("tags", 11, 3, ".desk.Trade.TagsEntry"),
            ("codes", 5, 3, ""),
        ],
        1,
    ):
        trade.field.add(name=name, number=number, type=kind, label=label, type_name=of or None)
    pool = descriptor_pool.DescriptorPool()
    for module in (timestamp_pb2, date_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for other in decimal_pb2.DESCRIPTOR.dependencies:
        for deeper in other.dependencies:
            pool.AddSerializedFile(deeper.serialized_pb)
        pool.AddSerializedFile(other.serialized_pb)
    pool.AddSerializedFile(decimal_pb2.DESCRIPTOR.serialized_pb)
    found = pool.Add(file) or pool.FindFileByName("trade.proto")
    kinds = [found.message_types_by_name[name] for name in ("Leg", "Trade")]
    return tuple(message_factory.GetMessageClass(kind) for kind in kinds)  # type: ignore[return-value]


LEG, PROTO_TRADE = _protobuf()


def protobuf(client: Any, message: Any) -> bytes:
    data = ProtobufSerializer(type(message), client, {"use.deprecated.format": False})(message, CONTEXT)
    assert isinstance(data, bytes)
    return data


def a_trade() -> Any:
    trade = PROTO_TRADE(id=2**63 + 1, legs=[LEG(a=1.5), LEG(a=0)], codes=[1, -2])
    trade.at.FromDatetime(dt.datetime(2026, 11, 23, 9, 30, 0, 1))
    trade.day.year, trade.day.month, trade.day.day = 2026, 11, 23
    trade.price.value, trade.price.scale = (-12345).to_bytes(3, "big", signed=True), 2
    trade.inner.again.x = "deep"
    trade.tags[5].a = 2.5
    return trade


def test_protobuf_is_read_as_plain_values():
    client = registry("protobuf")
    assert only(made(client, format="protobuf").read(record(protobuf(client, a_trade())))) == {
        "id": 2**63 + 1,
        "legs": [{"a": 1.5}, {"a": 0.0}],
        "side": "BUY",
        "at": dt.datetime(2026, 11, 23, 9, 30, 0, 1, tzinfo=dt.UTC),
        "day": dt.date(2026, 11, 23),
        "price": Decimal("-123.45"),
        "inner": {"x": "", "again": {"x": "deep"}},
        "tags": {"5": {"a": 2.5}},
        "codes": [1, -2],
    }


@pytest.mark.parametrize("message", [LEG(a=1), PROTO_TRADE(id=1), PROTO_TRADE.Inner(x="x")])
def test_a_protobuf_message_is_found_by_its_indexes(message: Any):
    client = registry("indexes")
    assert only(made(client, format="protobuf").read(record(protobuf(client, message))))


def test_a_stream_may_take_messages_of_one_name_only():
    client = registry("names")
    chosen = made(client, format="protobuf", message="desk.Leg")
    assert only(chosen.read(record(protobuf(client, LEG(a=1))))) == {"a": 1.0}
    with pytest.raises(Undecodable, match="another name"):
        chosen.read(record(protobuf(client, a_trade())))


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\x80",
        b"\x01",
        b"\xff\xff\xff\xff\xff\xff",
        b"\x02",
        b"\x02\x20",
        b"\x04\x00\x00",
        b"\x80\x01" + b"\x00" * 64,
        b"\x02\x02\x0f",
        b"\x02\x02\x22\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x02\x02\x2a\x02\x08\x01",
    ],
)
def test_what_is_not_of_its_protobuf_message_is_undecodable(tail: bytes):
    client = registry("broken")
    with pytest.raises(Undecodable):
        made(client, format="protobuf").read(record(protobuf(client, a_trade())[:5] + tail))


def test_a_protobuf_message_that_nests_deeply_is_undecodable():
    client = registry("nested")
    data = b""
    for _ in range(90):
        data = b"\x12" + _length(len(data)) + data
    with pytest.raises(Undecodable):
        made(client, format="protobuf").read(record(protobuf(client, PROTO_TRADE.Inner())[:5] + b"\x04\x02\x00" + data))


def test_a_protobuf_record_of_very_many_messages_is_undecodable():
    client = registry("many")
    with pytest.raises(Undecodable):
        made(client, format="protobuf").read(
            record(protobuf(client, a_trade())[:5] + b"\x02\x02" + b"\x12\x00" * 20_001)
        )


def _length(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 127 | 128, n >> 7])


ANY = registry("any")
ANY_AVRO, ANY_PROTOBUF = avro(ANY), protobuf(ANY, a_trade())


@given(st.binary(max_size=60), st.sampled_from(["avro", "protobuf", "cloudevents", "json"]), st.booleans())
def test_any_bytes_give_a_reading(data: bytes, name: str, framed: bool):
    head = {"avro": ANY_AVRO, "protobuf": ANY_PROTOBUF}.get(name, b"")[:5] if framed else b""
    reading = reader(Stream("trades", format=name), ANY).read([record(head + data)])
    assert len(reading.bad) + reading.decoded.received >= 0


# --- formats of other packages


def brought(monkeypatch: pytest.MonkeyPatch, *values: str) -> Format:
    points = [EntryPoint("theirs", value, installed.GROUP) for value in values]
    monkeypatch.setattr(installed, "entry_points", lambda **_: points)
    return Formats().of(Stream("trades", format="theirs"), exact=True)


def _reads(data: bytes) -> Any:
    if data == b"away":
        raise Unavailable("later")
    return {"n": 10 // len(data)}


def test_another_package_may_bring_a_format(monkeypatch: pytest.MonkeyPatch):
    theirs = brought(monkeypatch, f"{__name__}:_reads")
    assert only(theirs.read(record(b"12345"))) == {"n": 2}
    with pytest.raises(Undecodable, match="not of the stream's format"):
        theirs.read(record(b""))
    with pytest.raises(Unavailable):
        theirs.read(record(b"away"))


def test_formats_that_cannot_be_had_are_invalid_input(monkeypatch: pytest.MonkeyPatch):
    for values in ((), ("a:b", "c:d"), ("nowhere.at.all:x",), (f"{__name__}:unheard_of",)):
        with pytest.raises(InvalidInput):
            brought(monkeypatch, *values)


def test_avro_without_a_registry_is_invalid_input_and_without_its_extra_missing(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InvalidInput):
        Formats().of(Stream("trades", format="avro"), exact=True)
    monkeypatch.delitem(sys.modules, "trueup.doors.kafka.formats.avro", raising=False)
    monkeypatch.setitem(sys.modules, "fastavro", None)
    with pytest.raises(MissingExtra):
        made(registry("missing"), format="avro")


def test_nothing_heavy_is_imported_for_a_stream_of_json():
    code = (
        "import sys, trueup.doors.kafka.reading;"
        "print([m for m in ('confluent_kafka', 'fastavro', 'google.protobuf', 'lxml') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


DOCUMENTED = (Path(__file__).parents[2] / "docs/reference/streams.md").read_text(encoding="utf-8")


def test_documented_streams_are_streams():
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCUMENTED, re.DOTALL)]
    for block in blocks:
        stream = Stream(**{**block, "fields": tuple(block.get("fields", {}).items())})
        for path in (stream.instances, stream.event_time, *(path for _, path in stream.fields)):
            assert path is None or parsed(path)
        assert stream.identity in (None, "cloudevent") or parsed(stream.identity)
    assert {block.get("format", "json") for block in blocks} == {*installed.OWN, "sese.023"}
    for f in dataclasses.fields(Stream):
        assert f"| `{f.name}` |" in DOCUMENTED


# --- sese.023


def test_the_sample_instruction_is_an_instance_of_its_contract(monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint("sese.023", "trueup_examples.settlement_messages.sese023:instruction", installed.GROUP)
    monkeypatch.setattr(installed, "entry_points", lambda **_: [point])
    stream = Stream(**yaml.safe_load((EXAMPLE / "stream.yaml").read_text()))
    contract = trueup.load_contract(EXAMPLE / "contract.yaml")
    made_reader = Reader(
        stream, Decoder(contract, Limits()), Limits(), Streaming(), now_us=lambda: 1_795_478_400_000_000
    )
    reading = made_reader.read([record(SAMPLE)])
    assert (reading.bad, reading.decoded.errors) == ([], ())
    assert reading.ids == ["TU-2026-000417"]
    columns = reading.decoded.columns
    assert columns.column("amount").tolist()[0].rstrip("0") == "341250.75"
    assert columns.column("payment").tolist() == ["against_payment"]
    assert columns.column("delivering_party").tolist() == ["AAAAUS33XXX"]


def test_the_package_brings_the_examples_format():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    point = EntryPoint("sese.023", project["entry-points"][installed.GROUP]["sese.023"], installed.GROUP)
    assert point.load() is instruction


def test_an_instruction_may_come_in_an_envelope_and_free_of_payment():
    inside = SAMPLE.split(b"?>", 1)[1].replace(b"APMT", b"FREE")
    amount = inside[inside.index(b"<SttlmAmt>") : inside.index(b"</SttlmAmt>") + len(b"</SttlmAmt>")]
    found = instruction(b'<Message xmlns="urn:bus">' + inside.replace(amount, b"") + b"</Message>")
    assert (found["payment"], found["amount"], found["currency"]) == ("free_of_payment", None, None)


LAUGHS = b"<!ENTITY a0 'ha'>" + b"".join(b"<!ENTITY a%d '%b'>" % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 10))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a",
        b"<a/>",
        b"\xff\xfe<\x00a\x00/\x00>\x00",
        b"<!DOCTYPE a [" + LAUGHS + b"]><a>&a9;</a>",
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        ("<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>").encode("utf-16"),
        (b"<?xml version='1.0' encoding='UTF-7'?>+ADwAIQ-DOCTYPE a+AD4-<a/>"),
        SAMPLE.replace(b"TU-2026-000417", b"&x;"),
        SAMPLE.replace(b"TU-2026-000417", b"<x/>"),
        SAMPLE.replace(b"TU-2026-000417", b"x" * 36),
        SAMPLE.replace(b"sese.023.001.11", b"sese.024.001.11"),
        SAMPLE.replace(b"SctiesSttlmTxInstr", b"Other"),
        SAMPLE.replace(b"US0378331005", b"US03783310"),
        SAMPLE.replace(b"AAAAUS33XXX", b"AAAAUS3"),
        SAMPLE.replace(b"341250.75", b"1e5"),
        SAMPLE.replace(b"341250.75", b"9" * 39),
        SAMPLE.replace(b' Ccy="USD"', b""),
        SAMPLE.replace(b"2026-11-24", b"2026-13-24"),
        SAMPLE.replace(b"DELI", b"HACK"),
        b"<a>" * 300_000,
        b" " * (2**20 + 1),
    ],
)
def test_what_is_no_instruction_is_invalid_input_without_a_value(data: bytes):
    with pytest.raises(InvalidInput) as raised:
        instruction(data)
    assert raised.value.__cause__ is None
    for value in ("root", "xxxx", "03783", "AAAA", "1e5", "2026", "HACK", "9999"):
        assert value not in raised.value.message


@given(st.integers(0, len(SAMPLE)), st.binary(max_size=12))
def test_a_changed_instruction_is_read_or_refused(place: int, change: bytes):
    with contextlib.suppress(InvalidInput):
        instruction(SAMPLE[:place] + change + SAMPLE[place + len(change) :])
