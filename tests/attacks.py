"""Raw sockets for callers that no HTTP library can be made to imitate."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

_INSIDE = re.compile(
    rb"Traceback|File \"|\.py\b|psycopg|msgspec|pydantic|\bSELECT\b|\bINSERT\b|relation |ledger\.[a-z_]+|PostgreSQL"
    rb"|0x[0-9a-f]{8}|/home/|/tmp/|/usr/|/root/|site-packages"
)


def tells_of_the_inside(text: bytes) -> bool:
    """Whether SQL, a stack, a library, an address in memory or a path stands in it."""
    return _INSIDE.search(text) is not None


class Raw:
    """One connection that sends exactly what it is told to."""

    def __init__(self, address: str, timeout: float = 30, receive: int | None = None) -> None:
        """``receive``: bytes of the kernel's buffer for what the server sends."""
        host, port = address.split(":")
        self._socket = socket.socket()
        self._socket.settimeout(timeout)
        if receive is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self._socket.connect((host, int(port)))
        self._held = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def try_send(self, data: bytes) -> bool:
        """False where the server has closed."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers by lower-case name, body. Raises EOFError where the server closes."""
        head = self._until(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(first.split()[1]), headers, self._exactly(int(headers["content-length"]))

    def refusal(self) -> tuple[int, str]:
        """The next answer, which is exactly ``{"error": text}``."""
        status, headers, body = self.answer()
        assert headers["content-type"] == "application/json"
        document: dict[str, Any] = json.loads(body)
        assert list(document) == ["error"]
        return status, document["error"]

    def has_answer(self) -> bool:
        """Whether the server has said something, or closed, within half a second."""
        self._socket.settimeout(0.5)
        try:
            self._held += self._socket.recv(65_536)
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def closed_after(self) -> float:
        """Waits until the server closes; the seconds it took. Whatever it sends before is dropped."""
        began = time.monotonic()
        try:
            while self._socket.recv(65_536):
                pass
        except ConnectionError:
            pass
        return time.monotonic() - began

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._held:
            self._more()
        at = self._held.index(mark) + len(mark)
        found, self._held = self._held[:at], self._held[at:]
        return found

    def _exactly(self, n: int) -> bytes:
        while len(self._held) < n:
            self._more()
        found, self._held = self._held[:n], self._held[n:]
        return found

    def _more(self) -> None:
        data = self._socket.recv(65_536)
        if not data:
            raise EOFError("the server closed")
        self._held += data


def request(path: str, body: bytes = b"", *, method: str = "POST", key: str = "", more: str = "") -> bytes:
    """A plain HTTP/1.1 request; ``more`` is further header lines."""
    authorization = f"authorization: Bearer {key}\r\n" if key else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\n{authorization}content-length: {len(body)}\r\n{more}\r\n"
    return head.encode("latin-1") + body
