"""The protocol that every way of knowing a caller keeps."""

from __future__ import annotations

from typing import Protocol

from trueup.doors.auth.roles import Caller


class Authenticator(Protocol):
    """Tells who is calling by the text they show: an API key or a token.

    A door asks ``known`` first, and ``authenticate`` in a thread where that is None. One request is one
    ``known`` that is a caller, or one ``authenticate``.
    """

    def known(self, text: str) -> Caller | None:
        """From memory alone, None where only ``authenticate`` can tell: never blocks. Raises Unauthenticated,
        RateLimited."""
        ...

    def authenticate(self, text: str, peer: str | None = None) -> Caller:
        """Who it is; may block. ``peer`` is the address they call from, for bounds on failures.
        Raises Unauthenticated, RateLimited, Unavailable."""
        ...

    def spend(self, caller: Caller, instances: int) -> None:
        """Counts instances against the caller's rate, where there is one. Raises RateLimited."""
        return
