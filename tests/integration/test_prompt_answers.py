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
        self.seen: list[tuple[Scope, bytes]] = []

    def at_once(self, scope: Scope, body: bytes, respond: Respond) -> bool:
        self.offered += 1
        self.seen.append((scope, body))
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
    with serving(slowly(later)) as (address, app, _), Raw(address) as raw:
        raw.send(SENT * 3)
        time.sleep(0.2)
        assert (app.offered, app.tasks) == (1, 0)
        later[0]()
        assert [raw.answer()[0] for _ in range(3)] == [400, 200, 200]


def test_a_head_that_was_read_before_says_the_same_on_every_connection():
    with serving(refused) as (address, app, _), Raw(address) as first, Raw(address) as second:
        for raw, body in ((first, b"[1]"), (first, b"[2]"), (second, b"[3]"), (second, b"[4]")):
            raw.send(request("/a%20b?c=d", body))
            assert raw.answer()[0] == 400
        scopes = [scope for scope, _ in app.seen]
        own = {(scope.pop("client"), scope.pop("server")) for scope in scopes}
        assert [body for _, body in app.seen] == [b"[1]", b"[2]", b"[3]", b"[4]"]
        assert all(scope == scopes[0] for scope in scopes)
        assert (scopes[0]["path"], scopes[0]["query_string"]) == ("/a b", b"c=d")
        assert len(own) == 2  # one a connection


@pytest.mark.parametrize(
    ("pieces", "statuses"),
    [
        ([SENT], [400]),
        ([SENT[:10], SENT[10:]], [400]),
        ([SENT[:-1], SENT[-1:]], [200]),  # whose body is late has a task
        ([SENT + SENT], [400, 400]),
        ([b"\r\n", SENT], [400]),
        ([b"\r\n" + SENT], [400]),
    ],
)
def test_a_known_head_may_come_in_pieces_and_before_others(pieces: list[bytes], statuses: list[int]):
    with serving(refused) as (address, _, _), Raw(address) as raw:
        for sent, expected in (([SENT], [400]), (pieces, statuses), ([SENT], [400])):
            for piece in sent:
                raw.send(piece)
                time.sleep(0.05)
            assert [raw.answer()[0] for _ in expected] == expected
        assert not raw.has_answer()


def test_what_follows_a_known_head_that_is_being_answered_waits_for_it():
    later: list[Callable[[], object]] = []
    with serving(slowly(later)) as (address, app, _), Raw(address) as raw:
        for answered in range(2):  # the second begins with a head that is known
            raw.send(SENT)
            time.sleep(0.1)
            raw.send(SENT)
            time.sleep(0.2)
            assert app.offered == answered + 1
            later.pop()()
            assert [raw.answer()[0] for _ in range(2)] == [400, 200]


def test_a_caller_of_a_known_head_that_goes_is_answered_by_nobody():
    later: list[Callable[[], object]] = []
    with serving(slowly(later)) as (address, app, _):
        for _ in range(2):
            with Raw(address) as raw:
                raw.send(SENT)
                while len(later) == 0:
                    time.sleep(0.01)
            time.sleep(0.1)
            later.pop()()
        with Raw(address) as raw:
            raw.send(SENT)
            while len(later) == 0:
                time.sleep(0.01)
            later.pop()()
            assert raw.answer()[0] == 400
        assert (app.offered, app.tasks) == (3, 0)


def test_a_known_head_is_answered_with_the_close_of_a_server_that_stops():
    with serving(refused) as (address, app, server), Raw(address) as raw:
        raw.send(SENT)
        raw.answer()
        server._say_close()
        raw.send(SENT + SENT)
        assert raw.answer()[1]["connection"] == "close"
        with pytest.raises(EOFError):
            raw.answer()
        with Raw(address) as another:
            another.send(SENT)
            assert another.answer()[1]["connection"] == "close"
            with pytest.raises(EOFError):
                another.answer()
        assert (app.offered, app.tasks) == (3, 0)


def test_a_fault_behind_a_known_head_ends_its_connection_alone():
    faults = iter([False, True, False])

    def fails_once(respond: Respond) -> bool:
        if next(faults):
            raise RuntimeError("secret")
        return refused(respond)

    with serving(fails_once) as (address, _, _), Raw(address) as raw, Raw(address) as other:
        raw.send(SENT)
        assert raw.answer()[0] == 400
        raw.send(SENT)
        status, _, body = raw.answer()
        assert status == 500
        assert b"secret" not in body
        assert raw.closed_after() < 5
        other.send(SENT)
        assert other.answer()[0] == 400


def test_what_is_no_longer_taken_behind_a_known_head_has_its_task():
    takes = iter([True, False, False])
    with serving(lambda respond: next(takes) and refused(respond)) as (address, app, _), Raw(address) as raw:
        raw.send(SENT)
        assert raw.answer()[0] == 400
        raw.send(SENT)
        assert raw.answer()[0] == 200
        assert app.tasks == 1


def test_nothing_is_known_behind_a_request_to_speak_another_protocol():
    upgrade = SENT.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    with serving(refused) as (address, app, _), Raw(address) as raw:
        raw.send(SENT)
        assert raw.answer()[0] == 400
        raw.send(upgrade)
        raw.answer()
        before = app.offered
        raw.send(SENT)
        raw.has_answer()
        alone = app.offered - before
    with serving(refused) as (address, app, _), Raw(address) as raw:
        raw.send(upgrade)
        raw.answer()
        before = app.offered
        raw.send(SENT)
        raw.has_answer()
        assert app.offered - before == alone


def slowly(later: list[Callable[[], object]]) -> Callable[[Respond], bool]:
    """Answers when ``later`` is called."""

    def how(respond: Respond) -> bool:
        later.append(partial(asyncio.get_running_loop().call_soon_threadsafe, partial(refused, respond)))
        return True

    return how
