"""What the supervisor tells a worker that it starts."""

from __future__ import annotations

import msgspec

WORKER = "TRUEUP_WORKER"  # in the environment of each worker: its number, from 1


class Order(msgspec.Struct, frozen=True):
    """``control`` is written once the worker listens; ``lifeline`` ends when the supervisor does (file descriptors)."""

    host: str
    port: int
    drain_s: float
    control: int
    lifeline: int
    reports: str  # a folder

    def text(self) -> str:
        """As an argument of the worker's program."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def read(cls, text: str) -> Order:
        """The other way."""
        return msgspec.json.decode(text, type=cls)
