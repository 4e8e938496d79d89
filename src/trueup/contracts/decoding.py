"""Decoding: JSON, records, columns, Arrow and pandas into the arrays of a batch.

Two paths, one result. The fast path decodes whole blocks and only asks "is everything
right?". When anything is not, the exact path (:mod:`trueup.contracts.values`) goes
through every value again and names every fault of every instance.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from trueup.contracts import each
from trueup.contracts.columnar import arrow_columns, fast_column, pandas_columns
from trueup.contracts.values import (
    EPOCH_DAY,
    EXACT_IN_DOUBLE,
    Fault,
    JsonNumber,
    canonical_decimal,
    expected,
    microseconds,
    stored,
)
from trueup.domain.batch import Bools, Columns, Decoded
from trueup.domain.contract import Contract, Field, FieldError, FieldType, Storage
from trueup.errors import InvalidInput
from trueup.settings import Limits

T = TypeVar("T")
_PIECE = 64  # rows that are looked at one by one when one of them is wrong
_ROW_ERRORS = 20  # errors kept of one row, where every bad row is named
JSON_TYPES: dict[FieldType, Any] = {
    FieldType.FLOAT64: float,
    FieldType.INT64: int,
    FieldType.BOOL: bool,
    FieldType.STRING: str,
    FieldType.CATEGORY: str,
    FieldType.DATE: dt.date,
    FieldType.TIMESTAMP: Annotated[dt.datetime, msgspec.Meta(tz=True)],
    FieldType.DECIMAL: Decimal,
}


class Decoder:
    """Turns instances into :class:`Decoded` under one contract. Safe to use from several threads."""

    def __init__(self, contract: Contract, limits: Limits) -> None:
        self.contract = contract
        self._limits = limits
        self._blocks = tuple(f for s in Storage for f in contract.fields if f.storage is s)
        self._row_type = msgspec.defstruct(
            "Instance",
            [_struct_field(f) for f in sorted(self._blocks, key=lambda f: f.nullable)],
            forbid_unknown_fields=True,
            gc=False,
        )
        self._names = tuple(f.name for f in sorted(self._blocks, key=lambda f: f.nullable))
        self._json = msgspec.json.Decoder(list[self._row_type])  # type: ignore[name-defined]
        self._one_json = msgspec.json.Decoder(self._row_type)
        self._only_floats = all(f.storage is Storage.FLOATS and not f.nullable for f in contract.fields)
        self._bounds = _Bounds(self._blocks)
        doubles = [f for f in contract.features if f.type is FieldType.FLOAT64]
        self._matrix_names = tuple(f.name for f in doubles)
        self._matrix_set = frozenset(self._matrix_names)
        self._matrix_places = np.array([contract.slots[name][1] for name in self._matrix_names], np.intp)
        self._nan_is_null = np.array([f.nullable and not f.allow_nan for f in doubles], bool)
        self._nan_may_be_null = bool(self._nan_is_null.any())
        width = contract.widths[Storage.FLOATS]
        self._matrix_is_whole = self._matrix_places.tolist() == list(range(width))  # the block of floats as stored
        whole = self._matrix_is_whole and not any(f.nullable for f in doubles)
        self._leading = width if whole else 0  # first fields of a row that are the block of floats
        self._packed = struct.Struct(f"={self._leading}d").pack
        self._after_leading = self._blocks[self._leading :]
        self._any_json = msgspec.json.Decoder(float_hook=JsonNumber)
        self._made: dict[Callable[[Contract], Any], Any] = {}

    def once(self, make: Callable[[Contract], T]) -> T:
        """What a protocol makes of the contract, made by the first who asks."""
        made: T | None = self._made.get(make)
        if made is None:
            made = self._made[make] = make(self.contract)
        return made

    def json(self, data: bytes) -> Decoded:
        """Records as a JSON array of objects. Raises InvalidInput when it is no such JSON."""
        try:
            rows = self._json.decode(data)
            columns = _told_exactly(self._from_structs(rows))
        except (msgspec.DecodeError, _NotFast, OverflowError, RecursionError, UnicodeError):
            return self._exact(self._parsed(data))
        return Decoded(columns, np.arange(len(rows)), len(rows))

    def json_each(self, values: Sequence[bytes]) -> Decoded | None:
        """Every value is the JSON of one instance, read by itself; None where any is not exactly right.

        Nothing in a value can reach its neighbour, as it could in a text that joins them.
        """
        try:
            columns = _told_exactly(self._from_structs(list(map(self._one_json.decode, values))))
        except (msgspec.DecodeError, _NotFast, OverflowError, RecursionError, UnicodeError):
            return None
        return Decoded(columns, np.arange(len(values)), len(values))

    def each(self, rows: Sequence[Any]) -> Decoded:
        """As ``records``, faster, and the errors name every bad row: at most 20 errors a row, none left out."""
        n = len(rows)
        try:
            return Decoded(self._from_lists(each.listed(self._blocks, rows), n), np.arange(n), n)
        except (each.Unusual, _NotFast, OverflowError):
            return self._piecewise(rows)

    def each_of(self, columns: Mapping[str, Sequence[Any]], n: int) -> Decoded | None:
        """As ``each``, of n rows given by their fields; None where any is not exactly right."""
        try:
            return Decoded(self._from_lists(columns, n), np.arange(n), n)
        except (each.Unusual, _NotFast, OverflowError):
            return None

    def json_columns(self, data: bytes) -> Decoded:
        """Columnar JSON: one object of field name to array of values. Raises InvalidInput."""
        parsed = self._parsed_any(data)
        if not isinstance(parsed, dict) or not all(isinstance(v, list) for v in parsed.values()):
            raise InvalidInput("columnar JSON is one object of arrays", next_step='send {"field": [value, ...], ...}')
        return self.columns(parsed)

    def records(self, rows: Sequence[Mapping[str, Any]]) -> Decoded:
        """Records as Python mappings of plain values."""
        return self._exact(rows)

    def columns(self, data: Mapping[str, Any]) -> Decoded:
        """Columns as lists or numpy arrays. numpy's zoneless datetime64 is taken as UTC.

        Raises InvalidInput when the columns differ in length.
        """
        lengths = {len(c) for c in data.values()}
        if len(lengths) > 1:
            raise InvalidInput("the columns differ in length", next_step="send one value a row in every column")
        n = lengths.pop() if lengths else 0
        if set(data) <= set(self.contract.by_name):
            try:
                parts = {f.name: self._fast(f, data, n) for f in self._blocks}
                return Decoded(self._assembled(parts, n), np.arange(n), n)
            except (_NotFast, OverflowError):
                pass
        lists = {name: _plain_list(column) for name, column in data.items()}
        return self._exact([dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)])

    def matrix(self, block: NDArray[np.float64], data: Mapping[str, Any]) -> Decoded:
        """All float64 features as one block (n, k) in contract order, the other fields as for ``columns``.

        Raises InvalidInput when the block has another width or ``data`` another length.
        """
        names = self._matrix_names
        if block.ndim != 2 or block.shape[1] != len(names) or any(len(c) != len(block) for c in data.values()):
            raise InvalidInput("the columns differ in length, or the matrix has not one column a float64 feature")
        n = len(block)
        try:
            parts = {f.name: self._fast(f, data, n) for f in self._blocks if f.name not in self._matrix_set}
            nulls = np.isnan(block) & self._nan_is_null if self._nan_may_be_null else None
            if nulls is not None and not nulls.any():
                nulls = None
            return Decoded(self._assembled(parts, n, block, nulls), np.arange(n), n)
        except (_NotFast, OverflowError):
            return self.columns({**dict(zip(names, block.T, strict=True)), **data})

    def arrow(self, table: Any) -> Decoded:
        """An Arrow table or record batch (extra `arrow`)."""
        return self.columns(arrow_columns(table))

    def pandas(self, frame: Any) -> Decoded:
        """A pandas frame (extra `pandas`); its missing values are nulls."""
        return self.columns(pandas_columns(frame))

    def _from_structs(self, rows: list[Any]) -> Columns:
        n = len(rows)
        if self._only_floats:
            values = chain.from_iterable(map(msgspec.structs.astuple, rows))
            floats = np.fromiter(values, np.float64, n * len(self._names)).reshape(n, len(self._names))
            return self._checked(floats, np.empty((n, 0), np.int64), np.empty((n, 0), object), None, None)
        if not n:
            return self._assembled({f.name: ((), None) for f in self._blocks}, 0)
        tuples = list(map(msgspec.structs.astuple, rows))
        lead = self._leading
        matrix = None
        if lead:  # a third of the time that numpy takes to find out what a list of tuples is
            packed = bytearray().join([self._packed(*row[:lead]) for row in tuples])
            matrix = np.frombuffer(packed, np.float64).reshape(n, lead)
        listed = dict(zip(self._names[lead:], zip(*[row[lead:] for row in tuples], strict=True), strict=True))
        parts = {f.name: self._plain_column(f, listed[f.name]) for f in self._after_leading}
        return self._assembled(parts, n, matrix)

    def _piecewise(self, rows: Sequence[Any]) -> Decoded:
        """Piece by piece, and the pieces in which something is wrong value by value."""
        faults = _RowFaults()
        pieces: list[tuple[Columns, NDArray[np.intp]]] = []
        for start in range(0, len(rows), _PIECE):
            piece = rows[start : start + _PIECE]
            try:
                columns = self._from_lists(each.listed(self._blocks, piece), len(piece))
                pieces.append((columns, np.arange(start, start + len(piece))))
            except (each.Unusual, _NotFast, OverflowError):
                pieces.append(self._exact_piece(piece, start, faults))
        columns = Columns.joined([c for c, _ in pieces])
        return Decoded(columns, np.concatenate([r for _, r in pieces]), len(rows), tuple(faults.kept), faults.total)

    def _from_lists(self, listed: Mapping[str, Sequence[Any]], n: int) -> Columns:
        parts: dict[str, tuple[Any, Bools | None]] = {}
        for f in self._blocks:
            values, nulls = each.column(
                f, listed[f.name] if f.name in listed else [each.ABSENT] * n, self._limits.text_chars
            )
            parts[f.name] = (values, None if nulls is None else np.array(nulls, bool))
        return self._assembled(parts, n)

    def _plain_column(self, f: Field, values: tuple[Any, ...]) -> tuple[Any, Bools | None]:
        """A typed tuple of the fast JSON decode in stored form, with its null mask."""
        nulls = None
        if f.nullable and None in values:
            nulls = np.fromiter((v is None for v in values), bool, len(values))
        if f.type is FieldType.DATE:
            return [0 if v is None else (v - EPOCH_DAY).days for v in values], nulls
        if f.type is FieldType.TIMESTAMP:
            return [0 if v is None else microseconds(v) for v in values], nulls
        if f.type is FieldType.DECIMAL:
            return [None if v is None else _decimal_or_slow(f, v) for v in values], nulls
        if nulls is not None and f.storage is not Storage.TEXTS:
            empty = np.nan if f.storage is Storage.FLOATS else 0
            return [empty if v is None else v for v in values], nulls
        return values, nulls

    def _fast(self, f: Field, data: Mapping[str, Any], n: int) -> tuple[Any, Bools | None]:
        if f.name in data:
            part = fast_column(f, data[f.name])
            if part is not None:
                return part
        elif f.nullable:
            return _all_null(f, n)
        raise _NotFast

    def _assembled(
        self,
        parts: Mapping[str, tuple[Any, Bools | None]],
        n: int,
        matrix: NDArray[np.float64] | None = None,
        matrix_nulls: Bools | None = None,
    ) -> Columns:
        widths = self.contract.widths
        if matrix is not None and self._matrix_is_whole:
            floats = np.ascontiguousarray(matrix, np.float64)
        else:
            floats = np.empty((n, widths[Storage.FLOATS]), np.float64)
            if matrix is not None:
                floats[:, self._matrix_places] = matrix
        ints = np.empty((n, widths[Storage.INTS]), np.int64)
        texts = np.empty((n, widths[Storage.TEXTS]), object)
        nulls: dict[str, Bools] = {}
        if matrix_nulls is not None:
            nulls["floats"] = np.zeros(floats.shape, bool)
            nulls["floats"][:, self._matrix_places] = matrix_nulls
        block: NDArray[Any]
        for name, (values, null) in parts.items():
            storage, place = self.contract.slots[name]
            block = floats if storage is Storage.FLOATS else ints if storage is Storage.INTS else texts
            block[:, place] = values
            if null is not None and storage is not Storage.TEXTS and null.any():
                if not self.contract.by_name[name].nullable:
                    raise _NotFast
                mask = nulls.setdefault(storage.value, np.zeros(block.shape, bool))
                mask[:, place] = null
        return self._checked(floats, ints, texts, nulls.get("floats"), nulls.get("ints"))

    def _checked(
        self,
        floats: NDArray[np.float64],
        ints: NDArray[np.int64],
        texts: NDArray[np.object_],
        float_nulls: Bools | None,
        int_nulls: Bools | None,
    ) -> Columns:
        """The columns if every value is allowed, else _NotFast."""
        if not self._bounds.hold(floats, ints, float_nulls, int_nulls):
            raise _NotFast
        if texts.shape[1] and not self._bounds.texts_hold(texts, self._limits.text_chars):
            raise _NotFast
        return Columns(self.contract, floats, ints, texts, float_nulls, int_nulls)

    def _parsed(self, data: bytes) -> list[Any]:
        parsed = self._parsed_any(data)
        if not isinstance(parsed, list):
            raise InvalidInput("instances are a JSON array of objects", next_step='send [{"field": value, ...}]')
        return parsed

    def _parsed_any(self, data: bytes) -> Any:
        try:
            return self._any_json.decode(data)
        except (msgspec.DecodeError, UnicodeError, ValueError, ArithmeticError):  # the last: an exponent beyond all
            raise InvalidInput("the body is not valid JSON") from None
        except RecursionError:
            raise InvalidInput("the body is nested too deeply") from None

    def _exact(self, rows: Sequence[Any]) -> Decoded:
        """Every value by the exact rules; rows with any fault are left out and reported."""
        faults = _Faults(self._limits.field_errors)
        columns, good = self._exact_piece(rows, 0, faults)
        return Decoded(columns, good, len(rows), tuple(faults.kept), faults.total)

    def _exact_piece(self, rows: Sequence[Any], start: int, faults: _Faults) -> tuple[Columns, NDArray[np.intp]]:
        """The good ones of some rows, of which ``start`` is the first one's place, and their places."""
        good: list[int] = []
        values: list[dict[str, Any]] = []
        for i, row in enumerate(rows, start):
            before = faults.total
            checked = self._exact_row(i, row, faults)
            if faults.total == before:
                good.append(i)
                values.append(checked)
        parts = {f.name: _stored_part(f, [v[f.name] for v in values]) for f in self._blocks}
        return _unchecked(self, parts, len(good)), np.array(good, np.intp)

    def _exact_row(self, i: int, row: Any, faults: _Faults) -> dict[str, Any]:
        if not isinstance(row, Mapping):
            faults.add(i, "", "type", "an object of fields")
            return {}
        checked: dict[str, Any] = {}
        for f in self._blocks:
            if f.name not in row and not f.nullable:
                faults.add(i, f.name, "missing", expected(f))
                continue
            try:
                checked[f.name] = stored(f, row.get(f.name), self._limits.text_chars)
            except Fault as fault:
                faults.add(i, f.name, fault.code, fault.expected)
        for name in row:
            if name not in self.contract.by_name:
                # The caller's own spelling is content too: shown only where it could be a field name.
                shown = name if isinstance(name, str) and name.isidentifier() and len(name) <= 64 else ""
                faults.add(i, shown, "unexpected", "only fields of the contract")
        return checked


class _NotFast(Exception):
    """Something is wrong or unusual: take the exact path."""


class _Faults:
    """Field errors, kept up to a bound and counted beyond it."""

    def __init__(self, bound: int) -> None:
        self.kept: list[FieldError] = []
        self.total = 0
        self._bound = bound

    def add(self, row: int, field: str, code: str, wanted: str) -> None:
        self.total += 1
        if len(self.kept) < self._bound:
            self.kept.append(FieldError(row, field, code, wanted))


class _RowFaults(_Faults):
    """Field errors, kept up to a bound for each row, so that every bad row is among them."""

    def __init__(self) -> None:
        super().__init__(_ROW_ERRORS)
        self._row, self._of_row = -1, 0

    def add(self, row: int, field: str, code: str, wanted: str) -> None:
        self._of_row = self._of_row + 1 if row == self._row else 1
        self._row = row
        self.total += 1
        if self._of_row <= self._bound:
            self.kept.append(FieldError(row, field, code, wanted))


class _Bounds:
    """What whole blocks must satisfy, as arrays made once a contract."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        floats = [f for f in fields if f.storage is Storage.FLOATS]
        ints = [f for f in fields if f.storage is Storage.INTS]
        self._special = any(f.allow_nan or f.allow_infinity for f in floats)
        self._finite = np.array([not f.allow_infinity for f in floats], bool)
        self._number = np.array([not f.allow_nan for f in floats], bool)
        self._floats = _range(floats, -np.inf, np.inf, np.float64)
        self._ints = _range(ints, np.iinfo(np.int64).min, np.iinfo(np.int64).max, np.int64)
        self._texts = [f for f in fields if f.storage is Storage.TEXTS]
        self._categories = [frozenset(f.categories) | ({None} if f.nullable else set()) for f in self._texts]

    def hold(
        self,
        floats: NDArray[np.float64],
        ints: NDArray[np.int64],
        float_nulls: Bools | None,
        int_nulls: Bools | None,
    ) -> bool:
        return self._floats_hold(floats, float_nulls) and _within(ints, int_nulls, self._ints)

    def _floats_hold(self, floats: NDArray[np.float64], nulls: Bools | None) -> bool:
        if not self._special and nulls is None:
            if not np.isfinite(floats).all():
                return False
        elif floats.size:
            nan = np.isnan(floats)
            if nulls is not None:
                nan &= ~nulls
            if (nan & self._number).any() or (np.isinf(floats) & self._finite).any():
                return False
        return _within(floats, nulls, self._floats)

    def texts_hold(self, texts: NDArray[np.object_], max_chars: int) -> bool:
        for place, f in enumerate(self._texts):
            column = texts[:, place].tolist()
            if f.type is FieldType.CATEGORY and not f.categories_open:
                if not self._categories[place].issuperset(column):
                    return False
                continue
            distinct = set(column)
            if None in distinct:
                if not f.nullable:
                    return False
                distinct.discard(None)
            for value in distinct:
                if type(value) is not str or len(value) > max_chars or not value.isascii() or "\x00" in value:
                    try:
                        stored(f, value, max_chars)
                    except Fault:
                        return False
            if f.type is FieldType.DECIMAL and (f.minimum is not None or f.maximum is not None):
                return False
        return True


def _range(fields: Sequence[Field], low: Any, high: Any, kind: Any) -> tuple[Any, Any] | None:
    if all(f.minimum is None and f.maximum is None for f in fields):
        return None
    return (
        np.array([low if f.minimum is None else f.minimum for f in fields], kind),
        np.array([high if f.maximum is None else f.maximum for f in fields], kind),
    )


def _within(block: NDArray[Any], nulls: Bools | None, bounds: tuple[Any, Any] | None) -> bool:
    if bounds is None:
        return True
    outside = (block < bounds[0]) | (block > bounds[1])
    if nulls is not None:
        outside &= ~nulls
    return not outside.any()


def _struct_field(f: Field) -> tuple[Any, ...]:
    kind = JSON_TYPES[f.type]
    return (f.name, kind | None, None) if f.nullable else (f.name, kind)


def _decimal_or_slow(f: Field, value: Decimal) -> str:
    try:
        return canonical_decimal(f, value)
    except Fault:
        raise _NotFast from None


def _told_exactly(columns: Columns) -> Columns:
    """_NotFast where a double is so large that it may have been a whole number which it does not hold."""
    if beyond_exact(columns.floats):
        raise _NotFast
    return columns


def beyond_exact(floats: NDArray[np.float64]) -> bool:
    """Whether any is as large as whole numbers are that a double may not hold exactly."""
    return bool((np.abs(floats) >= EXACT_IN_DOUBLE).any())


def _all_null(f: Field, n: int) -> tuple[Any, Bools]:
    empty: Any = {Storage.FLOATS: np.nan, Storage.INTS: 0, Storage.TEXTS: None}[f.storage]
    return empty, np.ones(n, bool)


def _stored_part(f: Field, values: list[Any]) -> tuple[Any, Bools | None]:
    nulls = np.fromiter((v is None for v in values), bool, len(values))
    if f.storage is Storage.TEXTS or not nulls.any():
        return values, None
    empty = np.nan if f.storage is Storage.FLOATS else 0
    return [empty if v is None else v for v in values], nulls


def _unchecked(decoder: Decoder, parts: Mapping[str, tuple[Any, Bools | None]], n: int) -> Columns:
    """Assembles values that the exact path has checked one by one."""
    contract = decoder.contract
    block: dict[Storage, NDArray[Any]] = {
        Storage.FLOATS: np.empty((n, contract.widths[Storage.FLOATS]), np.float64),
        Storage.INTS: np.empty((n, contract.widths[Storage.INTS]), np.int64),
        Storage.TEXTS: np.empty((n, contract.widths[Storage.TEXTS]), object),
    }
    masks = {s: np.zeros(block[s].shape, bool) for s in (Storage.FLOATS, Storage.INTS)}
    for name, (values, nulls) in parts.items():
        storage, place = contract.slots[name]
        block[storage][:, place] = values
        if nulls is not None:
            masks[storage][:, place] = nulls
    float_nulls, int_nulls = (m if m.any() else None for m in masks.values())
    return Columns(contract, block[Storage.FLOATS], block[Storage.INTS], block[Storage.TEXTS], float_nulls, int_nulls)


def _plain_list(column: Any) -> list[Any]:
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        unit = "D" if column.dtype == np.dtype("datetime64[D]") else "us"
        values = column.astype(f"datetime64[{unit}]").tolist()
        return [v.replace(tzinfo=dt.UTC) if isinstance(v, dt.datetime) else v for v in values]
    return column.tolist() if isinstance(column, np.ndarray) else list(column)
