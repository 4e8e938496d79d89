"""Files become chunks typed by the contract, and nothing is ever guessed."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueup.contracts.decoding import Decoder
from trueup.contracts.reading import load_contract
from trueup.domain.batch import Decoded
from trueup.doors.cli import files
from trueup.doors.python import decode
from trueup.errors import InvalidFile
from trueup.settings import Limits

CONTRACT = load_contract("""
name: trade
version: 1
fields:
  account: {type: string, role: key}
  x: {type: float64, nullable: true}
  n: int64
  flag: {type: bool, nullable: true}
  amount: {type: "decimal(38,2)", nullable: true}
  day: {type: date, nullable: true}
output: {kind: value}
""")
HEADER = "account,x,n,flag,amount,day\n"
LIMITS = Limits()


def _read(tmp_path: Path, text: str | bytes, suffix: str = "csv", limits: Limits = LIMITS) -> list[Decoded]:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with files.opened(str(path), None) as source:
        return [decode(Decoder(CONTRACT, limits), c.data) for c in source.chunks(CONTRACT, limits)]


def _faults(decoded: list[Decoded]) -> list[tuple[int, str, str]]:
    return [(e.row, e.field, e.code) for d in decoded for e in d.errors]


def test_identifiers_keep_leading_zeros_and_decimals_stay_exact(tmp_path: Path) -> None:
    (found,) = _read(tmp_path, HEADER + "007,0.1,9007199254740993,true,123456789012345678901234567890.12,2026-11-20\n")
    assert found.errors == ()
    assert found.columns.column("account").tolist() == ["007"]
    assert found.columns.column("n").tolist() == [9007199254740993]
    assert found.columns.column("amount").tolist() == ["123456789012345678901234567890.12"]


def test_an_empty_cell_is_null(tmp_path: Path) -> None:
    (found,) = _read(tmp_path, HEADER + 'a,,1,,"",\n')
    assert [found.columns.nulls(name)[0] for name in ("x", "flag", "amount", "day")] == [True] * 4


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("n", "1.5"), ("n", "1.0"), ("n", "1e3"), ("n", " 1"), ("n", "007"), ("n", "+1"), ("n", "1_000"), ("n", "٣"),
        ("n", "9223372036854775808"), ("n", ""), ("x", "1,5"), ("x", "NaN"), ("x", "inf"), ("x", "0x1p3"), ("x", "1."),
        ("x", "9007199254740993"), ("x", "1e999"), ("flag", "1"), ("flag", "yes"), ("flag", "TRUE "),
        ("amount", "1.234"), ("amount", "1e2"), ("amount", "$1"), ("day", "20.11.2026"), ("day", "2026-02-30"),
        ("day", "2026-11-20T00:00:00"), ("account", ""),
    ],
)  # fmt: skip
def test_a_text_that_is_not_exactly_the_type_refuses_its_row_alone(tmp_path: Path, field: str, text: str) -> None:
    good = {"account": "a", "x": "1.5", "n": "1", "flag": "true", "amount": "1.25", "day": "2026-11-20"}
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, list(good))
    table.writeheader()
    table.writerows([good, {**good, field: text}, good])
    found = _read(tmp_path, buffer.getvalue())
    assert {(row, name) for row, name, _ in _faults(found)} == {(1, field)}
    assert found[0].rows.tolist() == [0, 2]


def test_a_row_with_too_few_cells_is_refused_alone(tmp_path: Path) -> None:
    found = _read(tmp_path, HEADER + "a,1,1,true,1,2026-11-20\nb,1\nc,1,1,true,1,2026-11-20,more\n\n")
    assert found[0].received == 3
    assert found[0].rows.tolist() == [0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "account,account,n\n",
        "account,n,secret\n",
        "account,x\n",
        HEADER + 'a,"1',
        HEADER.encode() + b"\xff,1,1,,,\n",
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_says_why(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(InvalidFile):
        _read(tmp_path, text)


def test_chunks_are_bounded_and_number_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + "a,1,1,,,\n" * 7)
    limits = Limits(batch_rows=3)
    with files.opened(str(path), None) as source:
        assert [(c.start, c.rows) for c in source.chunks(CONTRACT, limits)] == [(0, 3), (3, 3), (6, 1)]
        assert source.done() == source.size


def test_a_byte_order_mark_and_windows_line_ends_are_harmless(tmp_path: Path) -> None:
    (found,) = _read(tmp_path, b"\xef\xbb\xbf" + (HEADER + "a,1,1,,,\n").replace("\n", "\r\n").encode())
    assert (found.received, found.errors) == (1, ())


def test_one_endless_line_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="longer"):
        _read(tmp_path, HEADER + "a" * 5000, limits=Limits(body_bytes=1024))


def test_json_lines_keep_numbers_exact_and_a_broken_line_is_refused_alone(tmp_path: Path) -> None:
    lines = '{"account":"007","n":9007199254740993,"amount":0.10}\n{"account":\n\n[1]\n{"account":"b","n":1}\n'
    (found,) = _read(tmp_path, lines, "jsonl")
    assert (found.received, found.rows.tolist()) == (4, [0, 3])
    assert found.columns.column("amount").tolist() == ["0.10", None]
    assert found.columns.column("n").tolist() == [9007199254740993, 1]


def test_parquet_is_read_with_its_own_types(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"account": ["007", "b"], "x": [0.1, None], "n": [2**53 + 1, 2]}), tmp_path / "rows.parquet"
    )
    with files.opened(str(tmp_path / "rows.parquet"), None) as source:
        found = [decode(Decoder(CONTRACT, LIMITS), c.data) for c in source.chunks(CONTRACT, LIMITS)]
    assert _faults(found) == []
    assert found[0].columns.column("n").tolist() == [2**53 + 1, 2]


def test_a_file_that_is_no_parquet_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="Parquet"):
        _read(tmp_path, "PAR1 not really", "parquet")


@pytest.mark.parametrize("name", ["rows.xls", "-", "nowhere.csv"])
def test_what_cannot_be_opened_names_the_next_step(name: str) -> None:
    with pytest.raises(InvalidFile) as refused, files.opened(name, None):
        pass
    assert refused.value.next_step


def test_the_digest_is_of_the_bytes_alone(tmp_path: Path) -> None:
    digests = []
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(HEADER)
        with files.opened(str(tmp_path / name), None) as source:
            digests.append(source.digest)
    assert digests[0] == digests[1]


_texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
_rows = st.lists(
    st.tuples(
        _texts, st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1), st.booleans()
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(_rows)
def test_whatever_is_written_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    buffer = io.StringIO()
    table = csv.writer(buffer)
    table.writerow(["account", "x", "n", "flag"])
    table.writerows([(a, repr(x), n, str(f).lower()) for a, x, n, f in rows])
    (found,) = _read(tmp_path_factory.mktemp("csv"), buffer.getvalue())
    assert found.errors == ()
    assert found.columns.column("account").tolist() == [r[0] for r in rows]
    assert np.array_equal(found.columns.column("x"), [r[1] for r in rows])
    assert found.columns.column("n").tolist() == [r[2] for r in rows]
    assert found.columns.column("flag").tolist() == [int(r[3]) for r in rows]
