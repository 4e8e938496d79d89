"""JSON read straight into the contract's types: only what the stream's paths name, in one pass.

What a value holds beside is skipped. A value that does not fit is read in the general way, which says what is
wrong with it; whether a value fits is told by itself alone, whatever it is read with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec

from trueup.contracts.decoding import JSON_TYPES
from trueup.contracts.values import EXACT_IN_DOUBLE
from trueup.domain.contract import Contract
from trueup.domain.contract import Field as ContractField
from trueup.doors.kafka.paths import Path

ID, TIME = "\x00id", "\x00time"  # beside the fields; no field has such a name
_ERRORS = (msgspec.DecodeError, OverflowError, RecursionError, UnicodeError, ArithmeticError)


@dataclass(slots=True)
class _Node:
    """An object of the value: its members are objects again, or wanted under names."""

    inside: dict[str, _Node] = field(default_factory=dict)
    leaves: dict[str, tuple[tuple[Any, ...], list[str]]] = field(default_factory=dict)
    closed: bool = False
    columns: list[list[str] | _Node] = field(default_factory=list)

    def kind(self) -> Any:
        """The struct that reads it; fields in its order are what ``columns`` says."""
        members: list[tuple[str, tuple[Any, ...], list[str] | _Node]] = [
            (word, (node.kind(),), node) for word, node in self.inside.items()
        ]
        members += [(word, kind, names) for word, (kind, names) in self.leaves.items()]
        members.sort(key=lambda m: len(m[1]))  # those with a default last
        self.columns = [wanted for _, _, wanted in members]
        return msgspec.defstruct(
            "Part",
            [(f"m{i}", *kind) for i, (_, kind, _) in enumerate(members)],
            rename={f"m{i}": word for i, (word, _, _) in enumerate(members)},
            forbid_unknown_fields=self.closed,
            gc=False,
        )

    def fill(self, parts: Sequence[Any], out: dict[str, Sequence[Any]]) -> None:
        """The members of all parts, column by column."""
        for i, wanted in enumerate(self.columns):
            values = list(map(attrgetter(f"m{i}"), parts))
            if isinstance(wanted, _Node):
                wanted.fill(values, out)
            else:
                out.update(dict.fromkeys(wanted, values))


class Typed:
    """Reads values of one instance each, under ``paths`` by the name of what lies there."""

    def __init__(self, top: _Node) -> None:
        self._top = top
        self._decode = msgspec.json.Decoder(top.kind()).decode

    def columns(self, values: Sequence[bytes]) -> dict[str, Sequence[Any]] | None:
        """All values' parts by name; None where any value does not fit.

        A double beyond the whole numbers that doubles hold may have been one of them; the caller looks for those.
        """
        out: dict[str, Sequence[Any]] = {}
        try:
            self._top.fill(list(map(self._decode, values)), out)
        except _ERRORS:
            return None
        return out

    def row(self, value: bytes) -> dict[str, Any] | None:
        """One value's parts by name; None where it does not fit."""
        columns = self.columns([value])
        if columns is None or any(type(v[0]) is float and abs(v[0]) >= EXACT_IN_DOUBLE for v in columns.values()):
            return None
        return {name: values[0] for name, values in columns.items()}


def typed(contract: Contract, paths: dict[str, Path], closed: Path | None) -> Typed | None:
    """``closed`` is an object that may hold nothing else. None where the paths cannot be read so."""
    top = _Node()
    for name, path in paths.items():
        if path.root != "value" or not path.words or any(word.isdigit() for word in path.words):
            return None
        kind = _kind(contract.by_name.get(name))
        if not _placed(top, path.words, name, kind):
            return None
    if closed is not None:
        node = _at(top, closed.words)
        if node is None:
            return None
        node.closed = True
    return Typed(top)


def _kind(f: ContractField | None) -> tuple[Any, ...]:
    if f is None:
        return (Any,)
    return (JSON_TYPES[f.type] | None, None) if f.nullable else (JSON_TYPES[f.type],)


def _placed(top: _Node, words: tuple[str, ...], name: str, kind: tuple[Any, ...]) -> bool:
    """Adds what is wanted there; false where it overlaps with something else."""
    node = top
    for word in words[:-1]:
        if word in node.leaves:
            return False
        node = node.inside.setdefault(word, _Node())
    last = words[-1]
    if last in node.inside:
        return False
    if last not in node.leaves:
        node.leaves[last] = (kind, [name])
        return True
    known, names = node.leaves[last]
    names.append(name)
    return known == kind or kind == (Any,)


def _at(top: _Node, words: tuple[str, ...]) -> _Node | None:
    node: _Node | None = top
    for word in words:
        node = node.inside.get(word) if node is not None else None
    return node
