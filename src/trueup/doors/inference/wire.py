"""Bytes in and out: a bounded body, unpacked where it is packed, and a reply."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from trueup.doors.api.errors import BodyTooLarge, BodyTooSlow
from trueup.doors.headers import API_HEADERS
from trueup.errors import InvalidInput

BODY_READ_S = 30.0
PACK_FROM = 1_024  # bytes: smaller answers gain nothing
JSON = (b"content-type", b"application/json")
_PLAIN_HEAD = b"".join(b"%b: %b\r\n" % header for header in (*API_HEADERS, JSON))


@dataclass(slots=True)
class Reply:
    """Status, body and further headers of an answer; the content type is JSON's unless given.

    ``outcome`` is the answer's code, as metrics and logs name it.
    """

    status: int
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    outcome: str = "ok"


class ClientGone(Exception):
    """The caller hung up before its request was whole."""


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Header values by lower-case name; of a repeated name the first."""
    return dict(scope["headers"][::-1])


async def read_body(
    receive: Receive, headers: dict[bytes, bytes], most: int, hold: Callable[[int], None] = lambda _: None
) -> bytes:
    """The whole body as it was sent; ``hold`` is told of bytes as they come, and may refuse them.

    Raises BodyTooLarge as soon as it is, BodyTooSlow, ClientGone.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(most)
    # asyncio.timeout does the same for many cases; this is a third of its price, on every request.
    reading, late = asyncio.current_task(), []  # type: ignore[var-annotated]
    assert reading is not None
    timer = asyncio.get_running_loop().call_later(BODY_READ_S, _stop, reading, late)
    try:
        message = await receive()
        if not message.get("more_body", False) and message["type"] == "http.request":
            body: bytes = message.get("body", b"")
            if len(body) > most:
                raise _too_large(most)
            hold(len(body))
            return body
        return await _pieces(message, receive, most, hold)
    except asyncio.CancelledError:
        if late and not reading.uncancel():
            raise BodyTooSlow(f"the body did not arrive within {BODY_READ_S:.0f} s") from None
        raise
    finally:
        timer.cancel()


async def _pieces(message: Message, receive: Receive, most: int, hold: Callable[[int], None]) -> bytes:
    """A body that comes in several messages, of which ``message`` is the first."""
    chunks: list[bytes] = []
    held = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        held += len(chunks[-1])
        if held > most:
            raise _too_large(most)
        hold(len(chunks[-1]))
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()


def _stop(reading: asyncio.Task[Any], late: list[bool]) -> None:
    late.append(True)
    reading.cancel()


def unpacked(body: bytes, encoding: bytes, most: int) -> bytes:
    """The body without its content encoding; at most ``most`` bytes of it are ever made."""
    bits = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}.get(encoding.strip().lower())
    if bits is None:
        raise InvalidInput("the content encoding is not known", next_step="send gzip, deflate or none")
    stream = zlib.decompressobj(bits)
    try:
        found = stream.decompress(body, most + 1)
    except zlib.error:
        raise InvalidInput("the body is not what its content encoding says") from None
    if len(found) > most or stream.unconsumed_tail:
        raise _too_large(most)
    if not stream.eof or stream.unused_data:
        raise InvalidInput("the body is not what its content encoding says")
    return found


def packed(reply: Reply, accepted: bytes) -> Reply:
    """The reply in an encoding that the caller takes, where it is large enough to gain."""
    if len(reply.body) < PACK_FROM:
        return reply
    wanted = accepted.lower()
    for name, bits in ((b"gzip", 31), (b"deflate", 15)):
        if name in wanted and name + b";q=0" not in wanted.replace(b" ", b""):
            stream = zlib.compressobj(1, zlib.DEFLATED, bits)
            reply.body = stream.compress(reply.body) + stream.flush()
            reply.headers += [(b"content-encoding", name), (b"vary", b"accept-encoding")]
            return reply
    return reply


def head_of(reply: Reply) -> bytes:
    """The header lines of an answer."""
    length = b"content-length: %d\r\n" % len(reply.body)
    if not reply.headers:
        return _PLAIN_HEAD + length
    return b"".join([*(b"%b: %b\r\n" % header for header in _headers(reply)), length])


async def send_reply(send: Send, reply: Reply, *, head: bool = False) -> None:
    """Sends it; for HEAD without its body."""
    headers = [*_headers(reply), (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})


def _headers(reply: Reply) -> list[tuple[bytes, bytes]]:
    kind = () if any(name == b"content-type" for name, _ in reply.headers) else (JSON,)
    return [*API_HEADERS, *kind, *reply.headers]


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"a body may have at most {most} bytes", next_step="send smaller batches")
