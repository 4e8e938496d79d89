"""Tensors of many callers, decoded together, are what each decoded alone would be."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trueup
from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Columns
from trueup.doors.inference.oip import tensors
from trueup.doors.inference.oip.rest import _read
from trueup.errors import InvalidInput
from trueup.settings import Limits

DECODER = Decoder(
    trueup.load_contract(
        "name: c\nversion: 1\nfields:\n  item: {type: string, role: key}\n"
        "  a: {type: float64, allow_nan: true, allow_infinity: true}\n  b: {type: float64, nullable: true}\n"
        "  lots: int64\noutput: {kind: value}\n"
    ),
    Limits(),
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8), NUMBERS, NUMBERS,
              st.integers(-(2**63), 2**63 - 1)),
    min_size=1, max_size=4,
)  # fmt: skip


def request(rows: list[tuple[Any, ...]], *, binary: bool, matrix: bool) -> tensors.Inputs:
    items, first, second, lots = map(list, zip(*rows, strict=True))
    n = len(rows)
    parts: list[tuple[str, str, list[int], list[Any]]] = [("item", "BYTES", [n], items), ("lots", "INT64", [n], lots)]
    if matrix:
        parts.append(("features", "FP64", [n, 2], [v for pair in zip(first, second, strict=True) for v in pair]))
    else:
        parts += [("a", "FP64", [n], first), ("b", "FP64", [n, 1], second)]
    document = [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape, _ in parts]
    raw: list[memoryview | None] = [None] * len(parts)
    for place, (_, kind, _, values) in enumerate(parts):
        if binary:
            raw[place] = memoryview(packed(kind, values))
        else:
            document[place]["data"] = values
    made = _read(memoryview(json.dumps({"inputs": document}).encode()))
    return tensors.checked(made.inputs, raw, 1000)


def packed(kind: str, values: list[Any]) -> bytes:
    if kind == "BYTES":
        return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)
    return np.array(values, {"FP64": "<f8", "INT64": "<i8"}[kind]).tobytes()


def same(one: Columns, other: Columns) -> bool:
    return (
        np.array_equal(one.floats, other.floats, equal_nan=True)
        and np.array_equal(one.ints, other.ints)
        and one.texts.tolist() == other.texts.tolist()
    )


@given(st.lists(ROWS, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_together_is_alone_and_is_the_records(callers: list[list[tuple[Any, ...]]], binary: bool, matrix: bool):
    requests = [request(rows, binary=binary, matrix=matrix) for rows in callers]
    together = tensors.decoded(DECODER, requests)
    alone = Columns.joined([tensors.decoded(DECODER, [one]).columns for one in requests])
    records = DECODER.records([dict(zip(("item", "a", "b", "lots"), row, strict=True)) for c in callers for row in c])
    assert together.errors_total == records.errors_total == 0
    assert same(together.columns, alone)
    assert same(together.columns, records.columns)


@given(st.lists(st.binary(max_size=12), max_size=3), st.integers(0, 4))
def test_any_bytes_are_texts_or_a_clear_refusal(cells: list[bytes], rows: int):
    data = b"".join(cells)
    try:
        found = tensors._texts(memoryview(data), rows)
    except InvalidInput:
        return
    assert packed("BYTES", found) == data


@pytest.mark.parametrize("data", ["[1,2,3]", "[1]", "[[1,2],[3]]", '["1,2",3]', "[1,null]", "{}", "1", "[]"])
def test_callers_whose_matrix_does_not_fill_its_shape_are_not_joined(data: str):
    def sent(text: str) -> tensors.Inputs:
        document = (
            '{"inputs": [{"name": "item", "datatype": "BYTES", "shape": [1], "data": ["x"]},'
            '{"name": "lots", "datatype": "INT64", "shape": [1], "data": [1]},'
            '{"name": "features", "datatype": "FP64", "shape": [1, 2], "data": ' + text + "}]}"
        )
        return tensors.checked(_read(memoryview(document.encode())).inputs, [None] * 3, 10)

    with pytest.raises(InvalidInput):
        tensors.decoded(DECODER, [sent(data), sent("[1,2]")])
    assert tensors.decoded(DECODER, [sent("[1,2]"), sent("[3, 4e0]")]).columns.floats.tolist() == [[1, 2], [3, 4]]
