"""Prediction ids: a function of where an instance came from, never of what answered it.

A UUID of version 8 (RFC 9562, section 5.8), most significant bits first:

====  =====================================================================
bits  content
====  =====================================================================
32    hash of (deployment, role, source): rows of one source lie together
16    high half of the ordinal, where the key is a number below 2^32
4     version, 8
12    next 12 bits of the ordinal
2     variant, binary 10
62    hash of (deployment, role, source, key)
====  =====================================================================

The last four bits of an ordinal are left to the hash: ids of sixteen consecutive rows are
neighbours in the index in any order. Keys that are no numbers have hash bits there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Role


def prediction_ids(deployment_id: int, role: Role, source: str, keys: Sequence[str]) -> NDArray[np.uint8]:
    """Ids (n, 16) uint8, big-endian, of the rows with the given keys."""
    base, fixed = _of_source(deployment_id, role, source)
    hashes = bytearray()
    for key in keys:
        one = base.copy()
        one.update(key.encode())
        hashes += one.digest()
    ids = np.frombuffer(hashes, np.uint8).reshape(len(keys), 16)
    numbered = [key.isascii() and key.isdigit() and len(key) <= 9 for key in keys]
    if any(numbered):
        _put_ordinals(ids, keys, np.array(numbered, bool))
    ids &= _HASHED
    ids |= fixed
    return ids


_HASHED = np.frombuffer(bytes.fromhex("00000000ffff0fff3fffffffffffffff"), np.uint8)  # bits left to hash and ordinal


@lru_cache(1024)
def _of_source(deployment_id: int, role: Role, source: str) -> tuple[Any, NDArray[np.uint8]]:
    """The hash that every key of a source goes on with, and the bits that are the same in all of its ids."""
    scope = f"{deployment_id}\x00{role}\x00{source}\x00".encode()
    seed = hashlib.blake2b(scope, digest_size=4).digest()
    fixed = seed + bytes.fromhex("0000 8000 8000 0000 0000 0000")
    return hashlib.blake2b(scope, digest_size=16), np.frombuffer(fixed, np.uint8)


def _put_ordinals(ids: NDArray[np.uint8], keys: Sequence[str], numbered: NDArray[np.bool_]) -> None:
    """28 bits of the ordinal: 16 before the version nibble, 12 behind it."""
    ordinals = np.array([int(key) for key, number in zip(keys, numbered, strict=True) if number], np.uint32)
    place = (ordinals >> 4).astype(">u4").view(np.uint8).reshape(-1, 4)
    ids[numbered, 4:6] = (ordinals >> 16).astype(">u2").view(np.uint8).reshape(-1, 2)
    ids[numbered, 6] = place[:, 2]
    ids[numbered, 7] = place[:, 3]
