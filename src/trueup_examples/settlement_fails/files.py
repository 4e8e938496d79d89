"""The regulator's half-month files: `cnsfailsYYYYMM{a,b}.txt`, also `.xz` and `.zip`.

Columns: settlement date, CUSIP, symbol, quantity, description, price (`.` is unknown), split
by `|`, with a header and, in most copies, two trailer lines. A dirty line is counted under
its reason and left out; nothing is dropped silently.
"""

from __future__ import annotations

import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from stdnum import cusip as cusip_number

from trueup.errors import InvalidFile

MAX_BYTES = 512 * 2**20  # of one file, unpacked
_NAME = re.compile(r"cnsfails(\d{4})(\d{2})([ab])\.(txt|txt\.xz|xz|zip|txt\.zip)\Z")
_HEADER = "SETTLEMENT DATE|"


@dataclass(frozen=True)
class FailsFile:
    """One file's rows as arrays (n,), and the lines that were left out, by reason."""

    published: date
    day: NDArray[np.datetime64]
    cusip: NDArray[np.object_]
    symbol: NDArray[np.object_]
    description: NDArray[np.object_]
    quantity: NDArray[np.int64]
    price: NDArray[np.float64]  # NaN where unknown
    dirty: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.day)


def list_files(folder: Path) -> list[tuple[date, Path]]:
    """The folder's files with their publication days, in order of publication. Raises InvalidFile."""
    found: dict[date, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _NAME.match(path.name)
        if match:
            found.setdefault(publication_day(int(match[1]), int(match[2]), match[3]), path)
    if not found:
        raise InvalidFile(
            "the folder holds no cnsfails files", next_step="name a folder with cnsfailsYYYYMMa.txt files"
        )
    return sorted(found.items())


def publication_day(year: int, month: int, half: str) -> date:
    """First half: the last day of the month. Second half: the 15th of the next month."""
    following = date(year + month // 12, month % 12 + 1, 1)
    return following - timedelta(days=1) if half == "a" else following.replace(day=15)


def read_file(published: date, path: Path) -> FailsFile:
    """Reads one file. Raises InvalidFile when it cannot be unpacked or is no such file."""
    text = _unpacked(path)
    lines = text.splitlines()
    if not lines or not lines[0].startswith(_HEADER):
        raise InvalidFile(f"{path.name} has not the header of a fails-to-deliver file")
    rows = _Rows()
    trailer: int | None = None
    for line in lines[1:]:
        if line.startswith("Trailer record count"):
            trailer = _whole(line.rpartition(" ")[2])
        elif line and not line.startswith("Trailer"):
            rows.add(line)
    if trailer is not None and trailer != len(rows.day) + sum(rows.dirty.values()):
        rows.dirty["trailer count differs"] += 1
    return rows.file(published)


def _unpacked(path: Path) -> str:
    try:
        if path.suffix == ".xz":
            with lzma.open(path) as packed:
                data = packed.read(MAX_BYTES + 1)
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as packed_member:
                data = packed_member.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as plain:
                data = plain.read(MAX_BYTES + 1)
    except (OSError, lzma.LZMAError, zipfile.BadZipFile, EOFError, IndexError, RuntimeError):
        raise InvalidFile(f"{path.name} cannot be unpacked") from None
    if len(data) > MAX_BYTES:
        raise InvalidFile(f"{path.name} is larger than {MAX_BYTES} bytes unpacked")
    return data.decode("latin-1")


class _Rows:
    """Collects checked rows; what repeats (days, CUSIPs) is checked once."""

    def __init__(self) -> None:
        self.day: list[int] = []
        self.cusip: list[str] = []
        self.symbol: list[str] = []
        self.description: list[str] = []
        self.quantity: list[int] = []
        self.price: list[float] = []
        self.dirty: Counter[str] = Counter()
        self._days: dict[str, int | None] = {}
        self._cusips: dict[str, bool] = {}
        self._seen: set[tuple[int, str]] = set()

    def add(self, line: str) -> None:
        parts = line.split("|")
        if len(parts) < 6:
            self.dirty["fewer than six columns"] += 1
            return
        # A description may itself hold the separator.
        day_text, cusip, symbol, quantity_text, price_text = parts[0], parts[1], parts[2], parts[3], parts[-1]
        day = self._day(day_text)
        quantity, price = _whole(quantity_text), _price(price_text)
        if day is None:
            self.dirty["settlement date"] += 1
        elif not self._valid(cusip):
            self.dirty["CUSIP check digit"] += 1
        elif quantity is None or quantity < 1:
            self.dirty["quantity"] += 1
        elif price is None:
            self.dirty["price"] += 1
        elif (day, cusip) in self._seen:
            self.dirty["second row of a security and day"] += 1
        else:
            self._seen.add((day, cusip))
            self.day.append(day)
            self.cusip.append(cusip)
            self.symbol.append(symbol)
            self.description.append("|".join(parts[4:-1]))
            self.quantity.append(quantity)
            self.price.append(price)

    def _day(self, text: str) -> int | None:
        if text not in self._days:
            try:
                parsed = date(int(text[:4]), int(text[4:6]), int(text[6:])) if len(text) == 8 else None
            except ValueError:
                parsed = None
            self._days[text] = None if parsed is None else (parsed - date(1970, 1, 1)).days
        return self._days[text]

    def _valid(self, cusip: str) -> bool:
        if cusip not in self._cusips:
            self._cusips[cusip] = len(cusip) == 9 and bool(cusip_number.is_valid(cusip))
        return self._cusips[cusip]

    def file(self, published: date) -> FailsFile:
        return FailsFile(
            published,
            np.array(self.day, np.int64).astype("datetime64[D]"),
            np.array(self.cusip, object),
            np.array(self.symbol, object),
            np.array(self.description, object),
            np.array(self.quantity, np.int64),
            np.array(self.price, np.float64),
            self.dirty,
        )


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None


def _price(text: str) -> float | None:
    if text == ".":
        return float("nan")
    try:
        price = float(text)
    except ValueError:
        return None
    return price if 0 <= price < 1e9 else None


def read_all(folder: Path) -> Iterator[FailsFile]:
    """All files of the folder, in order of publication."""
    for published, path in list_files(folder):
        yield read_file(published, path)
