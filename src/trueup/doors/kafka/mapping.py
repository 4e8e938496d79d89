"""Which part of a record becomes which field of the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from trueup.contracts.each import ABSENT
from trueup.domain.contract import Contract
from trueup.domain.stream import Stream
from trueup.doors.kafka.formats.message import Message
from trueup.doors.kafka.paths import Path, Place, follow
from trueup.errors import InvalidInput

Words = tuple[str, ...]
_Group = tuple[Words, Words, Words, Callable[[Any], tuple[Any, ...]] | None]  # above, names, keys, how to pick all


class FieldMap:
    """The declared fields and their paths. Raises InvalidInput where they do not fit the contract."""

    def __init__(self, stream: Stream, contract: Contract, instances: Path) -> None:
        _check(stream, contract)
        self.places = {name: Place(text, instances) for name, text in stream.fields}
        self._groups: list[_Group] = []
        self._outside = [(name, p.path) for name, p in self.places.items() if p.within is None]
        self._itself = [name for name, p in self.places.items() if p.within == ()]
        grouped: dict[Words, list[tuple[str, str]]] = {}
        for name, place in self.places.items():
            if place.within:
                grouped.setdefault(place.within[:-1], []).append((name, place.within[-1]))
        for above, pairs in grouped.items():
            names, keys = tuple(name for name, _ in pairs), tuple(key for _, key in pairs)
            self._groups.append((above, names, keys, itemgetter(*keys) if len(keys) > 1 else None))

    def row(self, instance: Any, message: Message) -> Any:
        """The fields of an instance; what should be an object and is none stays as it is, and breaks the contract."""
        if self._groups and not isinstance(instance, Mapping):
            return instance
        row: dict[str, Any] = dict.fromkeys(self._itself, instance)
        for above, names, keys, pick in self._groups:
            inside = follow(instance, above)
            if pick is not None and type(inside) is dict:
                try:
                    row.update(zip(names, pick(inside), strict=True))
                    continue
                except KeyError:
                    pass
            _add(row, ((name, follow(inside, (key,))) for name, key in zip(names, keys, strict=True)))
        _add(row, ((name, path.of(message)) for name, path in self._outside))
        return row


def _add(row: dict[str, Any], found: Any) -> None:
    row.update((name, value) for name, value in found if value is not ABSENT)


def _check(stream: Stream, contract: Contract) -> None:
    names = [name for name, _ in stream.fields]
    if set(names) - set(contract.by_name) or len(set(names)) != len(names):
        raise InvalidInput("a stream maps fields of the contract, each once", next_step="see `trueup contract show`")
    missing = [f.name for f in contract.fields if not f.nullable and f.name not in names]
    if names and missing:
        raise InvalidInput(f"the stream maps no path to {', '.join(missing[:20])}", next_step="map every field")
