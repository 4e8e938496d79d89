"""What an instance is about (business key) and what it says (content digest)."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Columns
from trueup.domain.contract import FieldType, Storage

DIGEST_BYTES = 16
_encode = msgspec.json.Encoder().encode


def business_keys(columns: Columns) -> list[str]:
    """The join-key values of each row, joined by ``|`` (``\\`` escapes both), in contract order.

    Dates are ISO days, timestamps ISO instants in UTC. Without key fields every key is empty.
    """
    names = columns.contract.business_key
    if not names:
        return [""] * len(columns)
    parts = [_key_texts(columns, name) for name in names]
    return parts[0] if len(parts) == 1 else ["|".join(row) for row in zip(*parts, strict=True)]


def _key_texts(columns: Columns, name: str) -> list[str]:
    f = columns.contract.by_name[name]
    values = columns.column(name)
    if f.storage is Storage.TEXTS:
        texts: list[str] = values.tolist()
    elif f.type is FieldType.DATE:
        texts = np.datetime_as_string(values.astype("datetime64[D]")).tolist()
    elif f.type is FieldType.TIMESTAMP:
        texts = [f"{t}Z" for t in np.datetime_as_string(values.astype("datetime64[us]")).tolist()]
    else:
        texts = [str(v) for v in values.tolist()]
    joined = "".join(set(texts))
    if "|" in joined or "\\" in joined:
        return [t.replace("\\", "\\\\").replace("|", "\\|") for t in texts]
    return texts


def content_digests(columns: Columns) -> list[bytes]:
    """BLAKE2b, 16 bytes a row, over every value and null in field-name order.

    -0.0 and 0.0 are one value, and so are all NaNs. Two contracts that hold the same fields
    in another order give the same digest.
    """
    n = len(columns)
    order = columns.contract.by_field_name
    fixed = _fixed_bytes(columns, order[Storage.FLOATS], order[Storage.INTS])
    width = fixed.shape[1]
    heads = fixed.tobytes()
    blake = hashlib.blake2b
    if not order[Storage.TEXTS]:
        return [
            blake(heads[at : at + width], digest_size=DIGEST_BYTES).digest() for at in range(0, n * width, width or 1)
        ]
    # Column by column: a list a row would wake the garbage collector.
    texts = zip(*(columns.texts[:, place].tolist() for place in order[Storage.TEXTS]), strict=True)
    return [
        blake(heads[i * width : (i + 1) * width] + _encode(row), digest_size=DIGEST_BYTES).digest()
        for i, row in enumerate(texts)
    ]


def _fixed_bytes(columns: Columns, floats: list[int], ints: list[int]) -> NDArray[np.uint8]:
    """Numbers little-endian, then a byte for each of them: whether it is null."""
    n, f, i = len(columns), len(floats), len(ints)
    numbers = 8 * (f + i)
    out = np.zeros((n, numbers + f + i), np.uint8)
    if f:
        values = columns.floats.take(floats, axis=1)
        values += 0.0
        nan = np.isnan(values)
        if nan.any():
            values[nan] = np.nan
        out[:, : 8 * f] = values.astype("<f8", copy=False).view(np.uint8)
    if i:
        out[:, 8 * f : numbers] = columns.ints.take(ints, axis=1).astype("<i8", copy=False).view(np.uint8)
    if columns.float_nulls is not None:
        out[:, numbers : numbers + f] = columns.float_nulls[:, floats]
    if columns.int_nulls is not None:
        out[:, numbers + f :] = columns.int_nulls[:, ints]
    return out
