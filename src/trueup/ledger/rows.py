"""A batch as PostgreSQL's binary COPY format, built column by column.

The format: a header; for each row the number of fields (int16) and for each field its
length (int32, -1 for NULL) and bytes, all big-endian; a trailer. Columns of equal length
in every row become byte matrices; only what varies is touched row by row.
Reference: PostgreSQL documentation, COPY, "Binary Format"; array layout from ``array_send``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Booking, Bools, Objects, Reasons, Scored

HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
NULL = struct.pack(">i", -1)

COLUMNS = (
    *("prediction_id", "event_day", "event_time", "deployment_id", "model_version_id", "contract_id", "batch_id"),
    *("role", "channel", "source", "content_digest", "received_at", "steps_us", "due_day", "floats", "ints", "score"),
    *("expected_cost", "status", "decision", "class", "source_key", "business_key", "texts", "outputs"),
    *("reason_fields", "reason_values"),
)

_EPOCH_DAY = np.datetime64("2000-01-01", "D")
_EPOCH = np.datetime64("2000-01-01T00:00:00", "us")
_FLOAT8, _INT8, _TEXT, _INT4, _INT2, _FLOAT4 = 701, 20, 25, 23, 21, 700

_LENGTHS = tuple(struct.pack(">i", n) for n in range(1024))  # most texts are short

Matrix = NDArray[np.uint8]
Piece = bytes | Matrix | list[bytes]  # same in every row | same length in every row | anything


def packed(booking: Booking, scored: Scored, ids: Matrix, batch_id: int, rows: NDArray[np.intp] | None = None) -> bytes:
    """The rows of one version, without header and trailer. ``rows`` picks some of the batch."""
    part = booking if rows is None else _part(booking, rows)
    answers = scored.answers if rows is None else taken(scored.answers, rows)
    chosen = ids if rows is None else ids[rows]
    n = len(chosen)
    days = part.event_time.astype("datetime64[D]")
    columns = part.columns
    return _joined(
        n,
        [
            struct.pack(">h", len(COLUMNS)),
            _fixed(chosen),
            _fixed((days - _EPOCH_DAY).astype(">i4")),
            _fixed((part.event_time.astype("datetime64[us]") - _EPOCH).astype(np.int64).astype(">i8")),
            _value(struct.pack(">i", part.deployment_id)),
            _value(struct.pack(">i", scored.model_version_id)),
            _value(struct.pack(">i", part.contract_id)),
            _value(struct.pack(">q", batch_id)),
            _value(scored.role.encode()),
            _value(part.source.channel.encode()),
            _value(part.source.name.encode()),
            _fixed(np.frombuffer(b"".join(part.digests), np.uint8).reshape(n, 16)),
            _value(struct.pack(">q", _moment(part.received_at))),
            _value(
                _array_head(1, _INT4, 4) + b"".join(struct.pack(">ii", 4, min(s, 2**31 - 1)) for s in part.steps_us)
            ),
            _nullable(np.isnat(part.due_day), (part.due_day.astype("datetime64[D]") - _EPOCH_DAY).astype(">i4")),
            _array(columns.floats.astype(">f8"), columns.float_nulls, _FLOAT8),
            _array(columns.ints.astype(">i8"), columns.int_nulls, _INT8),
            _nullable(np.isnan(answers.score), answers.score.astype(">f8")),
            _nullable_or_null(answers.expected_cost, n),
            _words(answers.status),
            NULL if answers.decision is None else _words(answers.decision),
            NULL if answers.classes is None else _words(answers.classes),
            [_cell(key) for key in part.source.keys],
            [_cell(key) for key in part.business_keys],
            _text_arrays(columns.texts),
            NULL if answers.outputs is None else _array(answers.outputs.astype(">f8"), None, _FLOAT8),
            *_reasons(answers.reasons),
        ],
    )


def taken(answers: Any, rows: NDArray[np.intp]) -> Any:
    """The named rows of Answers (or of any record of arrays with one row each)."""
    changes = {}
    for name in answers.__dataclass_fields__:
        value = getattr(answers, name)
        if isinstance(value, Reasons):
            changes[name] = taken(value, rows)
        else:
            changes[name] = None if value is None else value[rows]
    return type(answers)(**changes)


def _part(booking: Booking, rows: NDArray[np.intp]) -> Booking:
    from dataclasses import replace

    picked = rows.tolist()
    return replace(
        booking,
        source=replace(booking.source, keys=[booking.source.keys[i] for i in picked]),
        columns=booking.columns.take(rows),
        digests=[booking.digests[i] for i in picked],
        business_keys=[booking.business_keys[i] for i in picked],
        event_time=booking.event_time[rows],
        due_day=booking.due_day[rows],
    )


def _joined(n: int, pieces: Sequence[Piece]) -> bytes:
    """Rows of all pieces, merging neighbours of fixed length into one matrix first."""
    merged: list[Matrix | list[bytes]] = []
    run: list[Matrix] = []
    for piece in pieces:
        if isinstance(piece, list):
            if run:
                merged.append(np.hstack(run))
                run = []
            merged.append(piece)
        else:
            run.append(
                np.broadcast_to(np.frombuffer(piece, np.uint8), (n, len(piece))) if isinstance(piece, bytes) else piece
            )
    if run:
        merged.append(np.hstack(run))
    if len(merged) == 1 and isinstance(merged[0], np.ndarray):
        return merged[0].tobytes()
    sliced = [m if isinstance(m, list) else _slices(m) for m in merged]
    return b"".join(chain.from_iterable(zip(*sliced, strict=True)))


def _slices(matrix: Matrix) -> list[bytes]:
    raw, width = matrix.tobytes(), matrix.shape[1]
    return [raw[at : at + width] for at in range(0, len(raw), width)]


def _value(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def _cell(text: str) -> bytes:
    data = text.encode()
    return _length(len(data)) + data


def _length(n: int) -> bytes:
    return _LENGTHS[n] if n < len(_LENGTHS) else struct.pack(">i", n)


def _bytes_of(values: NDArray[Any]) -> Matrix:
    flat = np.ascontiguousarray(values)
    width = flat.dtype.itemsize * (flat.shape[1] if flat.ndim > 1 else 1)
    return flat.view(np.uint8).reshape(len(flat), width)


def _fixed(values: NDArray[Any]) -> Matrix:
    data = _bytes_of(values)
    length = np.frombuffer(struct.pack(">i", data.shape[1]), np.uint8)
    return np.hstack([np.broadcast_to(length, (len(data), 4)), data])


def _nullable(nulls: Bools, values: NDArray[Any]) -> Piece:
    if not nulls.any():
        return _fixed(values)
    if nulls.all():
        return NULL
    return [NULL if gone else cell for gone, cell in zip(nulls.tolist(), _slices(_fixed(values)), strict=True)]


def _nullable_or_null(values: NDArray[np.float64] | None, n: int) -> Piece:
    return NULL if values is None or not n else _nullable(np.isnan(values), values.astype(">f8"))


def _words(values: Objects) -> Piece:
    """Text of few distinct values; None is NULL."""
    listed = values.tolist()
    cells = {v: NULL if v is None else _cell(str(v)) for v in set(listed)}
    if len(cells) == 1:
        return next(iter(cells.values()))
    return [cells[v] for v in listed]


def _array_head(dimensions: int, oid: int, size: int, *, has_null: bool = False) -> bytes:
    head = struct.pack(">iii", dimensions, int(has_null), oid)
    return head + struct.pack(">ii", size, 1) if dimensions else head


def _array(block: NDArray[Any], nulls: Bools | None, oid: int) -> Piece:
    """One array a row; NULL elements have length -1 and no bytes."""
    n, k = block.shape
    if not k:
        return _value(_array_head(0, oid, 0))
    size = block.dtype.itemsize
    cells = np.empty((n, k, 4 + size), np.uint8)
    cells[:, :, :4] = np.frombuffer(struct.pack(">i", size), np.uint8)
    cells[:, :, 4:] = np.ascontiguousarray(block).view(np.uint8).reshape(n, k, size)
    body = cells.reshape(n, k * (4 + size))
    if nulls is None or not nulls.any():
        head = _array_head(1, oid, k)
        whole = np.frombuffer(struct.pack(">i", len(head) + body.shape[1]) + head, np.uint8)
        return np.hstack([np.broadcast_to(whole, (n, len(whole))), body])
    cells[nulls, :4] = np.frombuffer(NULL, np.uint8)
    keep = np.ones(cells.shape, bool)
    keep[nulls, 4:] = False
    kept = cells[keep].tobytes()
    ends = np.cumsum(keep.reshape(n, -1).sum(axis=1)).tolist()
    head = _array_head(1, oid, k, has_null=True)
    starts = [0, *ends[:-1]]
    return [
        struct.pack(">i", len(head) + end - start) + head + kept[start:end]
        for start, end in zip(starts, ends, strict=True)
    ]


def _text_arrays(texts: Objects) -> Piece:
    k = texts.shape[1]
    if not k:
        return _value(_array_head(0, _TEXT, 0))
    columns = [[NULL if v is None else _cell(v) for v in column] for column in texts.T.tolist()]
    bodies = map(b"".join, zip(*columns, strict=True))
    plain, with_null = _array_head(1, _TEXT, k), _array_head(1, _TEXT, k, has_null=True)
    holes = (texts == None).any(axis=1).tolist()  # noqa: E711 - element by element
    return [
        _length(20 + len(body)) + (with_null if hole else plain) + body
        for body, hole in zip(bodies, holes, strict=True)
    ]


def _reasons(reasons: Reasons | None) -> tuple[Piece, Piece]:
    if reasons is None or not reasons.present.any():
        return NULL, NULL
    absent = (~reasons.present).tolist()
    both: list[Piece] = []
    for block, oid in ((reasons.fields.astype(">i2"), _INT2), (reasons.values.astype(">f4"), _FLOAT4)):
        whole = _array(block, None, oid)
        assert isinstance(whole, np.ndarray)  # no null elements and at least one a row
        both.append([NULL if gone else cell for gone, cell in zip(absent, _slices(whole), strict=True)])
    return both[0], both[1]


def _moment(moment: datetime) -> int:
    since = moment.astimezone(UTC) - datetime(2000, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
