"""All forms of one frame are the same instances."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import trueup
from trueup.contracts.decoding import Decoder
from trueup.doors.inference.mlflow import forms
from trueup.settings import Limits

CONTRACT = trueup.load_contract(
    "name: c\nversion: 1\nfields:\n  item: {type: string, role: key}\n  a: {type: float64, nullable: true}\n"
    "  lots: int64\n  day: date\noutput: {kind: value}\n"
)
DECODER, LIMITS = Decoder(CONTRACT, Limits()), Limits()
NAMES = ["item", "a", "lots", "day"]
ROW = st.tuples(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n"), min_size=1, max_size=8),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63 - 1),
    st.dates().map(str),
)


def sent(rows: list[tuple[Any, ...]]) -> list[tuple[str, bytes]]:
    records = [dict(zip(NAMES, row, strict=True)) for row in rows]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(NAMES)}
    documents: list[dict[str, Any]] = [
        {
            "dataframe_split": {
                "columns": NAMES[::-1],
                "data": [row[::-1] for row in rows],
                "index": list(range(len(rows))),
            }
        },
        {"dataframe_split": {"data": rows}},
        {"dataframe_records": records},
        {"instances": records},
        {"instances": rows},
        {"inputs": columns},
        {"inputs": rows},
    ]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(NAMES)
    writer.writerows([["" if v is None else v for v in row] for row in rows])
    as_mlflow = [tuple(math.nan if v is None else v for v in row) for row in rows]
    documents += [{"instances": as_mlflow}, {"dataframe_split": {"columns": NAMES, "data": as_mlflow}}]
    made = [("application/json", json.dumps(d).encode()) for d in documents]
    return [*made, ("text/csv", text.getvalue().encode("utf-8-sig"))]


@given(st.lists(ROW, min_size=1, max_size=5))
def test_they_decode_to_the_same_columns(rows: list[tuple[Any, ...]]):
    expected = DECODER.records([dict(zip(NAMES, row, strict=True)) for row in rows])
    assert expected.errors_total == 0
    for kind, body in sent(rows):
        found, _ = forms.rows_of(body, kind, CONTRACT, LIMITS)
        decoded = forms.decoded(DECODER, [found])
        assert decoded.errors_total == 0, (kind, body)
        assert decoded.columns.floats.tobytes() == expected.columns.floats.tobytes()
        assert decoded.columns.ints.tolist() == expected.columns.ints.tolist()
        assert decoded.columns.texts.tolist() == expected.columns.texts.tolist()
