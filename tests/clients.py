"""The client as tests use it: sync and async alike, and servers that misbehave on purpose."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from trueup.client import AsyncClient, Client


class Awaited:
    """An AsyncClient whose calls are waited for, so that one test holds for both clients."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*given, **options)

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *given, **options: self._runner.run(method(*given, **options))


KINDS = {"sync": Client, "async": Awaited}


@dataclass
class Script:
    """A server that answers from a list, the last one for ever, and remembers what it was asked."""

    replies: list[tuple[int, dict[str, str], bytes]]
    url: str = ""
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        return [json.loads(body)["key"] for _, _, _, body in self.asked]


def error(code: str, **more: Any) -> bytes:
    return json.dumps({"error": {"code": code, "message": f"it is {code}", "next_step": "step", **more}}).encode()


ANSWER = json.dumps({"prediction_id": "p", "status": "scored", "score": 0.5, "repeated": False, "new": [1]}).encode()


@contextmanager
def scripted(*replies: tuple[int, dict[str, str], bytes]) -> Iterator[Script]:
    script = Script(list(replies))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status, headers, content = script.replies.pop(0) if len(script.replies) > 1 else script.replies[0]
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def losing_answers(address: str, lost: int) -> Iterator[str]:
    """A way to the server on which the first ``lost`` requests arrive, are answered, and their answers are lost."""
    host, port = address.split(":")
    listening = socket.create_server(("127.0.0.1", 0))
    seen = 0

    def relay(near: socket.socket) -> None:
        nonlocal seen
        seen += 1
        losing = seen <= lost
        with near, socket.create_connection((host, int(port))) as far:
            request = b""
            while b"\r\n\r\n" not in request or len(request.partition(b"\r\n\r\n")[2]) < _length(request):
                request += near.recv(65_536)
            far.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < _length(answer):
                answer += far.recv(65_536)
            if not losing:
                near.sendall(answer.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))

    def accept() -> None:
        with suppress(OSError):
            while True:
                relay(listening.accept()[0])

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


@contextmanager
def dripping() -> Iterator[str]:
    """A server whose answers never end: a byte every 20 ms."""
    listening = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def drip(near: socket.socket) -> None:
        with near, suppress(OSError):
            near.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            while not stopped.wait(0.02):
                near.sendall(b" ")

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        stopped.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def _length(message: bytes) -> int:
    head = message.partition(b"\r\n\r\n")[0].lower()
    return int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
