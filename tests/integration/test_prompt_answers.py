"""An application that answers at once, behind our connections: what it does can neither end a connection that should
stay, nor keep one, nor have a request answered twice."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from attacks import Raw, request
from trueup.doors.api.connections import BoundedConnection
from trueup.doors.prompt import Respond
from trueup.doors.serving import CLOSE, Server, configured
from trueup.settings import Limits, Settings

SENT = request("/", b"{}")
HEADER_S = 0.5


class Application:
    """Answers as ``how`` says; counts what it is asked, and what has a task."""

    def __init__(self, how: Callable[[Respond], bool]) -> None:
        self.how = how
        self.offered = self.tasks = 0
        self.draining = False

    def at_once(self, scope: Scope, body: bytes, respond: Respond) -> bool:
        self.offered += 1
        return self.how(respond)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.tasks += 1
        while (await receive())["type"] == "http.request" and not self.draining:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"{}"})
            return


def refused(respond: Respond) -> bool:
    respond(400, b"content-length: 2\r\n", b"{}")
    return True


@contextmanager
def serving(how: Callable[[Respond], bool], **limits: Any) -> Iterator[tuple[str, Application, Server]]:
    app = Application(how)
    settings = Settings(limits=Limits(header_read_s=HEADER_S, **limits))

    async def drained() -> None:
        return None

    server = Server(configured(app, settings), app, drained, 0)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}", app, server
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def test_a_head_in_pieces_leaves_no_timer_behind_its_answer():
    with serving(refused) as (address, _, _), Raw(address) as raw:
        raw.send(SENT[:20])
        time.sleep(0.1)
        raw.send(SENT[20:])
        assert raw.answer()[0] == 400
        time.sleep(2 * HEADER_S)
        raw.send(SENT)
        assert raw.answer()[0] == 400  # and no 408 before it


def test_a_connection_that_only_gets_refusals_stays():
    with serving(refused) as (address, app, _), Raw(address) as raw:
        until = time.monotonic() + 3 * HEADER_S
        while time.monotonic() < until:
            raw.send(SENT)
            assert raw.answer()[0] == 400
            time.sleep(HEADER_S / 4)
        assert app.tasks == 0


def test_connections_are_let_go_of_without_the_collector():
    alive: weakref.WeakSet[BoundedConnection] = weakref.WeakSet()
    with serving(refused) as (address, _, server):
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                with Raw(address) as raw:
                    raw.send(request("/", b"x" * 50_000))
                    raw.answer()
                    alive.update(server.server_state.connections)  # type: ignore[arg-type]
            until = time.monotonic() + 5
            while len(alive) > 1 and time.monotonic() < until:
                time.sleep(0.02)
            assert len(alive) <= 1
        finally:
            gc.enable()


def test_nothing_behind_the_answer_that_closes_is_taken():
    with serving(refused) as (address, app, server):
        server.server_state.default_headers = [CLOSE]
        server.config.encoded_headers.append(CLOSE)
        with Raw(address) as raw:
            raw.send(SENT + SENT)
            assert raw.answer()[0] == 400
            with pytest.raises(EOFError):
                raw.answer()
        assert (app.offered, app.tasks) == (1, 0)


@pytest.mark.parametrize("answers_first", [False, True])
def test_a_fault_is_one_answer_and_no_task(answers_first: bool):
    def fails(respond: Respond) -> bool:
        if answers_first:
            refused(respond)
        raise RuntimeError("secret")

    with serving(fails) as (address, app, _), Raw(address) as raw:
        raw.send(SENT)
        status, _, body = raw.answer()
        assert status == (400 if answers_first else 500)
        assert b"secret" not in body
        time.sleep(0.1)
        assert (app.offered, app.tasks) == (1, 0)


def test_what_is_not_taken_has_its_task():
    with serving(lambda _: False) as (address, app, _), Raw(address) as raw:
        for sent in (SENT, SENT):
            raw.send(sent)
            assert raw.answer()[0] == 200
        assert (app.offered, app.tasks) == (2, 2)
        raw.send(SENT[:-1])
        time.sleep(0.1)
        raw.send(SENT[-1:])
        assert raw.answer()[0] == 200
        assert (app.offered, app.tasks) == (2, 3)


def test_pipelined_requests_are_answered_in_order_whoever_answers():
    later: list[Callable[[], object]] = []

    def slowly(respond: Respond) -> bool:
        later.append(partial(asyncio.get_running_loop().call_soon_threadsafe, partial(refused, respond)))
        return True

    with serving(slowly) as (address, app, _), Raw(address) as raw:
        raw.send(SENT * 3)
        time.sleep(0.2)
        assert (app.offered, app.tasks) == (1, 0)
        later[0]()
        assert [raw.answer()[0] for _ in range(3)] == [400, 200, 200]
