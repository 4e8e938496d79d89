"""Plain values -> how a deployment answers. A key that is not known is refused: nobody would hear what it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import msgspec

from trueup.domain.deployment import Serving

_SHOWN = 60  # characters of a key that are repeated


class UnknownKey(ValueError):
    """A key that means nothing where it stands. ``key`` is the caller's own text; ``hint`` and ``place`` are ours."""

    def __init__(self, place: str, key: str, known: list[str]) -> None:
        near = get_close_matches(key.lower().replace("-", "_"), known, 1)
        self.place = place or "the top"
        self.key = key[:_SHOWN]
        self.hint = f"{near[0]} is one" if near else f"there may be {', '.join(known)}"
        super().__init__(f"{self.key!r} is no key at {self.place}; {self.hint}")


def serving_of(document: Any) -> Serving:
    """How a deployment answers. The fields of streams are pairs, or a mapping as files have it.

    Raises UnknownKey, msgspec.ValidationError.
    """
    paired = _paired(document)
    for unknown in _unknown(paired, msgspec.inspect.type_info(Serving), ""):
        raise unknown
    return msgspec.convert(paired, Serving, strict=True)


def _unknown(value: Any, kind: msgspec.inspect.Type, place: str) -> Iterator[UnknownKey]:
    """msgspec passes over keys that a dataclass does not have."""
    if isinstance(kind, msgspec.inspect.UnionType):
        for one in kind.types:
            yield from _unknown(value, one, place)
    elif isinstance(kind, msgspec.inspect.DictType) and isinstance(value, dict):
        for one in value.values():
            yield from _unknown(one, kind.value_type, place)
    elif isinstance(kind, msgspec.inspect.DataclassType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        for key, one in value.items():
            if key not in fields:
                yield UnknownKey(place, str(key), list(fields))
            else:
                yield from _unknown(one, fields[key], f"{place}.{key}" if place else key)


def _paired(document: Any) -> Any:
    """The fields of streams as pairs; a file names them as a mapping."""
    if not isinstance(document, dict):
        return document
    found = dict(document)
    for name in ("stream", "outcomes"):
        declared = found.get(name)
        if isinstance(declared, dict) and isinstance(declared.get("fields"), dict):
            found[name] = {**declared, "fields": list(declared["fields"].items())}
    return found
