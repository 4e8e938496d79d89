"""Taking a contract's plain values apart: every key is known, and is what it must be."""

from __future__ import annotations

import re
from dataclasses import MISSING
from typing import Any

from trueup.errors import ContractError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,54}\Z")


def identifier(value: Any, where: str) -> str:
    """The value if it can name a field, a label or a contract. Raises ContractError."""
    if not isinstance(value, str) or not _NAME.match(value):
        raise ContractError(f"{where}: a name is a-z, 0-9 and _, begins with a letter, and has at most 55 characters")
    return value


def one_of(kind: Any, value: str, where: str) -> Any:
    """The value as a member of the enumeration ``kind``. Raises ContractError."""
    try:
        return kind(value)
    except ValueError:
        raise ContractError(f"{where}: one of {', '.join(kind)} is needed") from None


class Keys:
    """Takes keys out of a mapping one by one; what is left over at the end is a fault."""

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, dict):
            raise ContractError(f"{where}: a mapping is needed")
        self._left = dict(raw)
        self._where = where

    def take(self, key: str, kind: Any, default: Any = MISSING) -> Any:
        """The value under the key. Raises ContractError where it is missing or of another type than ``kind``."""
        value = self._left.pop(key, default)
        if value is MISSING:
            raise ContractError(f"{self._where}.{key}: is missing")
        if value is default:
            return value
        wrong_bool = isinstance(value, bool) and kind not in (bool, object)
        if not isinstance(value, kind) or wrong_bool:
            names = kind.__name__ if isinstance(kind, type) else "number"
            raise ContractError(f"{self._where}.{key}: a {names} is needed")
        return value

    def done(self) -> None:
        """Raises ContractError where a key is left that nobody took."""
        if self._left:
            raise ContractError(f"{self._where}: unknown key {sorted(map(str, self._left))[0]!r}")
