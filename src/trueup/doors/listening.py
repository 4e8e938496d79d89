"""Sockets that listen: bound, and given up without resetting anybody who has just connected."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress

from trueup.errors import InvalidInput, Unavailable

BACKLOG = 2_048

_SO_ATTACH_FILTER = 26  # of Linux; Python has no name for it
_DROPS_SYN = (  # classic BPF over the TCP header: code, jump if true, jump if not, operand
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


def listening(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket; ``shared`` with other processes of this user, among which the kernel spreads connections.

    Raises InvalidInput for a host that is none of this machine, Unavailable where the port is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
    except OSError:
        raise InvalidInput("the host is no address of this machine", next_step="set TRUEUP_HOST") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidInput("the host is no address of this machine", next_step="set TRUEUP_HOST") from None
        raise Unavailable(
            f"port {port} cannot be listened on ({error.strerror})", next_step="set TRUEUP_PORT, or 0 for any"
        ) from None
    return made


def address_of(scheme: str, one: socket.socket) -> str:
    """The address that was bound, which for port 0 only the socket knows."""
    host, port = one.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def refuse_beginners(held: socket.socket) -> None:
    """Lets the kernel drop segments that begin a connection; whoever sent one tries again, and is refused then."""
    if not sys.platform.startswith("linux"):
        return
    code = b"".join(struct.pack("=HBBI", *step) for step in _DROPS_SYN)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(_DROPS_SYN), ctypes.addressof(buffer))
    with suppress(OSError):  # a sandbox may forbid it; then a connection of the last moment is reset
        held.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def accept_waiting(held: socket.socket) -> Sequence[socket.socket]:
    """Takes every connection out of the kernel's queue, and closes the socket right after."""
    taken: list[socket.socket] = []
    held.setblocking(False)
    try:
        while len(taken) < BACKLOG:
            one, _ = held.accept()
            one.setblocking(False)
            taken.append(one)
    except OSError:  # nobody waits any more
        pass
    finally:
        held.close()
    return taken
