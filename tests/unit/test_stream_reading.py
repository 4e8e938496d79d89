"""Reading a stream: every record is read or named, by itself, and nothing of a value is ever said."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trueup
from trueup.contracts.decoding import Decoder
from trueup.domain.batch import RefusalReason
from trueup.domain.stream import Stream
from trueup.doors.kafka.reading import Reader, Reading
from trueup.doors.kafka.records import Record
from trueup.errors import InvalidInput
from trueup.settings import Limits, Streaming

NOW_US = 1_795_478_400_000_000  # 2026-11-24
FLOATS = trueup.load_contract(
    "{name: floats, version: 1, fields: {a: float64, b: {type: float64, minimum: 0}}, output: {kind: probability}}\n"
)
TRADE = trueup.load_contract("""
name: trade
version: 1
fields:
  trade_id: {type: string, role: key}
  amount: {type: "decimal(20,2)"}
  rate: {type: float64, nullable: true}
  lots: int64
  open: bool
  side: {type: category, categories: [buy, sell]}
  day: {type: date, role: context, nullable: true}
  at: {type: timestamp, role: context, nullable: true}
output: {kind: probability}
""")
GOOD = {"trade_id": "t", "amount": "1.50", "rate": 0.25, "lots": 3, "open": True, "side": "buy"}
MAPPED = Stream(
    "trades",
    instances="value.legs",
    fields=(
        ("trade_id", "value.legs.id"),
        ("amount", "value.legs.amount"),
        ("rate", "value.rate"),
        ("lots", "value.legs.lots"),
        ("open", "headers.open.it"),
        ("side", "key.side"),
    ),
)


def reader(stream: Stream, contract: Any = TRADE, limits: Limits | None = None, **bounds: Any) -> Reader:
    limits = limits or Limits()
    return Reader(stream, Decoder(contract, limits), limits, Streaming(**bounds), now_us=lambda: NOW_US)


def record(value: Any, key: Any = None, headers: Any = (), offset: int = 0) -> Record:
    data = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return Record("trades", 0, offset, -1, key, data, headers)


def read(stream: Stream, *values: Any, contract: Any = TRADE) -> Reading:
    return reader(stream, contract).read([record(v) for v in values])


def why(reading: Reading) -> list[tuple[int, RefusalReason, str]]:
    return [(b.record, b.reason, b.detail) for b in reading.bad]


def test_instances_are_read_in_order_and_tombstones_counted():
    reading = read(Stream("t"), {"a": 1, "b": 2}, None, {"a": 3, "b": 4}, contract=FLOATS)
    assert reading.decoded.columns.floats.tolist() == [[1, 2], [3, 4]]
    assert reading.record_of.tolist() == [0, 2]
    assert reading.place_of.tolist() == [0, 0]
    assert reading.tombstones == 1
    assert (reading.bad, reading.ids, reading.event_us) == ([], None, None)


def test_nothing_read_is_an_empty_reading():
    reading = reader(Stream("t", identity="key", event_time="headers.x")).read([])
    assert (reading.decoded.received, reading.ids, reading.bad, reading.tombstones) == (0, [], [], 0)
    assert reading.event_us is not None


def test_a_record_may_hold_several_instances_and_a_bad_one_is_refused_alone():
    reading = read(Stream("t"), [{"a": 1, "b": 2}, {"a": 1, "b": -2}, {"a": 5, "b": 6}], [], contract=FLOATS)
    assert reading.decoded.rows.tolist() == [0, 2]
    assert reading.decoded.received == 3
    assert reading.place_of.tolist() == [0, 1, 2]
    assert [(e.row, e.field, e.code) for e in reading.decoded.errors] == [(1, "b", "range")]
    assert reading.bad == []


def test_every_bad_instance_is_named_however_many_there_are():
    limits = Limits(field_errors=1)
    values = [record({"a": "x", "b": "y", **{f"u{i}": 1 for i in range(40)}}) for _ in range(700)]
    reading = reader(Stream("t"), FLOATS, limits).read(values)
    assert {e.row for e in reading.decoded.errors} == set(range(700))
    assert reading.decoded.errors_total == 700 * 42
    assert len(reading.decoded.errors) == 700 * 20


def test_fields_may_lie_anywhere_in_the_record_and_the_rest_is_ignored():
    value = {"legs": [{"id": "a", "amount": 1.10, "lots": 1, "x": 1}, {"id": "b", "amount": "2", "lots": 2}], "rate": 7}
    made = record(value, key=b'{"side": "sell"}', headers=[("open", b'{"it": true}')])
    reading = reader(MAPPED).read([made])
    columns = reading.decoded.columns
    assert columns.column("trade_id").tolist() == ["a", "b"]
    assert columns.column("amount").tolist() == ["1.10", "2.00"]
    assert columns.column("rate").tolist() == [7, 7]
    assert columns.column("side").tolist() == ["sell", "sell"]
    assert columns.nulls("day").tolist() == [True, True]


def test_without_a_map_unknown_fields_are_errors_and_with_one_they_are_not():
    unmapped = read(Stream("t"), {"a": 1, "b": 2, "c": 3}, contract=FLOATS)
    assert [e.code for e in unmapped.decoded.errors] == ["unexpected"]
    stream = Stream("t", fields=(("a", "value.a"), ("b", "value.b")))
    assert read(stream, {"a": 1, "b": 2, "c": 3}, contract=FLOATS).decoded.rows.tolist() == [0]


def test_decimals_keep_every_digit():
    stream = Stream("t", fields=tuple((name, f"value.x.{name}") for name in GOOD))
    text = json.dumps({"x": {**GOOD, "amount": 0}}).replace('"amount": 0', '"amount": 123456789012345678.99')
    for value in (text.encode(), text.encode().replace(b'{"x"', b'{"y": 1, "x"'), b"[" + text.encode() + b"]"):
        if value.startswith(b"["):
            stream = Stream("t", instances="value", fields=stream.fields)
        found = read(stream, value).decoded.columns.column("amount").tolist()
        assert found == ["123456789012345678.99"]


@pytest.mark.parametrize("fields", [(), (("a", "value.a"), ("b", "value.b"))])
def test_a_whole_number_that_a_double_does_not_hold_is_refused_whatever_it_is_read_with(fields: Any):
    stream = Stream("t", fields=fields)
    for others in ([], [b"{"], [{"a": 1, "b": 1}]):
        reading = read(stream, {"a": 9007199254740993, "b": 1}, {"a": 1e300, "b": 1}, *others, contract=FLOATS)
        assert [(e.row, e.code) for e in reading.decoded.errors] == [(0, "precision")]
        assert 1 in reading.decoded.rows.tolist()


def test_an_instance_that_is_no_object_breaks_the_contract_though_every_field_may_be_null():
    contract = trueup.load_contract(
        "{name: n, version: 1, fields: {a: {type: float64, nullable: true}}, output: {kind: probability}}\n"
    )
    for fields in ((), (("a", "value.a"),)):
        reading = read(Stream("t", fields=fields), 5, None, [7, {"a": 1}], b"null", contract=contract)
        assert reading.decoded.rows.tolist() == [2]
        assert {e.row for e in reading.decoded.errors} == {0, 1, 3}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", RefusalReason.UNDECODABLE),
        (b"{", RefusalReason.UNDECODABLE),
        (b'{"a": 1, "b": 2}}', RefusalReason.UNDECODABLE),
        (b'{"a": "\xff", "b": 2}', RefusalReason.UNDECODABLE),
        (b"[" * 100_000, RefusalReason.UNDECODABLE),
        (b'{"a": 1e99999999999999999999, "b": 2}', RefusalReason.UNDECODABLE),
        (b" " * 2048, RefusalReason.TOO_LARGE),
        (json.dumps([{"a": 1, "b": 1}] * 4).encode(), RefusalReason.TOO_LARGE),
    ],
)
def test_a_bad_record_is_named_and_its_neighbours_are_read(value: bytes, reason: RefusalReason):
    good = record({"a": 1, "b": 2})
    large = 10**6 if value.startswith(b"[[") else 1024
    reading = reader(Stream("t"), FLOATS, record_bytes=large, record_instances=3).read([good, record(value), good])
    assert [(b.record, b.reason) for b in reading.bad] == [(1, reason)]
    assert reading.record_of.tolist() == [0, 2]
    assert len(reading.decoded.rows) == 2


def test_key_and_headers_count_among_a_records_bytes():
    large = record({"a": 1, "b": 2}, headers=[("h", b"x" * 2000)])
    assert reader(Stream("t"), FLOATS, record_bytes=1024).read([large]).bad[0].reason is RefusalReason.TOO_LARGE


def test_instances_that_are_not_there_are_a_bad_record():
    reading = read(Stream("t", instances="value.legs"), {"other": 1}, contract=FLOATS)
    assert why(reading) == [(0, RefusalReason.CONTRACT, "value.legs: missing")]


def test_every_instance_has_the_events_own_id():
    legs = Stream("t", instances="value.legs", identity="value.legs.trade_id")
    value = {"legs": [{**GOOD, "trade_id": "a"}, {**GOOD, "trade_id": "b"}]}
    assert read(legs, value).ids == ["a", "b"]
    whole = Stream("t", instances="value.legs", identity="value.id")
    assert read(whole, {"id": 7, **value}, {"id": "x", "legs": GOOD}, {"id": "y", "legs": [GOOD]}).ids == [
        "7/0",
        "7/1",
        "x",
        "y",
    ]


@pytest.mark.parametrize("where", ["value.trade_id", "key", "headers.id"])
def test_ids_are_read_alike_at_once_and_one_by_one(where: str):
    made = [record({**GOOD, "trade_id": f"t{i}"}, f"t{i}".encode(), [("id", f"t{i}".encode())]) for i in range(3)]
    stream = Stream("t", identity=where)
    assert reader(stream).read(made).ids == ["t0", "t1", "t2"]
    assert reader(stream).read([*made, record(b"{")]).ids == ["t0", "t1", "t2"]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({}, "missing"),
        ({"id": None}, "missing"),
        ({"id": ""}, "missing"),
        ({"id": "  "}, "missing"),
        ({"id": True}, "type"),
        ({"id": 1.5}, "type"),
        ({"id": ["x"]}, "type"),
        ({"id": "a\x00"}, "type"),
        ({"id": "x" * 201}, "length"),
        ({"id": 10**300}, "length"),
    ],
)
def test_a_bad_id_is_a_bad_record(value: dict[str, Any], code: str):
    stream = Stream("t", instances="value.x", identity="value.id")
    good = {"id": "g", "x": GOOD}
    reading = read(stream, good, {**value, "x": GOOD}, good)
    assert why(reading) == [(1, RefusalReason.CONTRACT, f"value.id: {code}")]
    assert reading.ids == ["g", "g"]


def test_an_id_that_its_place_makes_too_long_is_a_bad_record():
    reading = read(Stream("t", instances="value.x", identity="value.id"), {"id": "i" * 199, "x": [GOOD, GOOD]})
    assert [b.detail for b in reading.bad] == ["value.id: length"]


def test_a_date_or_decimal_of_the_contract_can_be_an_id_as_it_is_written():
    assert read(Stream("t", identity="value.amount"), {**GOOD, "amount": "1.50"}).ids == ["1.50"]


@pytest.mark.parametrize(
    ("moment", "us"),
    [
        ("2026-11-23T09:30:00Z", 1_795_426_200_000_000),
        ("2026-11-23t10:30:00.0000019+01:00", 1_795_426_200_000_001),
        (1_795_426_200_000, 1_795_426_200_000_000),
        (1_795_426_200_000.5, 1_795_426_200_000_500),
    ],
)
def test_event_times_are_rfc_3339_or_milliseconds(moment: Any, us: int):
    stream = Stream("t", instances="value.x", event_time="value.at")
    reading = read(stream, {"at": moment, "x": GOOD}, {"at": moment, "x": [GOOD, GOOD]})
    assert reading.event_us is not None
    assert reading.event_us.tolist() == [us] * 3


@pytest.mark.parametrize(
    ("moment", "code"),
    [
        (None, "missing"),
        ("2026-11-23T09:30:00", "type"),
        ("2026-11-23", "type"),
        ("yesterday", "type"),
        (True, "type"),
        ("2026-13-23T09:30:00Z", "range"),
        ("2026-11-23T09:30:61Z", "range"),
        ("0001-01-01T00:00:00+23:00", "range"),
        ("1800-01-01T00:00:00Z", "range"),
        ("2030-01-01T00:00:00Z", "range"),
        (10**30, "range"),
        (1e300, "range"),
    ],
)
def test_a_bad_event_time_is_a_bad_record(moment: Any, code: str):
    reading = read(Stream("t", instances="value.x", event_time="value.at"), {"at": moment, "x": GOOD})
    assert why(reading) == [(0, RefusalReason.CONTRACT, f"value.at: {code}")]


def test_a_day_that_the_ledger_does_not_keep_refuses_its_instance_alone():
    contract = trueup.load_contract(
        "{name: d, version: 1, event_time: day, fields: {day: {type: date, role: context}, a: float64},"
        " output: {kind: probability}}\n"
    )
    days = ("2026-11-23", "9999-01-01", "2026-11-24", "0001-01-01")
    reading = read(Stream("t"), *({"day": day, "a": 1} for day in days), contract=contract)
    assert reading.decoded.rows.tolist() == [0, 2]
    assert [(e.row, e.field, e.code) for e in reading.decoded.errors] == [(1, "day", "range"), (3, "day", "range")]
    assert reading.decoded.errors_total == 2


@pytest.mark.parametrize(
    "stream",
    [
        Stream("t", instances="body"),
        Stream("t", identity="id"),
        Stream("t", identity="cloudevent"),
        Stream("t", event_time="headers"),
        Stream("t", format="unheard-of"),
        Stream("t", fields=(("trade_id", "value.x"),)),
        Stream("t", fields=(("other", "value.x"),)),
        Stream("t", fields=(*MAPPED.fields, ("side", "value.side"))),
    ],
)
def test_a_stream_that_cannot_be_read_so_is_invalid_input(stream: Stream):
    with pytest.raises(InvalidInput):
        reader(stream)


def test_the_event_time_has_one_place():
    contract = trueup.load_contract(
        "{name: d, version: 1, event_time: day, fields: {day: {type: date, role: context}, a: float64},"
        " output: {kind: probability}}\n"
    )
    with pytest.raises(InvalidInput):
        reader(Stream("t", event_time="value.at"), contract)


STREAMS = [
    Stream("t"),
    Stream("t", identity="value.trade_id"),
    Stream("t", identity="key", event_time="headers.at"),
    Stream("t", fields=tuple((name, f"value.{name}") for name in GOOD), identity="value.id"),
    Stream("t", instances="value.x", fields=tuple((n, f"value.x.y.{n}") for n in GOOD), event_time="value.at"),
    Stream("t", instances="value.x", identity="value.x.trade_id"),
    MAPPED,
    Stream("t", format="cloudevents", identity="cloudevent"),
]
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
junk: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x), max_leaves=5
)
instances = st.fixed_dictionaries(
    {name: st.just(value) | st.just(value) | st.just(value) | junk for name, value in GOOD.items()},
    optional={"id": st.just("1") | junk, "day": st.just("2026-11-23") | junk, "at": st.just(NOW_US // 1000) | junk},
)
shapes = st.one_of(
    instances,
    st.lists(instances, max_size=3),
    st.builds(lambda x: {"x": x, "at": "2026-11-23T09:30:00Z"}, instances),
    st.builds(lambda x: {"x": {"y": x}, "at": "2026-11-23T09:30:00Z", "legs": [x]}, instances),
    junk,
)
values = st.one_of(
    shapes.map(lambda x: json.dumps(x).encode()),
    st.binary(max_size=40),
    st.sampled_from([b"{},{}", b"]", b"[", b'{"a":1},', b'"', b'{"a":"', b'"}', b"null", b"1e999", b'{"x":"\xff"}']),
    st.none(),
)
records = st.builds(
    lambda value, key, headers: Record("t", 0, 0, -1, key, value, headers),
    values,
    st.none() | st.just(b'{"side": "sell"}') | st.binary(max_size=20),
    st.lists(
        st.tuples(st.sampled_from(["open", "at", "ce_id"]), st.just(b'{"it": true}') | st.binary(max_size=8)),
        max_size=2,
    ),
)


def rows_of(reading: Reading, at: int = 0) -> list[Any]:
    """Everything that is read of each instance, comparable."""
    columns, decoded = reading.decoded.columns, reading.decoded
    place = {row: i for i, row in enumerate(decoded.rows.tolist())}
    found = []
    for row in range(decoded.received):
        i = place.get(row)
        content = None
        if i is not None:
            content = [None if bool(columns.nulls(n)[i]) else columns.column(n)[i] for n in columns.contract.by_name]
        errors = sorted((e.field, e.code) for e in decoded.errors if e.row == row)
        us = None if reading.event_us is None else reading.event_us[row]
        own = None if reading.ids is None else reading.ids[row]
        found.append((at + int(reading.record_of[row]), int(reading.place_of[row]), content, errors, us, own))
    return found


@given(st.sampled_from(STREAMS), st.lists(records, max_size=8))
@settings(max_examples=150)
def test_records_read_together_are_read_as_each_alone(stream: Stream, made: list[Record]):
    made_reader = reader(stream)
    with patch.multiple("trueup.doors.kafka.reading", _PIECE=4, _SMALL_PIECE=2):
        together = made_reader.read(made)
    assert rows_of(together) == rows_of(made_reader.read(made))
    alone = [made_reader.read([one]) for one in made]
    assert rows_of(together) == [row for i, one in enumerate(alone) for row in rows_of(one, i)]
    assert why(together) == [(i, reason, detail) for i, one in enumerate(alone) for _, reason, detail in why(one)]
    assert together.tombstones == sum(one.tombstones for one in alone)
    assert together.decoded.errors_total == sum(one.decoded.errors_total for one in alone)


@given(st.lists(values, min_size=1, max_size=4), st.integers(0, 3))
def test_no_value_changes_its_neighbours_instance(hostile: list[bytes | None], place: int):
    good = json.dumps({"a": 0.125, "b": 7}).encode()
    mixed = [*hostile[:place], good, *hostile[place:]]
    reading = reader(Stream("t"), FLOATS).read([record(v) for v in mixed])
    mine = np.flatnonzero(reading.record_of == min(place, len(hostile)))
    assert len(mine) == 1
    assert reading.decoded.columns.floats[reading.decoded.rows.tolist().index(mine[0])].tolist() == [0.125, 7]


@given(instances.filter(lambda row: all(str(k).isidentifier() for k in row)))
def test_one_instance_is_read_as_every_other_door_reads_it(row: dict[str, Any]):
    data = json.dumps(row).encode()
    expected = Decoder(TRADE, Limits()).json(b"[" + data + b"]")
    for extra in ([], [record(b"{")]):
        found = reader(Stream("t")).read([record(data), *extra]).decoded
        assert found.rows.tolist() == expected.rows.tolist()
        assert sorted(found.errors, key=str) == sorted(expected.errors, key=str)
        for name in TRADE.by_name:
            assert found.columns.nulls(name).tolist() == expected.columns.nulls(name).tolist()
            if not expected.columns.nulls(name).any():
                assert found.columns.column(name).tolist() == expected.columns.column(name).tolist()


SECRET = "sEcReT9"


@given(st.sampled_from(STREAMS), st.recursive(
    st.just(SECRET),
    lambda x: st.lists(x, max_size=2) | st.dictionaries(st.sampled_from([*GOOD, "x", "id", "at", SECRET + "-"]), x),
    max_leaves=6,
))  # fmt: skip
def test_nothing_of_a_value_is_said(stream: Stream, value: Any):
    key, headers = SECRET.encode(), [("at", SECRET.encode()), ("ce_id", SECRET.encode())]
    reading = reader(stream).read([record(value, key, headers), record(SECRET.encode(), key, headers)])
    assert SECRET not in str([(b.reason, b.detail) for b in reading.bad])
    assert SECRET not in str(reading.decoded.errors)
