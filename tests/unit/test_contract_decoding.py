"""Decoding: nothing coerced, every fault named, no value shown."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trueup
from trueup.contracts.decoding import Decoder
from trueup.errors import InvalidInput
from trueup.settings import Limits

EVERY_TYPE = trueup.load_contract("""
name: every_type
version: 1
fields:
  trade_id: {type: string, role: key}
  amount: {type: float64, minimum: 0}
  special: {type: float64, nullable: true, allow_nan: true, allow_infinity: true}
  quantity: {type: int64, minimum: 1}
  open: bool
  side: {type: category, categories: [buy, sell]}
  desk: {type: category, categories: [rates], open: true, nullable: true}
  trade_date: {type: date, minimum: 2000-01-01}
  booked: {type: timestamp, nullable: true}
  price: {type: "decimal(10,4)", nullable: true, minimum: "0"}
output: {kind: probability}
""")
DECODER = Decoder(EVERY_TYPE, Limits())
GOOD: dict[str, Any] = {
    "trade_id": "0001",
    "amount": 1.5,
    "special": None,
    "quantity": 9007199254740993,
    "open": True,
    "side": "buy",
    "desk": "fx",
    "trade_date": "2026-11-23",
    "booked": "2026-11-23T09:30:00.000001+01:00",
    "price": "12.5",
}


def decode(*rows: Any) -> Any:
    return DECODER.json(json.dumps(list(rows)).encode())


def test_a_good_instance_keeps_every_value_exactly():
    columns = decode(GOOD).columns
    assert columns.texts[0].tolist() == ["0001", "buy", "fx", "12.5000"]
    assert columns.column("quantity")[0] == 9007199254740993
    assert columns.column("trade_date").astype("datetime64[D]")[0] == np.datetime64("2026-11-23")
    assert columns.column("booked").astype("datetime64[us]")[0] == np.datetime64("2026-11-23T08:30:00.000001")
    assert columns.nulls("special").tolist() == [True]


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("amount", "1", "type"),
        ("amount", True, "type"),
        ("amount", -0.5, "range"),
        ("amount", None, "null"),
        ("amount", 9007199254740993, "precision"),
        ("amount", 10**400, "range"),
        ("special", "infinite", "type"),
        ("quantity", 1.0, "type"),
        ("quantity", 1.5, "type"),
        ("quantity", "1", "type"),
        ("quantity", True, "type"),
        ("quantity", 2**63, "range"),
        ("quantity", 0, "range"),
        ("open", 1, "type"),
        ("open", "true", "type"),
        ("trade_id", 1, "type"),
        ("trade_id", "x" * 10_001, "length"),
        ("trade_id", "a\x00b", "type"),
        ("side", "hold", "category"),
        ("trade_date", "23.11.2026", "type"),
        ("trade_date", "2026-02-30", "type"),
        ("trade_date", "1999-12-31", "range"),
        ("booked", "2026-11-23T09:30:00", "type"),
        ("booked", 1763886600, "type"),
        ("price", "12.50001", "scale"),
        ("price", "1234567.1", "precision"),
        ("price", "-1", "range"),
        ("price", "1e3", "type"),
        ("price", True, "type"),
    ],
)
def test_nothing_is_coerced(field: str, value: Any, code: str):
    decoded = decode(GOOD, {**GOOD, field: value})
    assert decoded.rows.tolist() == [0]
    assert [(e.row, e.field, e.code) for e in decoded.errors] == [(1, field, code)]
    if isinstance(value, str) and len(value) > 3:
        assert value not in str(decoded.errors)


def test_every_fault_of_every_instance_is_named():
    without = {k: v for k, v in GOOD.items() if k not in ("amount", "side")}
    decoded = decode({**without, "unknown": 1}, GOOD, "no object")
    assert {(e.row, e.field, e.code) for e in decoded.errors} == {
        (0, "amount", "missing"),
        (0, "side", "missing"),
        (0, "unknown", "unexpected"),
        (2, "", "type"),
    }
    assert decoded.rows.tolist() == [1]


def test_reported_errors_are_bounded_and_the_rest_is_counted():
    decoder = Decoder(EVERY_TYPE, Limits(field_errors=3))
    decoded = decoder.json(json.dumps([{**GOOD, "quantity": "x"}] * 10).encode())
    assert len(decoded.errors) == 3
    assert decoded.errors_total == 10


def test_decimals_in_json_numbers_are_exact():
    body = json.dumps([GOOD]).replace('"12.5"', "0.1000").encode()
    assert DECODER.json(body).columns.column("price")[0] == "0.1000"


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"1", b'"x"', b"[" * 100_000, b"\xff\xfe", b"[1,]"])
def test_what_is_no_array_of_objects_is_a_clear_error(body: bytes):
    with pytest.raises(InvalidInput):
        DECODER.json(body)


def test_nan_is_a_null_where_nulls_are_allowed_and_a_fault_elsewhere():
    columns = {k: [v] for k, v in GOOD.items()}
    assert DECODER.columns({**columns, "amount": np.array([np.nan])}).errors[0].code == "null"
    assert math.isnan(DECODER.columns({**columns, "special": np.array([np.nan])}).columns.column("special")[0])
    nullable = trueup.load_contract(
        "name: n\nversion: 1\nfields:\n  x: {type: float64, nullable: true}\noutput: {kind: value}\n"
    )
    assert Decoder(nullable, Limits()).columns({"x": np.array([np.nan, 1.0])}).columns.nulls("x").tolist() == [
        True,
        False,
    ]


def test_pandas_arrow_columns_and_records_decode_alike():
    rows = [GOOD, {**GOOD, "desk": None, "booked": None, "price": None, "special": 2.5}]
    frame = pd.DataFrame(rows)
    frame["booked"] = pd.to_datetime(frame["booked"], utc=True)
    expected = decode(*rows).columns
    table = pa.Table.from_pylist(rows)
    columnar = {name: [r[name] for r in rows] for name in GOOD}
    body = json.dumps(columnar).encode()
    for decoded in (
        DECODER.records(rows),
        DECODER.pandas(frame),
        DECODER.arrow(table),
        DECODER.columns(columnar),
        DECODER.json_columns(body),
    ):
        assert decoded.errors == ()
        assert np.array_equal(decoded.columns.floats, expected.floats, equal_nan=True)
        assert np.array_equal(decoded.columns.ints, expected.ints)
        assert decoded.columns.texts.tolist() == expected.texts.tolist()


def test_columns_of_different_length_are_refused():
    with pytest.raises(InvalidInput):
        DECODER.columns({"trade_id": ["a", "b"], "amount": [1.0]})


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({name: st.just(value) | JSON_VALUE for name, value in GOOD.items()}))
def test_the_fast_path_accepts_exactly_what_the_exact_path_accepts(row: dict[str, Any]):
    try:
        body = json.dumps([row], allow_nan=False).encode()
    except ValueError:
        return
    fast, exact = DECODER.json(body), DECODER.records(DECODER._parsed(body))
    assert fast.rows.tolist() == exact.rows.tolist()
    assert fast.errors == exact.errors
    assert np.array_equal(fast.columns.floats, exact.columns.floats, equal_nan=True)
    assert np.array_equal(fast.columns.ints, exact.columns.ints)
    assert fast.columns.texts.tolist() == exact.columns.texts.tolist()


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(body: bytes):
    with contextlib.suppress(InvalidInput):
        DECODER.json(body)


def test_an_exponent_beyond_all_numbers_is_no_json():
    for body in (b'[{"amount": 1e99999999999999999999}]', b'[{"price": 1e99999999999999999999}]'):
        with pytest.raises(InvalidInput):
            DECODER.json(body)


@pytest.mark.parametrize("number", ["9007199254740993", "18446744073709551617", "-9007199254740993"])
def test_a_whole_number_that_a_double_does_not_hold_is_refused_wherever_it_stands(number: str):
    contract = trueup.load_contract("name: f\nversion: 1\nfields: {a: float64}\noutput: {kind: probability}\n")
    decoded = Decoder(contract, Limits()).json(
        f'[{{"a": {number}}}, {{"a": 1e300}}, {{"a": 9007199254740992}}]'.encode()
    )
    assert [(e.row, e.code) for e in decoded.errors] == [(0, "precision")]
    assert decoded.rows.tolist() == [1, 2]


def test_values_decoded_each_by_itself_are_decoded_as_together():
    contract = trueup.load_contract("""
name: simple
version: 1
fields: {a: float64, name: {type: string, role: context}, day: {type: date, role: context, nullable: true}}
output: {kind: probability}
""")
    decoder = Decoder(contract, Limits())
    one = b'{"a": 1.5, "name": "x,{}", "day": "2026-11-23"}'
    each, together = decoder.json_each([one, one]), decoder.json(b"[" + one + b"," + one + b"]")
    assert each is not None
    assert each.columns.texts.tolist() == together.columns.texts.tolist()
    assert each.columns.floats.tolist() == together.columns.floats.tolist()
    assert each.columns.ints.tolist() == together.columns.ints.tolist()
    for wrong in (b"", one + one, one + b"," + one, b"[" + one + b"]", one[:-1], b"null"):
        assert decoder.json_each([one, wrong, one]) is None
