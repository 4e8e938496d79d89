"""Bytes in and out: a bounded body, unpacked where it is packed, and a reply."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass, field

from starlette.types import Message, Receive, Scope, Send

from trueup.doors.api.errors import BodyTooLarge, BodyTooSlow
from trueup.errors import InvalidInput

BODY_READ_S = 30.0
PACK_FROM = 1_024  # bytes: smaller answers gain nothing
JSON = (b"content-type", b"application/json")
SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)


@dataclass(slots=True)
class Reply:
    """Status, body and further headers of an answer; the content type is JSON's unless given.

    ``outcome`` is the answer's code, as metrics and logs name it.
    """

    status: int
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    outcome: str = "ok"


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Header values by lower-case name; of a repeated name the first."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        found.setdefault(name, value)
    return found


async def read_body(receive: Receive, headers: dict[bytes, bytes], most: int) -> bytes:
    """The whole body as it was sent. Raises BodyTooLarge as soon as it is, BodyTooSlow."""
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(most)
    message = await _first(receive)
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > most:
            raise _too_large(most)
        return body
    chunks, held = [body], len(body)
    try:
        async with asyncio.timeout(BODY_READ_S):
            while message.get("more_body", False):
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunks.append(message.get("body", b""))
                held += len(chunks[-1])
                if held > most:
                    raise _too_large(most)
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {BODY_READ_S:.0f} s") from None
    return b"".join(chunks)


class ClientGone(Exception):
    """The caller hung up before its request was whole."""


async def _first(receive: Receive) -> Message:
    try:
        async with asyncio.timeout(BODY_READ_S):
            message = await receive()
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {BODY_READ_S:.0f} s") from None
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


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


async def send_reply(send: Send, reply: Reply, *, head: bool = False) -> None:
    """Sends it; for HEAD without its body."""
    headers = [*SECURITY, *reply.headers, (b"content-length", str(len(reply.body)).encode())]
    if not any(name == b"content-type" for name, _ in reply.headers):
        headers.append(JSON)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"a body may have at most {most} bytes", next_step="send smaller batches")
