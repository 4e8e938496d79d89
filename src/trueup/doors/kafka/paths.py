"""Paths: where in a record something lies, as ``value.trade.legs``, ``key.account`` or ``headers.desk``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from trueup.contracts.each import ABSENT
from trueup.contracts.values import JsonNumber
from trueup.doors.kafka.formats.message import Message
from trueup.errors import InvalidInput

_ROOTS = ("value", "key", "headers")
_DEPTH = 32
_CHARS = 1_000
_PLACE = re.compile(r"[0-9]{1,6}\Z")
_JSON = msgspec.json.Decoder(float_hook=JsonNumber)


@dataclass(frozen=True, slots=True)
class Path:
    """A part of a record: ``root`` is value, key or headers, and ``words`` lead on from there."""

    root: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.root, *self.words))

    def below(self, other: Path) -> tuple[str, ...] | None:
        """The words that lead on from the other path; None where this one does not begin with it."""
        n = len(other.words)
        return self.words[n:] if self.root == other.root and self.words[:n] == other.words else None

    def of(self, message: Message) -> Any:
        """What lies there, ABSENT where nothing does."""
        if self.root == "value":
            return follow(message.value, self.words)
        if self.root == "key":
            return _opened(ABSENT if message.key is None else message.key, self.words)
        return _opened(message.headers.get(self.words[0], ABSENT), self.words[1:])


VALUE = Path("value", ())


def parsed(text: str) -> Path:
    """The path that the text names. Raises InvalidInput."""
    root, *words = text[: _CHARS + 1].split(".")
    if len(text) > _CHARS or root not in _ROOTS or len(words) > _DEPTH or not all(words):
        raise InvalidInput(
            "a path is value, key or headers and then names, with dots between",
            next_step="write it as value.trade.legs, key.account or headers.desk",
        )
    if root == "headers" and not words:
        raise InvalidInput("a path into the headers names one", next_step="write it as headers.desk")
    return Path(root, tuple(words))


def follow(value: Any, words: tuple[str, ...]) -> Any:
    """What the words lead to from a value, ABSENT where they lead nowhere."""
    for word in words:
        if type(value) is dict or isinstance(value, Mapping):  # asking an abstract class takes long
            value = value.get(word, ABSENT)
        elif isinstance(value, (list, tuple)) and _PLACE.match(word) and int(word) < len(value):
            value = value[int(word)]
        else:
            return ABSENT
    return value


class Place:
    """Where a declared thing lies: in each instance, or once in the message."""

    def __init__(self, text: str, instances: Path) -> None:
        self.path = parsed(text)
        words = self.path.below(instances)
        self.within = None if words is None or (words and words[0].isdigit()) else words

    def of(self, message: Message, rows: Sequence[Any]) -> list[Any]:
        """What lies there: one an instance, or the only one."""
        if self.within is None:
            return [self.path.of(message)]
        return [follow(row, self.within) for row in rows]


def _opened(value: Any, words: tuple[str, ...]) -> Any:
    """A key or header: UTF-8 text, or JSON where words lead into it."""
    if not isinstance(value, bytes):
        return follow(value, words) if words or value is not None else ABSENT
    try:
        return follow(_JSON.decode(value), words) if words else value.decode()
    except (msgspec.DecodeError, UnicodeError, ValueError, ArithmeticError, RecursionError):
        return ABSENT
