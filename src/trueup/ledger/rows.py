"""A batch as PostgreSQL's binary COPY format, built column by column.

The format: a header; for each row the number of fields (int16) and for each field its
length (int32, -1 for NULL) and bytes, all big-endian; a trailer. Neighbouring columns of
one length are laid into one block by strided writes, which convert and place in one pass;
only what varies in length is touched row by row.
Reference: PostgreSQL documentation, COPY, "Binary Format"; array layout from ``array_send``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Answers, Booking, Bools, Channel, Objects, Reasons, Role, Scored

HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
NULL = struct.pack(">i", -1)

COLUMNS = (
    *("prediction_id", "event_day", "event_time", "deployment_id", "model_version_id", "contract_id", "batch_id"),
    *("role", "channel", "source", "content_digest", "received_at", "steps_us", "due_day", "floats", "ints", "score"),
    *("expected_cost", "source_key", "business_key", "texts", "outputs", "reason_fields", "reason_values"),
    *("status", "class", "decision"),
)

_ROW = struct.pack(">h", len(COLUMNS))

# Packed at once: the server works on one chunk while the next is packed, so the first is small. Each next one is twice
# as large, because sending lets go of Python's lock, for which a busy thread then has to wait.
FIRST_ROWS, MOST_ROWS = 64, 4096

_EPOCH_DAY = 10_957  # 2000-01-01, where PostgreSQL begins to count, in days and in microseconds since 1970
_DAY_US = 86_400_000_000
_EPOCH = _EPOCH_DAY * _DAY_US
_NAT = np.iinfo(np.int64).min  # numpy's absent moment
_UNITS = {unit: np.dtype(f"datetime64[{unit}]") for unit in ("D", "us")}
_FLOAT8, _INT8, _TEXT, _INT4, _INT2, _FLOAT4 = 701, 20, 25, 23, 21, 700

_LENGTHS = tuple(struct.pack(">i", n) for n in range(1024))  # most texts are short


@dataclass(slots=True)
class _Fixed:
    """A column whose cells have one length: ``values`` (n,) or (n, k) lie at ``first`` in ``cell``, ``step`` apart."""

    cell: bytes
    first: int
    step: int
    values: NDArray[Any]  # of the big-endian type that is sent, or of one that numpy converts to ``kind``
    kind: np.dtype[Any]


Piece = bytes | _Fixed | Sequence[bytes]  # same in every row | same length in every row | anything
_BYTE, _I2, _I4, _I8 = np.dtype("u1"), np.dtype(">i2"), np.dtype(">i4"), np.dtype(">i8")
_F4, _F8 = np.dtype(">f4"), np.dtype(">f8")


def packed(booking: Booking, scored: Scored, ids: NDArray[np.uint8], batch_id: int) -> Iterator[bytes]:
    """The rows of one version in chunks, without header and trailer."""
    start, size = 0, FIRST_ROWS
    while start < len(ids):
        rows = slice(start, start + size)
        part, answers = (booking, scored.answers) if start == 0 and len(ids) <= size else (
            part_of(booking, rows), scored.answers.take(rows))  # fmt: skip
        yield _chunk(part, answers, scored, ids[rows], batch_id)
        start, size = start + size, min(2 * size, MOST_ROWS)


def framed(rows: Iterable[bytes]) -> Iterator[bytes]:
    """The whole stream: header, rows, trailer."""
    before = HEADER
    for chunk in rows:
        yield before + chunk
        before = b""
    yield before + TRAILER


def part_of(booking: Booking, rows: slice | NDArray[np.intp]) -> Booking:
    """The booking of some of its rows, without the answers to them."""
    return replace(
        booking,
        source=replace(booking.source, keys=_picked(booking.source.keys, rows)),
        columns=booking.columns.take(rows),
        digests=_picked(booking.digests, rows),
        business_keys=_picked(booking.business_keys, rows),
        event_time=booking.event_time[rows],
        due_day=booking.due_day[rows],
        received_at=booking.received_at[rows],
        steps_us=booking.steps_us[rows],
        scored=(),
    )


def _picked(values: Sequence[Any], rows: slice | NDArray[np.intp]) -> Sequence[Any]:
    return values[rows] if isinstance(rows, slice) else [values[i] for i in rows.tolist()]


def _chunk(part: Booking, answers: Answers, scored: Scored, ids: NDArray[np.uint8], batch_id: int) -> bytes:
    columns = part.columns
    moments, due = _number(part.event_time, "us"), _number(part.due_day, "D")
    return _joined(
        len(ids),
        [
            _ROW,
            _fixed(ids, _BYTE),
            _fixed(moments // _DAY_US - _EPOCH_DAY, _I4),
            _fixed(moments - _EPOCH, _I8),
            _origin(part.deployment_id, scored.model_version_id, part.contract_id),
            _value(struct.pack(">q", batch_id)),
            _names(scored.role, part.source.channel, part.source.name),
            _fixed(np.frombuffer(b"".join(part.digests), np.uint8).reshape(-1, 16), _BYTE),
            _fixed(_number(part.received_at, "us") - _EPOCH, _I8),
            _array(part.steps_us, None, _I4, _INT4),
            _nullable(due == _NAT, due - _EPOCH_DAY, _I4),
            _array(columns.floats, columns.float_nulls, _F8, _FLOAT8),
            _array(columns.ints, columns.int_nulls, _I8, _INT8),
            _numbers(answers.score),
            _numbers(answers.expected_cost),
            _cells(part.source.keys),
            _cells(part.business_keys),
            *_text_arrays(columns.texts),
            NULL if answers.outputs is None else _array(answers.outputs, None, _F8, _FLOAT8),
            *_reasons(answers.reasons),
            _words(answers.status),
            _words(answers.classes),
            _words(answers.decision),
        ],
    )


@lru_cache(256)
def _origin(deployment_id: int, model_version_id: int, contract_id: int) -> bytes:
    return b"".join(_value(struct.pack(">i", one)) for one in (deployment_id, model_version_id, contract_id))


@lru_cache(256)
def _names(role: Role, channel: Channel, source: str) -> bytes:
    return b"".join(_value(name.encode()) for name in (role, channel, source))


def _joined(n: int, pieces: Sequence[Piece]) -> bytes:
    """Rows of all pieces; neighbours of fixed length are one block."""
    merged: list[Sequence[bytes]] = []
    run: list[bytes | _Fixed] = []
    for piece in pieces:
        if isinstance(piece, (bytes, _Fixed)):
            run.append(piece)
            continue
        if run:
            merged.append(_slices(*_block(n, run)))
            run = []
        merged.append(piece)
    if run:
        block, width = _block(n, run)
        if not merged:
            return bytes(block)
        merged.append(_slices(block, width))
    return b"".join(chain.from_iterable(zip(*merged, strict=True)))


def _block(n: int, run: Sequence[bytes | _Fixed]) -> tuple[bytearray, int]:
    """The run's cells side by side in ``n`` rows, and how wide a row is."""
    template = b"".join(piece if isinstance(piece, bytes) else piece.cell for piece in run)
    width, at = len(template), 0
    block = bytearray(template * n)
    for piece in run:
        if isinstance(piece, bytes):
            at += len(piece)
            continue
        strides = (width, piece.step)[: piece.values.ndim]
        place: NDArray[Any] = np.ndarray(piece.values.shape, piece.kind, block, at + piece.first, strides)
        place[...] = piece.values
        at += len(piece.cell)
    return block, width


def _slices(block: bytearray, width: int) -> list[bytes]:
    """A block's rows as bytes of their own."""
    rows: list[bytes] = np.frombuffer(block, np.dtype((np.void, width))).tolist()
    return rows


def _value(data: bytes) -> bytes:
    return _length(len(data)) + data


def _cell(text: str) -> bytes:
    data = text.encode()
    return _length(len(data)) + data


def _length(n: int) -> bytes:
    return _LENGTHS[n] if n < len(_LENGTHS) else struct.pack(">i", n)


def _number(moments: NDArray[np.datetime64], unit: str) -> NDArray[np.int64]:
    """Days or microseconds since 1970."""
    return moments.astype(_UNITS[unit], copy=False).view(np.int64)


def _fixed(values: NDArray[Any], kind: np.dtype[Any]) -> _Fixed:
    """One number a row, or (n, k) bytes a row."""
    return _Fixed(_blank(kind.itemsize * (values.shape[1] if values.ndim > 1 else 1)), 4, 1, values, kind)


@lru_cache(64)
def _blank(size: int) -> bytes:
    return _length(size) + bytes(size)


def _nullable(nulls: Bools, values: NDArray[Any], kind: np.dtype[Any]) -> Piece:
    if not nulls.any():
        return _fixed(values, kind)
    if nulls.all():
        return NULL
    cells = _slices(*_block(len(nulls), [_fixed(values, kind)]))
    return [NULL if gone else cell for gone, cell in zip(nulls.tolist(), cells, strict=True)]


def _numbers(values: NDArray[np.float64] | None) -> Piece:
    return NULL if values is None else _nullable(np.isnan(values), values, _F8)


def _words(values: Objects | None) -> Piece:
    """Text of few distinct values; None is NULL."""
    if values is None:
        return NULL
    listed = values.tolist()
    distinct = set(listed)
    cells = {v: NULL if v is None else _word(str(v)) for v in distinct}
    if len(cells) == 1:
        return next(iter(cells.values()))
    return [cells[v] for v in listed]


@lru_cache(1024)
def _word(text: str) -> bytes:
    return _cell(text)


def _cells(texts: Sequence[str]) -> Piece:
    """Text that differs from row to row; of one length in all of them it is laid like a number."""
    data = list(map(str.encode, texts))
    if len(set(map(len, data))) == 1:
        return _fixed(_bytes_of(data), _BYTE)
    return _varying(data)


def _varying(data: Iterable[bytes]) -> Sequence[bytes]:
    return [_length(len(text)) + text for text in data]


def _bytes_of(data: Sequence[bytes]) -> NDArray[np.uint8]:
    """Texts of one length as (n, length) bytes."""
    return np.frombuffer(b"".join(data), np.uint8).reshape(len(data), -1)


@lru_cache(1024)
def _array_head(oid: int, size: int, *, has_null: bool = False) -> bytes:
    head = struct.pack(">iii", int(size > 0), int(has_null), oid)
    return head + struct.pack(">ii", size, 1) if size else head


@lru_cache(256)
def _blank_array(oid: int, size: int, itemsize: int) -> bytes:
    return _value(_array_head(oid, size) + _blank(itemsize) * size)


def _array(values: NDArray[Any], nulls: Bools | None, kind: np.dtype[Any], oid: int) -> Piece:
    """One array a row; NULL elements have length -1 and no bytes."""
    n, k = values.shape
    size = kind.itemsize
    cell = _blank_array(oid, k, size)
    if not k:
        return cell
    whole = _Fixed(cell, len(cell) - k * (4 + size) + 4, 4 + size, values, kind)
    if nulls is None:
        return whole
    holed = nulls.any(axis=1)
    if not holed.any():
        return whole
    cells = _slices(*_block(n, [whole]))
    with_null = _array_head(oid, k, has_null=True)
    places = np.flatnonzero(holed)
    body, ends = _without(nulls[places], _block(len(places), [replace(whole, values=values[places])])[0], size)
    start = 0
    for place, end in zip(places.tolist(), ends, strict=True):
        cells[place] = _length(len(with_null) + end - start) + with_null + body[start:end]
        start = end
    return cells


def _without(nulls: Bools, block: bytearray, size: int) -> tuple[bytes, list[int]]:
    """The elements of rows of array cells with the null ones as bare lengths, and where each row ends."""
    n, k = nulls.shape
    elements = np.frombuffer(block, np.uint8).reshape(n, -1)[:, -k * (4 + size) :].reshape(n, k, 4 + size)
    elements[nulls, :4] = np.frombuffer(NULL, np.uint8)
    keep = np.ones(elements.shape, bool)
    keep[nulls, 4:] = False
    lengths = k * (4 + size) - nulls.sum(axis=1) * size
    return elements[keep].tobytes(), np.cumsum(lengths).tolist()


def _text_arrays(texts: Objects) -> Sequence[Piece]:
    k = texts.shape[1]
    if not k:
        return [_value(_array_head(_TEXT, 0))]
    columns = texts.T.tolist()
    if any(None in column for column in columns):
        return [_holed_text_arrays(columns)]
    head = _array_head(_TEXT, k)
    data = [list(map(str.encode, column)) for column in columns]
    if all(len(set(map(len, column))) == 1 for column in data):
        widths = [len(column[0]) for column in data]
        before = _length(len(head) + sum(4 + width for width in widths)) + head
        return [before, *(_fixed(_bytes_of(column), _BYTE) for column in data)]
    bodies = _varying(data[0]) if k == 1 else list(map(b"".join, zip(*map(_varying, data), strict=True)))
    return [[_length(len(head) + len(body)) + head + body for body in bodies]]


def _holed_text_arrays(columns: Sequence[Sequence[str | None]]) -> Sequence[bytes]:
    whole, holed = (_array_head(_TEXT, len(columns), has_null=has_null) for has_null in (False, True))
    cells = [[NULL if v is None else _cell(v) for v in column] for column in columns]
    return [
        _length(len(whole) + len(body)) + (holed if None in row else whole) + body
        for row, body in zip(zip(*columns, strict=True), map(b"".join, zip(*cells, strict=True)), strict=True)
    ]


def _reasons(reasons: Reasons | None) -> tuple[Piece, Piece]:
    if reasons is None or not reasons.present.any():
        return NULL, NULL
    n, present = len(reasons.present), reasons.present
    both: list[Piece] = []
    for values, kind, oid in ((reasons.fields, _I2, _INT2), (reasons.values, _F4, _FLOAT4)):
        whole = _array(values, None, kind, oid)
        assert isinstance(whole, _Fixed)  # no null elements and at least one a row
        cells = _slices(*_block(n, [whole]))
        both.append([cell if there else NULL for there, cell in zip(present.tolist(), cells, strict=True)])
    return both[0], both[1]
