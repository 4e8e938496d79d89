"""Bodies made to break a server: none is a fault of ours, none tells of the inside, and memory stays bounded."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

import trueup
from attacks import Raw, request, tells_of_the_inside
from databases import create_database
from processes import Running, running
from trueup.bootstrap import wired
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls

MIB = 2**20
BODY = 2 * MIB  # the bound of one body here
CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: {type: float64, minimum: 0}
  trades: int64
  open: {type: bool, nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
"""


@pytest.fixture(scope="module")
def database(server: EmbeddedPostgres, template: str) -> Urls:
    return create_database(server, template)


@pytest.fixture(scope="module")
def server_process(database: Urls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("up")
    with trueup.Trueup(wired(trueup.Settings(data_dir=folder / "data"), database)) as up:
        up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    with running(
        database,
        folder,
        LIMITS__BODY_BYTES=str(BODY),
        LIMITS__BODIES_BYTES=str(8 * BODY),
        LIMITS__REQUEST_ROWS="1000",
        LIMITS__CONNECTIONS="300",
        LIMITS__HEADER_READ_S="2",
    ) as process:
        yield process


@pytest.fixture(scope="module")
def http(server_process: Running) -> Iterator[httpx2.Client]:
    with httpx2.Client(
        base_url=f"http://{server_process.address}",
        headers={"Authorization": f"Bearer {server_process.key}"},
        timeout=60,
    ) as client:
        yield client


def tensors(**changes: Any) -> dict[str, Any]:
    """A request of one instance, with other members in its tensor of amounts."""
    amount = {"name": "amount", "shape": [1], "datatype": "FP64", "data": [1.0], **changes}
    return {
        "inputs": [
            {"name": "account", "shape": [1], "datatype": "BYTES", "data": ["a"]},
            {name: value for name, value in amount.items() if value is not None},
            {"name": "trades", "shape": [1], "datatype": "INT64", "data": [3]},
        ]
    }


def amount(text: str) -> bytes:
    """A request whose one amount is the given JSON."""
    return json.dumps(tensors(data=["@"])).replace('["@"]', f"[{text}]").encode()


def instance(text: str) -> bytes:
    """A record whose amount is the given JSON."""
    return f'{{"instance": {{"account": "a", "amount": {text}, "trades": 1}}}}'.encode()


DEEP = "[" * 100_000
NUMBERS = ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", str(10**400), "1" * 100_000, "0x10", "01",
           "1.", ".5", "+1", "1e", "1_000", "- 1", '"1"', "true", "{}", "[]", DEEP, DEEP + "]" * 100_000,
           '{"a":' * 50_000, "\ufeff1", "١", "null", "null," + str(10**400)]  # fmt: skip
ODD = {
    "invalid UTF-8": b'{"inputs": "\xff\xfe"}',
    "a lone surrogate": b'{"inputs": [{"name": "\\ud800", "shape": [1], "datatype": "FP64", "data": [1]}]}',
    "NUL": b'{"inputs": [{"name": "\\u0000", "shape": [1], "datatype": "FP64", "data": [1]}]}',
    "UTF-16": json.dumps(tensors()).encode("utf-16"),
    "a mark in front": b"\xef\xbb\xbf" + json.dumps(tensors()).encode(),
    "cut": json.dumps(tensors()).encode()[:-1],
    "two documents": json.dumps(tensors()).encode() * 2,
    "a shape of 2^200": json.dumps(tensors(shape=[2**200])).encode(),
    "a shape of 10^400": json.dumps(tensors(shape=["@"])).replace('"@"', "1" + "0" * 400).encode(),
    "a shape of 10^5000": json.dumps(tensors(shape=["@"])).replace('"@"', "1" + "0" * 5_000).encode(),
    "a shape whose product overflows": json.dumps(tensors(shape=[2**32, 2**32])).encode(),
    "a shape of a million": json.dumps(tensors(shape=[1] * 100_000)).encode(),
    "a size of 2^200": json.dumps(tensors(data=None, parameters={"binary_data_size": 2**200})).encode(),
    "a timeout of 10^400": json.dumps({**tensors(data=[-1.0]), "parameters": {"timeout": "@"}})
    .replace('"@"', "1" + "0" * 400)
    .encode(),
    "a timeout of 2^62": json.dumps({**tensors(data=[-1.0]), "parameters": {"timeout": 2**62}}).encode(),
    "NUL in a key": json.dumps({**tensors(), "parameters": {"idempotency_key": "a\0"}}).encode(),
    "a key of a million": json.dumps({**tensors(), "parameters": {"idempotency_key": "a" * MIB}}).encode(),
    "an event before all time": json.dumps(
        {**tensors(), "parameters": {"event_time": "0001-01-01T00:00:00+14:00"}}
    ).encode(),
    "an event after all time": json.dumps(
        {**tensors(), "parameters": {"event_time": "9999-12-31T23:59:59-14:00"}}
    ).encode(),
    "an account with NUL": json.dumps(tensors()).replace('"a"', '"a\\u0000"').encode(),
    "100,000 inputs": json.dumps({"inputs": tensors()["inputs"] * 8_000}).encode(),
    "100,000 outputs": json.dumps({**tensors(), "outputs": [{"name": "x"}] * 50_000}).encode(),
    "100,000 parameters": json.dumps({**tensors(), "parameters": {f"{i}": i for i in range(100_000)}}).encode()[:-1],
}


def assert_refused(answer: httpx2.Response, *, most: int = 499) -> None:
    """Refused as the caller's fault, in the protocol's form, without a word of the inside."""
    assert 400 <= answer.status_code <= most, answer.text[:300]
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert len(answer.content) < 5_000
    assert not tells_of_the_inside(answer.content), answer.text


class TestForms:
    @pytest.mark.parametrize("text", NUMBERS, ids=range(len(NUMBERS)))
    def test_an_amount_that_is_no_number(self, http: httpx2.Client, text: str):
        assert_refused(http.post("/v2/models/t/infer", content=amount(text).decode().encode("utf-8")))
        assert_refused(http.post("/v1/deployments/t/score", content=instance(text)))

    @pytest.mark.parametrize("text", [str(2**200), "1.5", "1e3", str(2**63), "1" * 5_000])
    def test_an_int64_that_is_none(self, http: httpx2.Client, text: str):
        sent = json.dumps(tensors()).replace("[3]", f"[{text}]")
        assert_refused(http.post("/v2/models/t/infer", content=sent.encode()))
        sent = f'{{"instance": {{"account": "a", "amount": 1, "trades": {text}}}}}'
        assert_refused(http.post("/v1/deployments/t/score", content=sent.encode()))

    @pytest.mark.parametrize("content", ODD.values(), ids=ODD)
    def test_an_odd_request(self, http: httpx2.Client, content: bytes):
        assert_refused(http.post("/v2/models/t/infer", content=content))

    def test_of_a_member_given_twice_the_last_counts_and_nothing_is_added(self, http: httpx2.Client):
        sent = json.dumps(tensors()).replace('"data": [1.0]', '"data": [-1.0], "data": [500000.0]').encode()
        answer = http.post("/v2/models/t/infer", content=sent)
        assert answer.status_code == 200
        assert answer.json()["outputs"][2]["data"] == [0.5]

    @pytest.mark.parametrize("length", ["0", "-1", "1e3", "1.0", "5 5", "0x5", "999999999999999999999", str(2**63)])
    def test_a_header_length_that_is_none(self, http: httpx2.Client, length: str):
        headers = {"Inference-Header-Content-Length": length}
        assert_refused(http.post("/v2/models/t/infer", content=json.dumps(tensors()).encode(), headers=headers))

    @pytest.mark.parametrize("texts", [b"\xff\xff\xff\xff", struct.pack("<I", 5) + b"abc", b"\x01\0\0\0\xff", b""])
    def test_texts_whose_lengths_lie(self, http: httpx2.Client, texts: bytes):
        sent = tensors()
        sent["inputs"][0] = {
            "name": "account",
            "shape": [1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(texts)},
        }
        head = json.dumps(sent).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        assert_refused(http.post("/v2/models/t/infer", content=head + texts, headers=headers))

    def test_every_cut_of_a_binary_request(self, http: httpx2.Client):
        sent = tensors(data=None, parameters={"binary_data_size": 8})
        head = json.dumps(sent).encode()
        whole = head + struct.pack("<d", 500_000.0)
        headers = {"Inference-Header-Content-Length": str(len(head))}
        assert http.post("/v2/models/t/infer", content=whole, headers=headers).status_code == 200
        for end in range(0, len(whole), 7):
            assert_refused(http.post("/v2/models/t/infer", content=whole[:end], headers=headers))


def members(n: int) -> bytes:
    return gzip.compress(json.dumps(tensors()).encode()) * n


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "gzip": ("gzip", lambda: gzip.compress(b" " * 64 * MIB)),
    "deflate": ("deflate", lambda: zlib.compress(b" " * 64 * MIB)),
    "nested": ("gzip", lambda: gzip.compress(gzip.compress(b" " * 64 * MIB))),
    "many members": ("gzip", lambda: members(1_000)),
    "a name of megabytes": ("gzip", lambda: b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"a" * MIB),
    "two encodings": ("gzip, gzip", lambda: gzip.compress(gzip.compress(json.dumps(tensors()).encode()))),
    "raw deflate": ("deflate", lambda: zlib.compress(json.dumps(tensors()).encode(), wbits=-15)),
    "bytes behind": ("gzip", lambda: gzip.compress(json.dumps(tensors()).encode()) + b"x"),
}


class TestMemory:
    """The bounds are of this server's settings: 2 MiB a body, eight of which may be held together."""

    @pytest.mark.parametrize(("encoding", "make"), BOMBS.values(), ids=BOMBS)
    def test_a_packed_body_is_unpacked_up_to_the_bound(
        self, server_process: Running, http: httpx2.Client, encoding: str, make: Callable[[], bytes]
    ):
        content = make()
        with server_process.watched(server_process.memory() + 24 * MIB), ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(
                    lambda _: http.post("/v2/models/t/infer", content=content, headers={"Content-Encoding": encoding}),
                    range(16),
                )
            )
        for answer in answers:
            assert_refused(answer)

    @pytest.mark.parametrize("element", ["1,", "null,", '"",', '",",', "[],", "{},", "1e9,", "true,", r'"\\\\",'])
    def test_millions_of_elements_are_not_made_into_objects(
        self, server_process: Running, http: httpx2.Client, element: str
    ):
        elements = element * (BODY // len(element) - 1_000)
        kind = {"1": "INT64", '"': "BYTES", "t": "BOOL"}.get(element[0], "FP64")
        sent = json.dumps(tensors(datatype=kind, data=["@"])).replace('["@"]', f"[{elements[:-1]}]").encode()
        with server_process.watched(server_process.memory() + 64 * MIB), ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: http.post("/v2/models/t/infer", content=sent), range(16)))
        for answer in answers:
            assert_refused(answer, most=503)

    def test_bodies_that_stay_unfinished_are_bounded_together(self, server_process: Running, http: httpx2.Client):
        held = request("/v2/models/t/infer", b"a" * BODY, key=server_process.key)[:-1]
        raws = [Raw(server_process.address) for _ in range(60)]
        with server_process.watched(server_process.memory() + 60 * MIB), ThreadPoolExecutor(60) as pool:
            list(pool.map(lambda raw: raw.try_send(held), raws))
            refused = sum(raw.has_answer() for raw in raws)
            assert http.get("/v2/health/live").status_code == 200
        assert 60 - 8 <= refused < 60
        for raw in raws:
            raw.__exit__()

    def test_hundreds_of_silent_and_slow_connections_leave_room(self, server_process: Running, http: httpx2.Client):
        with server_process.watched(server_process.memory() + 32 * MIB):
            raws = [Raw(server_process.address) for _ in range(280)]
            for raw in raws[::2]:
                raw.send(b"GET /v2 HTTP/1.1\r\nx-slow: " + b"a" * 30_000)
            answers = [http.post("/v2/models/t/infer", json=tensors()) for _ in range(20)]
            assert {answer.status_code for answer in answers} == {200}
            for raw in raws:
                raw.closed_after()
                raw.__exit__()

    def test_after_all_of_it_it_serves_as_before(self, server_process: Running, http: httpx2.Client):
        answer = http.post("/v2/models/t/infer", json=tensors(data=[250_000.0]))
        assert answer.json()["outputs"][2]["data"] == [0.25]
        log = server_process.log.read_text()
        assert "Traceback" not in log
        assert "request_failed" not in log
