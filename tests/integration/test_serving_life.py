"""The moment a server stops: what the kernel had by then is answered, what is idle is closed."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import trueup
from running import CONTRACT
from serving import Served, serving
from trueup.doors.auth import ApiRole
from trueup.doors.listening import listening
from trueup.doors.serving import Server
from trueup.errors import InvalidInput
from trueup.ledger.urls import Urls


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model="python:small_models:always_half", version="1")
    with serving(up) as served:
        yield served


class Stopped:
    """The server's event loop stands still; when it goes on, the server has been told to stop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._entered, self._go = threading.Event(), threading.Event()
        server.servers[0].get_loop().call_soon_threadsafe(self._stand)
        assert self._entered.wait(10)

    def _stand(self) -> None:
        self._entered.set()
        assert self._go.wait(20)
        self._server.should_exit = True

    def go(self) -> None:
        self._go.set()


def connected(door: Served) -> socket.socket:
    host, port = door.address.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def request(door: Served, key: str) -> bytes:
    body = json.dumps({"instance": {"account": "a", "amount": 1.0}, "key": key}).encode()
    head = f"POST /v1/deployments/t/score HTTP/1.1\r\nHost: t\r\nX-API-Key: {door.keys[ApiRole.SCORER]}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def all_of(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    found = b""
    while part := connection.recv(65_536):
        found += part
    return found


def test_a_request_that_waits_in_a_kept_connection_is_answered(door: Served) -> None:
    with connected(door) as kept:
        kept.sendall(request(door, "a"))
        assert kept.recv(65_536).startswith(b"HTTP/1.1 200")
        stopped = Stopped(door.server)
        kept.sendall(request(door, "b"))
        stopped.go()
        answer = all_of(kept)
    assert answer.startswith(b"HTTP/1.1 200")
    assert door.count() == 2


def test_connections_that_wait_in_the_kernels_queue_are_answered(door: Served) -> None:
    stopped = Stopped(door.server)
    waiting = [connected(door) for _ in range(20)]
    for number, one in enumerate(waiting):
        one.sendall(request(door, f"k{number}"))
    stopped.go()
    answers = [all_of(one) for one in waiting]
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert door.count() == 20


@pytest.mark.parametrize(
    ("new", "step"),
    [(True, "_begin_no_connection"), (False, "_accept_the_last")],
    ids=["a new connection", "a kept connection"],
)
def test_what_comes_in_the_very_moment_of_closing_is_answered(
    door: Served, monkeypatch: pytest.MonkeyPatch, new: bool, step: str
) -> None:
    """After the loop has looked for the last time."""
    connections, ended, closing = [connected(door)], getattr(Server, step), threading.Event()
    connections[0].sendall(request(door, "first"))
    assert connections[0].recv(65_536).startswith(b"HTTP/1.1 200")

    async def late(server: Server) -> None:
        if new:
            connections.append(connected(door))
        connections[-1].sendall(request(door, "late"))
        await ended(server)
        closing.set()

    monkeypatch.setattr(Server, step, late)
    door.server.should_exit = True
    assert closing.wait(10)
    answer = all_of(connections[-1])
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer.lower()
    for connection in connections:
        connection.close()
    assert door.count() == 2


def test_who_connected_before_the_stop_and_asks_after_it_is_answered(door: Served) -> None:
    ended, stopping = Server._accept_the_last, threading.Event()

    async def told(server: Server) -> None:
        await ended(server)
        stopping.set()

    with connected(door) as fresh, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "_accept_the_last", told)
        door.server.should_exit = True
        assert stopping.wait(10)
        time.sleep(0.3)
        fresh.sendall(request(door, "late"))
        answer = all_of(fresh)
    assert answer.startswith(b"HTTP/1.1 200")
    assert door.count() == 1


def test_nobody_connects_while_the_socket_closes(door: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins to, is refused, and so knows that nothing was taken from it."""
    ended, beginning = Server._accept_the_last, threading.Event()
    refused: list[BaseException] = []

    def begin() -> None:
        beginning.set()
        try:
            connected(door).close()
        except ConnectionRefusedError as error:
            refused.append(error)

    beginner = threading.Thread(target=begin)

    async def late(server: Server) -> None:
        beginner.start()
        assert beginning.wait(10)
        await asyncio.sleep(0.1)
        await ended(server)

    monkeypatch.setattr(Server, "_accept_the_last", late)
    door.server.should_exit = True
    assert beginning.wait(10)
    beginner.join(20)
    assert len(refused) == 1


def test_an_idle_connection_is_closed_without_an_answer(door: Served) -> None:
    with connected(door) as idle:
        door.server.should_exit = True
        assert all_of(idle) == b""


def test_a_taken_port_is_an_error_that_says_so(door: Served, tmp_path: Path, fresh_database: Urls) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "trueup", "up", "--port", door.address.split(":")[1]],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TRUEUP_DATABASE_URL": fresh_database.owner, "TRUEUP_DATA_DIR": str(tmp_path / "d")},
    )
    assert ended.returncode == 7
    assert "cannot be listened on" in ended.stderr


def test_a_host_that_is_not_here_is_an_error_that_says_so() -> None:
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(InvalidInput):
            listening(host, 0)
