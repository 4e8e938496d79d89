"""What a server may offer an application before it makes a task of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from starlette.types import Scope

Respond = Callable[[int, bytes, bytes], None]
"""Told once, on the event loop: status, header lines, body."""


@runtime_checkable
class AnswersAtOnce(Protocol):
    """An ASGI application that answers some requests without a task."""

    def at_once(self, scope: Scope, body: bytes, respond: Respond) -> bool:
        """Whether it takes the request. Then it calls ``respond``, now or later; else it has done nothing."""
