"""Files of instances and outcomes as bounded chunks, typed by a contract.

CSV has no types, so the contract says what each text must be, and a text that is not
exactly that stays a text, which the decoder then refuses: nothing is guessed, rounded or
trimmed. An empty cell is a null. A row that cannot be read is passed on as ``None``, so
that it is refused and booked as such instead of ending the run.
"""

from __future__ import annotations

import csv
import hashlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from trueup.contracts.cells import cell
from trueup.domain.contract import Contract, Field, FieldType
from trueup.errors import InvalidFile, MissingExtra
from trueup.settings import Limits

_DAY = re.compile(r"\d{4}-\d\d-\d\d\Z")


class Format(StrEnum):
    """How a file holds its rows."""

    CSV = "csv"
    PARQUET = "parquet"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows ``start`` to ``start + rows`` in a form that ``Trueup.score`` takes."""

    start: int
    rows: int
    data: Any


@dataclass(frozen=True, slots=True)
class Source:
    """A readable file: ``digest`` is the SHA-256 (hex) of its bytes, ``size`` its bytes."""

    file: IO[bytes]
    name: str
    format: Format
    digest: str
    size: int

    def chunks(self, contract: Contract, limits: Limits) -> Iterator[Chunk]:
        """All rows from the start, at most ``limits.batch_rows`` at a time. Raises InvalidFile, MissingExtra."""
        self.file.seek(0)
        readers = {Format.CSV: _csv_chunks, Format.JSONL: _jsonl_chunks, Format.PARQUET: _parquet_chunks}
        return readers[self.format](self.file, contract, limits)

    def done(self) -> int:
        """Bytes read so far, for the progress bar."""
        return self.file.tell()


@contextmanager
def opened(name: str, wanted: Format | None) -> Iterator[Source]:
    """The file, or standard input for ``-`` (kept in a temporary file, since its digest names the
    data set before the first row is scored). Raises InvalidFile."""
    kind = wanted or _format_of(name)
    if name == "-":
        with tempfile.TemporaryFile() as kept:
            while block := sys.stdin.buffer.read(1 << 20):
                kept.write(block)
            yield _source(kept, "standard input", kind)
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - closed below, errors while reading are not errors of opening
    except OSError:
        raise InvalidFile(f"the file {Path(name).name} cannot be read", next_step="check its name") from None
    with file:
        yield _source(file, Path(name).name, kind)


def _source(file: IO[bytes], name: str, kind: Format) -> Source:
    try:
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    except OSError:
        raise InvalidFile(f"the file {name} cannot be read", next_step="name a regular file, or `-`") from None
    return Source(file, name, kind, digest.hexdigest(), file.tell())


def _format_of(name: str) -> Format:
    if name == "-":
        raise InvalidFile("standard input has no suffix to tell its format", next_step="add --format csv or jsonl")
    suffixes = {".csv": Format.CSV, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL, ".parquet": Format.PARQUET}
    kind = suffixes.get(Path(name).suffix.lower())
    if kind is None:
        raise InvalidFile("the file's suffix tells no format", next_step="add --format csv, jsonl or parquet")
    return kind


class _Lines:
    """Lines of UTF-8 text with a bound on each; unlike a text wrapper it leaves the file's position true."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(self._most + 1):
            self._number += 1
            if len(line) > self._most:
                raise InvalidFile(f"line {self._number} is longer than {self._most} bytes")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                raise InvalidFile(f"line {self._number} is not UTF-8", next_step="save the file as UTF-8") from None
            yield text.removeprefix("\ufeff") if self._number == 1 else text


def _csv_chunks(file: IO[bytes], contract: Contract, limits: Limits) -> Iterator[Chunk]:
    csv.field_size_limit(limits.text_chars * 4)
    reader = csv.reader(iter(_Lines(file, limits.body_bytes)), strict=True)
    header = _row(reader)
    if header is None:
        raise InvalidFile("the file is empty", next_step="the first line must name the columns")
    _check_header(header, contract)
    start, rows = 0, list[list[str]]()
    while (row := _row(reader)) is not None:
        if not row:
            continue  # an empty line, as many editors leave at the end
        rows.append(row)
        if len(rows) == limits.batch_rows:
            yield Chunk(start, len(rows), _typed(header, rows, contract))
            start, rows = start + len(rows), []
    if rows:
        yield Chunk(start, len(rows), _typed(header, rows, contract))


def _row(reader: Any) -> list[str] | None:
    try:
        row: list[str] | None = next(reader, None)
    except csv.Error:
        raise InvalidFile(
            f"line {reader.line_num} is no CSV", next_step="check quotes and the lengths of cells"
        ) from None
    return row


def _check_header(header: Sequence[str], contract: Contract) -> None:
    if len(set(header)) != len(header):
        raise InvalidFile("two columns have one name", next_step="rename one")
    unknown = [name for name in header if name not in contract.by_name]
    if unknown:
        shown = ", ".join(name[:40] for name in unknown[:5] if name.isprintable())
        raise InvalidFile(
            f"{len(unknown)} column(s) are not in the contract: {shown}",
            next_step=f"remove them; `trueup contract show {contract.name}` lists the fields",
        )
    missing = [f.name for f in contract.fields if not f.nullable and f.name not in header]
    if missing:
        raise InvalidFile(
            f"the file lacks the column(s) {', '.join(missing[:5])}", next_step="add them; they may not be null"
        )


def _typed(header: Sequence[str], rows: list[list[str]], contract: Contract) -> Any:
    """Columns where every row has as many cells as the header, else records with None for the others."""
    fields = [contract.by_name[name] for name in header]
    if all(len(row) == len(header) for row in rows):
        cells = zip(*rows, strict=True)
        return {f.name: _array(f, [cell(f, text) for text in column]) for f, column in zip(fields, cells, strict=True)}
    return [
        {f.name: cell(f, text) for f, text in zip(fields, row, strict=True)} if len(row) == len(header) else None
        for row in rows
    ]


def _array(f: Field, values: list[Any]) -> Any:
    """A numpy array where that says the same as the list: it is decoded many times faster."""
    import numpy as np

    kinds = set(map(type, values))
    if f.type is FieldType.FLOAT64 and kinds == {float}:
        return np.array(values, np.float64)
    if f.type is FieldType.FLOAT64 and kinds == {float, type(None)} and f.nullable and not f.allow_nan:
        return np.array(values, np.float64)  # None becomes NaN, which is this field's null
    if f.type is FieldType.BOOL and kinds == {bool}:
        return np.array(values, np.bool_)
    if f.type is FieldType.INT64 and kinds == {int}:
        try:
            return np.array(values, np.int64)
        except OverflowError:
            return values
    if f.type is FieldType.DATE and kinds == {str} and all(map(_DAY.match, values)):
        try:
            return np.array(values, "datetime64[D]")
        except ValueError:
            return values
    return values


def _jsonl_chunks(file: IO[bytes], _: Contract, limits: Limits) -> Iterator[Chunk]:
    import msgspec

    from trueup.contracts.values import JsonNumber

    decoder = msgspec.json.Decoder(float_hook=JsonNumber)

    def parsed(line: str) -> Any:
        try:
            return decoder.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None

    start, rows = 0, list[Any]()
    for line in _Lines(file, limits.body_bytes):
        if not line.strip():
            continue
        rows.append(parsed(line))
        if len(rows) == limits.batch_rows:
            yield Chunk(start, len(rows), rows)
            start, rows = start + len(rows), []
    if rows:
        yield Chunk(start, len(rows), rows)


def _parquet_chunks(file: IO[bytes], _: Contract, limits: Limits) -> Iterator[Chunk]:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("arrow", "reading Parquet") from None
    start = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(limits.batch_rows):
            yield Chunk(start, batch.num_rows, pa.Table.from_batches([batch]))
            start += batch.num_rows
    except (pa.ArrowException, OSError):
        raise InvalidFile("the file is no readable Parquet", next_step="check that it is complete") from None
