"""Heads of requests that were read before.

A caller sends the same head again and again, byte for byte, and only the body behind it differs. What the parser
said of such a head once holds each time, so it need not be read again.
"""

from __future__ import annotations

from typing import Any

END = b"\r\n\r\n"
MOST_BYTES = 4_096  # of a head that is kept
MOST_HEADS = 1_024  # kept at once: callers, times the lengths of their bodies
_OF_ONE_REQUEST = frozenset({b"idempotency-key", b"traceparent", b"x-request-id"})  # such a head never comes again


class Heads:
    """What is known of each head: the ASGI scope, and how many bytes of body follow. For one event loop."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[dict[str, Any], int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def found(self, data: bytes) -> tuple[dict[str, Any], bytes] | None:
        """Scope and body of a request, where ``data`` is a whole one and its head is known."""
        end = data.find(END) + len(END)
        known = self._known.get(data[:end])
        return (known[0], data[end:]) if known is not None and len(data) - end == known[1] else None

    def keep(self, data: bytes, scope: dict[str, Any], body_bytes: int) -> None:
        """Keeps the head of a whole request that was read. One that ends elsewhere (a chunked body, another request
        behind it, other line ends) is not kept."""
        end = data.find(END) + len(END)
        if end + body_bytes != len(data) or end > MOST_BYTES:
            return
        if any(name in _OF_ONE_REQUEST for name, _ in scope["headers"]):
            return
        if len(self._known) >= MOST_HEADS:
            del self._known[next(iter(self._known))]
        self._known[data[:end]] = scope, body_bytes
