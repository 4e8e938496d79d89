"""What a caller can do to a connection of the HTTP door, on real sockets: each costs the caller its own connection."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

import trueup
from attacks import Raw, request
from databases import create_database
from serving import Served, serving
from trueup.bootstrap import wired
from trueup.doors.auth import ApiRole
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.settings import Limits

CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: {type: float64, minimum: 0}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
"""
INFER = "/v2/models/t/infer"
LIVE = request("/v2/health/live", method="GET")
HEADER_S = 0.5


def body(amount: float, account: str = "a") -> bytes:
    inputs = [
        {"name": "account", "shape": [1], "datatype": "BYTES", "data": [account]},
        {"name": "amount", "shape": [1], "datatype": "FP64", "data": [amount]},
    ]
    return json.dumps({"inputs": inputs}).encode()


@pytest.fixture(scope="module")
def door(server: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = Limits(header_bytes=4_096, headers=20, header_read_s=HEADER_S, pipelined_requests=4, connections=20)
    settings = trueup.Settings(data_dir=tmp_path_factory.mktemp("data"), limits=limits)
    with trueup.Trueup(wired(settings, create_database(server, template))) as up:
        up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
        with serving(up) as served:
            yield served


@pytest.fixture
def key(door: Served) -> str:
    return door.keys[ApiRole.SCORER]


@pytest.fixture
def nothing_booked(door: Served) -> Iterator[None]:
    """What the test does adds no prediction."""
    before = door.count()
    yield
    assert door.count() == before


def still_answers(door: Served) -> None:
    answer = door.infer(body(500_000.0))
    assert answer.status_code == 200, answer.text


def open_connections(door: Served) -> int:
    return len(door.server.server_state.connections)


def stuck(door: Served) -> bool:
    """Whether an answer waits for its caller."""
    return any(connection.flow.write_paused for connection in list(door.server.server_state.connections))


def settled(door: Served, most: int) -> None:
    """Waits until at most so many connections are open."""
    deadline = time.monotonic() + 10
    while open_connections(door) > most:
        assert time.monotonic() < deadline, "connections are kept"
        time.sleep(0.01)


class TestSlow:
    def test_a_connection_that_says_nothing_is_closed(self, door: Served):
        with Raw(door.address) as raw:
            assert HEADER_S * 0.8 < raw.closed_after() < HEADER_S + 5

    @pytest.mark.parametrize("start", [b"GET /v2 HTTP/1.1\r\nhost: x\r\nx-slow: ", b"\r\n", b"G"])
    def test_slow_headers_do_not_keep_a_connection(self, door: Served, start: bytes):
        with Raw(door.address) as raw:
            began = time.monotonic()
            raw.send(start)
            while raw.try_send(b"\r\n" if start == b"\r\n" else b"a"):
                assert time.monotonic() - began < HEADER_S + 5
                time.sleep(HEADER_S / 10)
        still_answers(door)

    def test_it_is_told_why(self, door: Served):
        with Raw(door.address) as raw:
            raw.send(b"GET /v2 HTTP/1.1\r\nhost:")
            status, text = raw.refusal()
            assert (status, "headers" in text) == (408, True)

    def test_after_an_answer_too(self, door: Served):
        with Raw(door.address) as raw:
            raw.send(LIVE)
            assert raw.answer()[0] == 200
            raw.send(b"GET /v2 HTTP/1.1\r\nx-slow: ")
            assert raw.refusal()[0] == 408

    def test_a_body_that_goes_on_after_its_answer_ends_the_connection(self, door: Served):
        with Raw(door.address) as raw:
            raw.send(request(INFER, more="transfer-encoding: chunked\r\n").replace(b"content-length: 0\r\n", b""))
            assert raw.answer()[0] == 401
            began = time.monotonic()
            while raw.try_send(b"1\r\na\r\n"):
                assert time.monotonic() - began < HEADER_S + 5
                time.sleep(HEADER_S / 10)

    @pytest.mark.usefixtures("nothing_booked")
    def test_a_slow_body_is_refused_and_scores_nothing(self, door: Served, key: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("trueup.doors.inference.wire.BODY_READ_S", 0.3)
        sent = request(INFER, body(1.0), key=key)
        with Raw(door.address) as raw:
            raw.send(sent[:-5])
            assert raw.refusal()[0] == 408
            raw.closed_after()

    def test_headers_in_small_pieces_are_fine_in_time(self, door: Served, key: str):
        sent = request(INFER, body(1.0), key=key)
        with Raw(door.address) as raw:
            for place in range(0, len(sent), 7):
                raw.send(sent[place : place + 7])
            assert raw.answer()[0] == 200

    def test_an_idle_connection_that_was_answered_stays(self, door: Served):
        with Raw(door.address) as raw:
            for _ in range(2):
                raw.send(LIVE)
                assert raw.answer()[0] == 200
                time.sleep(HEADER_S * 1.5)


class TestFloods:
    @pytest.mark.parametrize(
        "head",
        [
            b"GET /v2 HTTP/1.1\r\nx: " + b"a" * 5_000 + b"\r\n\r\n",
            b"GET /v2?" + b"a" * 5_000 + b" HTTP/1.1\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\n" + b"x: y\r\n" * 21 + b"\r\n",
            b"GET /v2 HTTP/1.1\r\n" + b"a" * 5_000 + b": y\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\n" + b"".join(b"x%d: %s\r\n" % (i, b"y" * 400) for i in range(18)) + b"\r\n",
        ],
        ids=["one header", "the query", "many headers", "a name", "several headers"],
    )
    @pytest.mark.parametrize("piece", [100_000, 1_000])
    def test_headers_are_bounded(self, door: Served, head: bytes, piece: int):
        with Raw(door.address) as raw:
            for place in range(0, len(head), piece):
                if not raw.try_send(head[place : place + piece]):
                    break
            assert raw.refusal()[0] == 431
            raw.closed_after()
        still_answers(door)

    def test_a_large_body_beside_its_headers_is_not_taken_for_them(self, door: Served, key: str):
        with Raw(door.address) as raw:
            for _ in range(2):
                raw.send(request(INFER, body(1.0) + b" " * 60_000, key=key))
                assert raw.answer()[0] == 200

    def test_trailers_are_no_headers_and_are_not_kept(self, door: Served, key: str):
        sent = body(1.0)
        head = request(INFER, key=key, more="transfer-encoding: chunked\r\n").replace(b"content-length: 0\r\n", b"")
        chunked = head + b"%x\r\n" % len(sent) + sent + b"\r\n0\r\nidempotency-key: trailer\r\n\r\n"
        with Raw(door.address) as raw:
            for _ in range(2):
                raw.send(chunked)
                assert raw.answer()[0] == 200
        assert door.count("predictions", "source_key = 'trailer'") == 0

    def test_pipelined_requests_are_answered_in_order_up_to_a_bound(self, door: Served, key: str):
        with Raw(door.address) as raw:
            raw.send(b"".join(request(INFER, body(i * 100_000.0), key=key) for i in range(5)))
            scores = [json.loads(raw.answer()[2])["outputs"][2]["data"] for _ in range(5)]
            assert scores == [[0.0], [0.1], [0.2], [0.3], [0.4]]
            raw.send(LIVE * 1_000)
            assert raw.closed_after() < 5
        still_answers(door)

    def test_connections_are_bounded_and_come_free_again(self, door: Served):
        raws = [Raw(door.address) for _ in range(40)]
        try:
            refused = [raw.refusal()[0] for raw in raws[25:]]
            assert set(refused) == {503}
        finally:
            for raw in raws:
                raw.__exit__()
        settled(door, 2)
        still_answers(door)

    def test_an_answer_that_nobody_reads_is_dropped(self, door: Served, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(door.server.config, "timeout_keep_alive", 0.5)
        many = json.dumps(
            {
                "inputs": [
                    {"name": "account", "shape": [10_000], "datatype": "BYTES", "data": ["a"] * 10_000},
                    {"name": "amount", "shape": [10_000], "datatype": "FP64", "data": [1.0] * 10_000},
                ]
            }
        ).encode()
        raw = Raw(door.address, receive=4_096)
        sent = request(INFER, many, key=door.keys[ApiRole.SCORER])
        answered = door.server.server_state.total_requests
        for number in range(16):  # more than the system's own buffers hold
            raw.send(sent)
            while door.server.server_state.total_requests <= answered + number and not stuck(door):
                time.sleep(0.01)
            if stuck(door):
                break
        assert stuck(door)
        deadline = time.monotonic() + 10
        while stuck(door):
            assert time.monotonic() < deadline, "the answer is kept"
            time.sleep(0.01)
        raw.__exit__()


class TestSyntax:
    @pytest.mark.parametrize(
        "sent",
        [
            b"\x00" * 100,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /v2 HTTP/9.9\r\n\r\n",
            b"GET  HTTP/1.1\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nhost\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nx: \x00\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nx: a\nb: c\r\r\n\r\n",
            b"GET /v2\xff HTTP/1.1\r\nhost: x\r\n\r\n",
            b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
            b"POST /v2/models/t/infer HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /v2/models/t/infer HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
            b"POST /v2/models/t/infer HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
            b"POST /v2/models/t/infer HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
            b"POST /v2/models/t/infer HTTP/1.1\r\ncontent-length: 0x10\r\n\r\n",
        ],
    )
    def test_what_is_no_http_is_one_plain_refusal(self, door: Served, sent: bytes):
        with Raw(door.address) as raw:
            raw.send(sent)
            assert raw.refusal()[0] == 400
            raw.closed_after()
        still_answers(door)

    @pytest.mark.parametrize("chunk", [b"xyz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"5\r\nabc\r\n0\r\n"])
    @pytest.mark.usefixtures("nothing_booked")
    def test_chunks_that_are_none(self, door: Served, key: str, chunk: bytes):
        head = request(INFER, key=key, more="transfer-encoding: chunked\r\n").replace(b"content-length: 0\r\n", b"")
        with Raw(door.address) as raw:
            raw.send(head + chunk + b"\r\n\r\n")
            assert raw.refusal()[0] == 400
            raw.closed_after()

    def test_a_million_chunks_of_one_byte_are_one_body(self, door: Served, key: str):
        head = request(INFER, key=key, more="transfer-encoding: chunked\r\n").replace(b"content-length: 0\r\n", b"")
        sent = body(500_000.0) + b" " * 100_000
        with Raw(door.address) as raw:
            raw.send(head + b"".join(b"1\r\n%c\r\n" % byte for byte in sent) + b"0\r\n\r\n")
            assert raw.answer()[0] == 200

    @pytest.mark.parametrize(
        "path",
        [
            "/v2/models/../models/t/infer",
            "/v2/models/%2e%2e/infer",
            "/v2/models/t%2f..%2ft/infer",
            "/v2/models/%00/infer",
            "/v2/models/%ff%fe/infer",
            "/v2/models/%2574/infer",
            "/v2/models//infer",
            "/v2/models/" + "t" * 3_000 + "/infer",
            "//v2/models/t/infer",
            "/v2/models/t/infer/..;/infer",
            "/v2/models/t/versions/1%00/infer",
            "/v2/models/t/versions/../infer",
            "http://elsewhere/v2/models/t/versions/9/infer",
            "/v2/models/t\\infer",
            "/v2/models/'; DROP TABLE predictions; --/infer".replace(" ", "%20"),
        ],
    )
    @pytest.mark.usefixtures("nothing_booked")
    def test_paths_are_names_and_nothing_else(self, door: Served, key: str, path: str):
        with Raw(door.address) as raw:
            raw.send(request(path, body(1.0), key=key))
            status, _, text = raw.answer()
            assert status in (400, 404, 405)
            assert b"Traceback" not in text
            assert b"DROP" not in text


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_an_upgrade_is_answered_as_a_plain_request(door: Served, protocol: bytes):
    with Raw(door.address) as raw:
        raw.send(
            b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: " + protocol + b"\r\n\r\n"
        )
        assert raw.answer()[0] == 200
