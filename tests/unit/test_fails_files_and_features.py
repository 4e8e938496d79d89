"""The regulator's files are read completely; features know nothing of the future."""

from __future__ import annotations

import lzma
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from stdnum import cusip as cusip_number

from trueup.errors import InvalidFile
from trueup_examples.settlement_fails.features import History
from trueup_examples.settlement_fails.files import list_files, publication_day, read_all, read_file
from trueup_examples.settlement_fails.market import Market, cusip, write_files
from trueup_examples.settlement_fails.train import contract

HEADER = "SETTLEMENT DATE|CUSIP|SYMBOL|QUANTITY (FAILS)|DESCRIPTION|PRICE\n"
GOOD = "20210104|G00748106|STWO|17643|ACON S2 ACQUISITION CORP.CL A |10.08\n"
TRAILER = "Trailer record count 1\nTrailer total quantity of shares 17643\n"
DAY = date(2021, 1, 31)


@pytest.mark.parametrize("form", ["cnsfails202101a.txt", "cnsfails202101a.txt.xz", "cnsfails202101a.zip"])
@pytest.mark.parametrize("end", ["", TRAILER])
def test_every_form_of_a_file_is_read(tmp_path: Path, form: str, end: str):
    text, path = HEADER + GOOD + end, tmp_path / form
    if form.endswith(".xz"):
        path.write_bytes(lzma.compress(text.encode()))
    elif form.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("cnsfails202101a.txt", text)
    else:
        path.write_text(text)
    file = read_file(DAY, path)
    assert (file.cusip[0], file.symbol[0], file.quantity[0], file.price[0]) == ("G00748106", "STWO", 17643, 10.08)
    assert not file.dirty


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("20210104|G00748107|X|1|D|1.0", "CUSIP check digit"),
        ("20210104|G0074810|X|1|D|1.0", "CUSIP check digit"),
        ("20211304|G00748106|X|1|D|1.0", "settlement date"),
        ("2021104|G00748106|X|1|D|1.0", "settlement date"),
        ("20210105|G00748106|X|0|D|1.0", "quantity"),
        ("20210105|G00748106|X|-5|D|1.0", "quantity"),
        ("20210105|G00748106|X|1.5|D|1.0", "quantity"),
        ("20210105|G00748106|X|1|D|free", "price"),
        ("20210105|G00748106|X|1|D|inf", "price"),
        ("20210105|G00748106|X|1", "fewer than six columns"),
        (GOOD.strip(), "second row of a security and day"),
    ],
)
def test_a_dirty_line_is_counted_under_its_reason_and_left_out(tmp_path: Path, line: str, reason: str):
    path = tmp_path / "cnsfails202101a.txt"
    path.write_text(HEADER + GOOD + line + "\n")
    file = read_file(DAY, path)
    assert len(file) == 1
    assert file.dirty == {reason: 1}


def test_a_wrong_trailer_is_reported(tmp_path: Path):
    path = tmp_path / "cnsfails202101a.txt"
    path.write_text(HEADER + GOOD + TRAILER.replace("count 1", "count 2"))
    assert read_file(DAY, path).dirty == {"trailer count differs": 1}


def test_an_unknown_price_is_no_fault_and_a_separator_in_a_description_neither(tmp_path: Path):
    path = tmp_path / "cnsfails202101a.txt"
    path.write_text(HEADER + "20210104|G00748106|STWO|17643|A|B|.\n")
    file = read_file(DAY, path)
    assert np.isnan(file.price[0])
    assert file.description[0] == "A|B"


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xfd7zXZ\x00broken"])
def test_what_is_no_such_file_is_a_clear_error(tmp_path: Path, content: bytes):
    for name in ("cnsfails202101a.txt", "cnsfails202101a.txt.xz", "cnsfails202101a.zip"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidFile):
            read_file(DAY, tmp_path / name)


def test_files_are_published_at_the_months_end_and_on_the_15th():
    assert publication_day(2020, 9, "a") == date(2020, 9, 30)
    assert publication_day(2020, 12, "a") == date(2020, 12, 31)
    assert publication_day(2020, 12, "b") == date(2021, 1, 15)


def test_a_folder_without_files_is_a_clear_error(tmp_path: Path):
    with pytest.raises(InvalidFile):
        list_files(tmp_path)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    write_files(Market(securities=120, months=3, seed=9), folder)
    return folder


def test_the_generator_writes_clean_files_and_the_same_ones_again(market: Path, tmp_path: Path):
    files = list(read_all(market))
    assert [len(f.dirty) for f in files] == [0] * 6
    assert all(cusip_number.is_valid(cusip(i)) for i in range(2000))
    write_files(Market(securities=120, months=3, seed=9), tmp_path)
    for path in market.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_features_are_those_of_the_contract(market: Path):
    history = History()
    for file in read_all(market):
        history.add(file)
    columns = history.features(40)
    assert set(columns) == {f.name for f in contract().fields}
    assert all(np.isfinite(columns[f.name]).all() for f in contract().features)


def test_features_of_a_day_do_not_change_when_later_files_are_published(market: Path):
    files = list(read_all(market))
    short, long = History(), History()
    for file in files[:3]:
        short.add(file)
    for file in files:
        long.add(file)
    last = len(short.days) - 1
    before, after = short.features(last), long.features(last)
    for name, column in before.items():
        if name != "symbol":
            assert np.array_equal(column, after[name]), name


def test_a_security_alone_has_the_features_it_has_among_all(market: Path):
    history = History()
    for file in read_all(market):
        history.add(file)
    together, member = history.features(30), history.universe(30)[5:6]
    alone = history.features(30, member)
    for name, column in alone.items():
        assert column[0] == together[name][5], name
