"""The headers that every HTTP answer carries, whichever door it comes from."""

from __future__ import annotations

Header = tuple[bytes, bytes]

_ALWAYS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_CONTENT = b"content-security-policy"

API_HEADERS: tuple[Header, ...] = (*_ALWAYS, (_CONTENT, b"default-src 'none'; frame-ancestors 'none'"))
# The viewer of the documentation has scripts and styles, all of this server.
VIEWER_HEADERS: tuple[Header, ...] = (
    *_ALWAYS,
    (
        _CONTENT,
        b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; frame-ancestors 'none'",
    ),
)
# Sent where this server itself speaks TLS; whoever else ends TLS in front of it sends its own.
TRANSPORT_SECURITY = ("Strict-Transport-Security", "max-age=31536000")
