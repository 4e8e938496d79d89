"""Rows of PostgreSQL's binary COPY as arrays, without touching them one by one.

Every row is one message: a count of fields, and for each its length and bytes, big-endian. All columns but the last
have one width (a null is turned into a value by the query). The last may be an array of doubles: without nulls it has
one width too, so all such rows lie in memory as one strided block; rows with nulls are read element by element,
each element of all of them at once. Reference: PostgreSQL documentation, COPY, "Binary Format"; array layout from
``array_send``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import pq

from trueup.domain.batch import Floats

_HEADER = struct.pack(">11s", b"PGCOPY\n\xff\r\n\x00")
_TRAILER = struct.pack(">h", -1)
_HEADER_BYTES, _ARRAY_HEAD = len(_HEADER) + 8, 20  # of an array: dimensions, flags, type, length, lower bound
_KINDS = {"int": ">i4", "long": ">i8", "float": ">f8"}


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Columns by name (n,), and the array of doubles (n, k) with NaN where null, (n, 0) where there is none."""

    columns: dict[str, NDArray[Any]]
    floats: Floats

    def __len__(self) -> int:
        return int(self.floats.shape[0])


@dataclass(slots=True, eq=False)
class Gathered:
    """Rows as they were sent: those of the one width side by side, those with nulls in their array by themselves."""

    whole: bytearray = field(default_factory=bytearray)
    holed: list[bytes] = field(default_factory=list)


class Layout:
    """What a query's rows look like: ``columns`` of (name, ``int`` | ``long`` | ``float``), then ``width`` doubles
    in one array, or none where it is 0."""

    def __init__(self, columns: Sequence[tuple[str, str]], width: int = 0) -> None:
        self.columns, self.width = columns, width
        parts: list[tuple[str, str]] = [("_count", ">i2")]
        for name, kind in columns:
            parts += [(f"_length_{name}", ">i4"), (name, _KINDS[kind])]
        self._fixed = np.dtype(parts)
        whole = [*parts, ("_array", f"V{4 + _ARRAY_HEAD}")]
        element = np.dtype([("length", ">i4"), ("value", ">f8")])
        self._whole = np.dtype([*whole, ("_elements", element, (width,))]) if width else self._fixed

    @property
    def size(self) -> int:
        """Bytes of a row without nulls."""
        return self._whole.itemsize

    def read(self, gathered: Gathered) -> Rows:
        """The rows as arrays. What has no nulls comes first, whatever the order was."""
        whole = np.frombuffer(gathered.whole, self._whole)
        if not self.width:
            return Rows(self._columns(whole), np.zeros((len(whole), 0)))
        found = Rows(self._columns(whole), whole["_elements"]["value"].astype(np.float64))
        return _joined(found, self._with_nulls(gathered.holed)) if gathered.holed else found

    def _columns(self, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {name: rows[name].astype(rows[name].dtype.newbyteorder("=")) for name, _ in self.columns}

    def _with_nulls(self, rows: Sequence[bytes]) -> Rows:
        n, fixed = len(rows), self._fixed.itemsize
        flat = np.frombuffer(b"".join([*rows, bytes(12)]), np.uint8)
        starts = np.cumsum([0, *map(len, rows)])[:-1]
        head = flat[starts[:, None] + np.arange(fixed)].view(self._fixed)[:, 0]
        floats = np.full((n, self.width), np.nan)
        at = starts + fixed + 4 + _ARRAY_HEAD
        for place in range(self.width):
            element = flat[at[:, None] + np.arange(12)]
            is_null = element[:, 0] == 0xFF  # a length of -1
            floats[:, place] = np.where(is_null, np.nan, np.ascontiguousarray(element[:, 4:]).view(">f8")[:, 0])
            at = at + np.where(is_null, 4, 12)
        return Rows(self._columns(head), floats)


def gathered(copy: psycopg.Copy, layout: Layout, rows: int) -> Iterator[Gathered]:
    """The rows of a COPY, at most ``rows`` at a time, without header and trailer.

    What has arrived is taken from libpq at once, and laid side by side: the driver's own way, which may wait, and an
    object a row that lives on cost more than all that is done with the rows.
    """
    connection = copy.connection.pgconn
    take, size, trailer = connection.get_copy_data, layout.size, len(_TRAILER)
    found = Gathered()
    n = 0
    message: Any = copy.read()[_HEADER_BYTES:]  # the header comes with the first row
    length = len(message)
    while True:
        if length == size:
            found.whole += message
            n += 1
        elif length > trailer:
            found.holed.append(bytes(message))
            n += 1
        if n == rows:
            yield found
            found, n = Gathered(), 0
        length, message = take(1)
        if not length:  # nothing has arrived yet: wait
            message = copy.read()
            length = len(message)
        if length <= 0 or not message:
            break
    if length < 0:
        _check(connection)
    if n:
        yield found


def _check(connection: pq.abc.PGconn) -> None:
    """Takes the result at the end of the rows. Raises what the server refused."""
    result = connection.get_result()
    while (more := connection.get_result()) is not None:
        result = more
    if result is None or result.status != pq.ExecStatus.COMMAND_OK:
        raise (
            psycopg.OperationalError("the server closed the connection")
            if result is None
            else (psycopg.errors.error_from_result(result))
        )


def _joined(a: Rows, b: Rows) -> Rows:
    columns = {name: np.concatenate([a.columns[name], b.columns[name]]) for name in a.columns}
    return Rows(columns, np.concatenate([a.floats, b.floats]))
