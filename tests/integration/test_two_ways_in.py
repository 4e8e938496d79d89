"""A request that arrives whole is answered without a task; one that arrives in pieces, or packed, has one. Nobody can
tell which it was."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Iterator

import pytest

import trueup
from attacks import Raw, request
from databases import create_database
from observing import CONTRACT, oip
from serving import Served, serving
from trueup.bootstrap import wired
from trueup.doors.auth import ApiRole
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.settings import Limits

INFER, SCORE = "/v2/models/t/infer", "/v1/deployments/t/score"
_OWN = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{12}-[0-9a-f]+")


@pytest.fixture(scope="module")
def door(server: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = Limits(body_bytes=10_000, request_rows=50, gathered_rows=8)
    settings = trueup.Settings(data_dir=tmp_path_factory.mktemp("data"), limits=limits)
    with trueup.Trueup(wired(settings, create_database(server, template))) as up:
        up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
        with serving(up) as served:
            served.infer(tensors(1.0))  # the model and the key are known from now on
            yield served


def tensors(*amounts: float, **more: object) -> bytes:
    return json.dumps(oip(*amounts, **more)).encode()


def records(*amounts: float) -> bytes:
    return json.dumps({"instances": [{"account": "a", "amount": amount} for amount in amounts]}).encode()


SENT = {
    "tensors": (INFER, tensors(1.0)),
    "several tensors": (INFER, tensors(1.0, 2.0, 3.0, id="me")),
    "more rows than a batch": (INFER, tensors(*map(float, range(20)))),
    "records": (SCORE, records(1.0)),
    "more records than a batch": (SCORE, records(*map(float, range(20)))),
    "one instance": (SCORE, b'{"instance":{"account":"a","amount":5}}'),
    "no instance": (SCORE, records()),
    "a bad instance": (INFER, tensors(-1.0)),
    "a bad record among good ones": (SCORE, records(1.0, -1.0, 2.0)),
    "too many rows": (INFER, tensors(*[1.0] * 51)),
    "no JSON": (INFER, b"{"),
    "no records": (SCORE, b"[]"),
    "an unknown model": ("/v2/models/nobody/infer", tensors(1.0)),
    "an unknown version": ("/v2/models/t/versions/9/infer", tensors(1.0)),
    "an unknown deployment": ("/v1/deployments/nobody/score", records(1.0)),
    "an unknown parameter's type": (INFER, tensors(1.0, parameters={"timeout": "soon"})),
    "too long a key": (INFER, tensors(1.0, parameters={"idempotency_key": "k" * 500})),
    "too large a body": (INFER, tensors(1.0) + b" " * 10_000),
}


def told(door: Served, path: str, body: bytes, *, way: str, headers: dict[str, str] | None = None) -> object:
    """Status, headers and body of the answer, without what is each answer's own."""
    wanted = {"Authorization": f"Bearer {door.keys[ApiRole.SCORER]}"} if headers is None else headers
    if way == "packed":
        body, wanted = gzip.compress(body), {**wanted, "Content-Encoding": "gzip"}
    whole = request(path, body, more="".join(f"{name}: {value}\r\n" for name, value in wanted.items()))
    with Raw(door.address) as raw:
        if way == "in pieces":
            raw.send(whole[:-1])
            time.sleep(0.05)
            raw.send(whole[-1:])
        else:
            raw.send(whole)
        status, answered, document = raw.answer()
    for own in ("date", "x-request-id", "content-length"):
        answered.pop(own, None)
    return status, sorted(answered.items()), _OWN.sub(b"*", document)


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("other", ["in pieces", "packed"])
def test_both_ways_say_the_same(door: Served, name: str, other: str):
    path, body = SENT[name]
    assert told(door, path, body, way="whole") == told(door, path, body, way=other)


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer tu_0123456789abcdef_nobody"}, {"X-Api-Key": "?"}], ids=str
)
def test_strangers_are_told_the_same(door: Served, headers: dict[str, str]):
    said = [told(door, INFER, tensors(1.0), way=way, headers=headers) for way in ("whole", "in pieces")]
    assert said[0] == said[1]
    assert said[0][0] == 401  # type: ignore[index]


def test_who_may_not_score_is_told_the_same(door: Served):
    headers = {"Authorization": f"Bearer {door.keys[ApiRole.READER]}"}
    said = [told(door, INFER, tensors(1.0), way=way, headers=headers) for way in ("whole", "in pieces")]
    assert said[0] == said[1]
    assert said[0][0] == 403  # type: ignore[index]


def test_a_key_is_one_row_whichever_way_its_requests_come(door: Served):
    before, body = door.count(), tensors(7.0, parameters={"idempotency_key": "once"})
    said = {
        str(told(door, INFER, body, way=way)).replace('"repeated":0', '"repeated":1')
        for way in ("whole", "in pieces", "packed")
    }
    assert len(said) == 1
    assert door.count() == before + 1


def test_every_counter_comes_back_to_where_it_was(door: Served):
    for path, body in SENT.values():
        for way in ("whole", "in pieces"):
            told(door, path, body, way=way)
    assert (door.front._in_flight, door.front._held) == (0, 0)
    gauges = [line for line in door.get("/metrics").text.splitlines() if line.startswith("trueup_requests_in_flight{")]
    assert [line.rpartition(" ")[2] for line in gauges if 'door="rest"' in line] == ["0.0"]


def test_a_caller_that_hung_up_is_booked_and_holds_nothing(door: Served):
    before = door.count()
    for _ in range(5):
        with Raw(door.address) as raw:
            raw.send(request(INFER, tensors(3.0), key=door.keys[ApiRole.SCORER]))
    until = time.monotonic() + 10
    while door.count() < before + 5:
        assert time.monotonic() < until
        time.sleep(0.02)
    while door.front._in_flight:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert door.front._held == 0


def test_an_old_or_closing_connection_ends_behind_its_answer(door: Served):
    head = f"Authorization: Bearer {door.keys[ApiRole.SCORER]}\r\nContent-Length: {len(tensors(1.0))}\r\n"
    for first, more in (("HTTP/1.0", ""), ("HTTP/1.1", "Host: x\r\nConnection: close\r\n")):
        with Raw(door.address) as raw:
            raw.send(f"POST {INFER} {first}\r\n{more}{head}\r\n".encode() + tensors(1.0))
            status, headers, _ = raw.answer()
            assert (status, headers["connection"]) == (200, "close")
            raw.closed_after()


def test_an_idle_connection_is_closed_after_its_time_and_not_before(door: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(door.server.config, "timeout_keep_alive", 0.6)
    sent = request(INFER, tensors(1.0), key=door.keys[ApiRole.SCORER])
    with Raw(door.address) as raw:
        for _ in range(4):
            raw.send(sent)
            assert raw.answer()[0] == 200
            time.sleep(0.4)
        assert raw.closed_after() < 2.0
