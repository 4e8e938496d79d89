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

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Role


def prediction_ids(deployment_id: int, role: Role, source: str, keys: Sequence[str]) -> NDArray[np.uint8]:
    """Ids (n, 16) uint8, big-endian, of the rows with the given keys."""
    scope = f"{deployment_id}\x00{role}\x00{source}\x00".encode()
    seed = hashlib.blake2b(scope, digest_size=4).digest()
    base = hashlib.blake2b(scope, digest_size=16)
    hashes = bytearray()
    for key in keys:
        one = base.copy()
        one.update(key.encode())
        hashes += one.digest()
    ids = np.frombuffer(hashes, np.uint8).reshape(len(keys), 16).copy()
    ids[:, :4] = np.frombuffer(seed, np.uint8)
    ordinals, numbered = _ordinals(keys)
    place = (ordinals >> 4).astype(">u4").view(np.uint8).reshape(-1, 4)
    # 28 bits of the ordinal: 16 before the version nibble, 12 behind it.
    shifted = (ordinals >> 16).astype(">u2").view(np.uint8).reshape(-1, 2)
    ids[numbered, 4:6] = shifted[numbered]
    ids[numbered, 6] = place[numbered, 2] & 0x0F
    ids[numbered, 7] = place[numbered, 3]
    ids[:, 6] = (ids[:, 6] & 0x0F) | 0x80
    ids[:, 8] = (ids[:, 8] & 0x3F) | 0x80
    return ids


def _ordinals(keys: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    numbered = [key.isascii() and key.isdigit() and len(key) <= 9 for key in keys]
    ordinals = [int(key) if number else 0 for key, number in zip(keys, numbered, strict=True)]
    return np.array(ordinals, np.uint32), np.array(numbered, bool)
