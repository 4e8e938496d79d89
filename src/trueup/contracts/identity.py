"""What an instance is about (business key) and what it says (content digest)."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Bools, Columns
from trueup.domain.contract import FieldType, Storage

DIGEST_BYTES = 16


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
    order = {s: [] for s in Storage}  # type: dict[Storage, list[int]]
    for name in sorted(columns.contract.by_name):
        storage, place = columns.contract.slots[name]
        order[storage].append(place)
    fixed = np.hstack(
        [
            _bytes(_canonical_floats(columns, order[Storage.FLOATS])),
            _bytes(columns.ints[:, order[Storage.INTS]]),
            _null_bytes(columns.float_nulls, order[Storage.FLOATS], n),
            _null_bytes(columns.int_nulls, order[Storage.INTS], n),
        ]
    )
    width = fixed.shape[1]
    heads = fixed.tobytes()
    blake = hashlib.blake2b
    if not order[Storage.TEXTS]:
        return [
            blake(heads[at : at + width], digest_size=DIGEST_BYTES).digest() for at in range(0, n * width, width or 1)
        ]
    encode = msgspec.json.Encoder().encode
    # Column by column: a list a row would wake the garbage collector.
    texts = zip(*(columns.texts[:, place].tolist() for place in order[Storage.TEXTS]), strict=True)
    return [
        blake(heads[i * width : (i + 1) * width] + encode(row), digest_size=DIGEST_BYTES).digest()
        for i, row in enumerate(texts)
    ]


def _canonical_floats(columns: Columns, order: list[int]) -> NDArray[np.float64]:
    floats = columns.floats[:, order] + 0.0
    floats[np.isnan(floats)] = np.nan
    return floats


def _bytes(block: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.uint8]:
    little = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(len(block), block.shape[1] * 8)


def _null_bytes(mask: Bools | None, order: list[int], n: int) -> NDArray[np.uint8]:
    if mask is None:
        return np.zeros((n, len(order)), np.uint8)
    return mask[:, order].astype(np.uint8)
