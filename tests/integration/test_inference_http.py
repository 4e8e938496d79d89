"""The Open Inference Protocol over a real socket, a real PostgreSQL and unmodified clients."""

from __future__ import annotations

import gzip
import json
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

import trueup
from serving import Served, serving
from trueup.bootstrap import wired
from trueup.doors.auth import ApiRole
from trueup.ledger.urls import Urls
from trueup.settings import Limits

CONTRACT = """
name: trade
version: 1
fields:
  account: {type: string, role: key}
  amount: {type: float64, minimum: 0}
  trades: int64
  open: {type: bool, nullable: true}
  settled: {type: date, nullable: true}
  fee: {type: "decimal(38,4)", nullable: true}
output: {kind: probability}
label: {name: failed, type: bool, join_key: [account], horizon: {days: 2}}
decision: {threshold: 0.5}
expected_cost: probability x amount
"""


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    with serving(up) as served:
        yield served


@pytest.fixture
def narrow(fresh_database: Urls, tmp_path: Path) -> Iterator[Served]:
    limits = Limits(body_bytes=4_000, request_rows=20, gathered_rows=2, queued_rows=6, inferences_in_flight=64)
    with trueup.Trueup(wired(trueup.Settings(data_dir=tmp_path, limits=limits), fresh_database)) as up:
        up.deploy("t", contract=CONTRACT, model="python:small_models:slow_share_of_a_million", version="1")
        with serving(up) as served:
            yield served


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data, **more}


def body(*amounts: float, **more: Any) -> dict[str, Any]:
    return {
        "inputs": [
            tensor("account", "BYTES", [f"00{i}" for i in range(len(amounts))]),
            tensor("amount", "FP64", list(amounts)),
            tensor("trades", "INT64", [3] * len(amounts)),
        ],
        **more,
    }


def output(response: Any, name: str) -> Any:
    assert response.status_code == 200, response.text
    return next(o["data"] for o in response.json()["outputs"] if o["name"] == name)


def refused(response: Any, status: int, text: str = "") -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert list(document) == ["error"]
    assert text in document["error"]
    return str(document["error"])


class TestTritonClient:
    """NVIDIA's own client, unmodified."""

    @pytest.fixture
    def client(self, door: Served) -> Iterator[triton.InferenceServerClient]:
        client = triton.InferenceServerClient(door.address)
        yield client
        client.close()

    def inputs(self, *, binary: bool) -> list[triton.InferInput]:
        made = []
        for name, datatype, values in (
            ("account", "BYTES", np.array(["é", "007"], object)),
            ("amount", "FP64", np.array([250_000.0, 750_000.0])),
            ("trades", "INT64", np.array([3, 2**60])),
        ):
            made.append(triton.InferInput(name, [2], datatype))
            made[-1].set_data_from_numpy(values, binary_data=binary)
        return made

    def test_health_and_metadata(self, door: Served, client: triton.InferenceServerClient):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata()["name"] == "trueup"
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        assert client.is_model_ready("t", headers=door.headers())
        assert client.is_model_ready("t", "1", headers=door.headers())
        found = client.get_model_metadata("t", headers=door.headers())
        assert [(i["name"], i["datatype"], i["shape"]) for i in found["inputs"]][:3] == [
            ("account", "BYTES", [-1]),
            ("amount", "FP64", [-1]),
            ("trades", "INT64", [-1]),
        ]
        assert {o["name"] for o in found["outputs"]} == {
            *("prediction_id", "status", "score", "decision", "expected_cost"),
        }

    @pytest.mark.parametrize("binary", [False, True])
    @pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
    def test_inference(self, door: Served, client: triton.InferenceServerClient, binary: bool, packing: str | None):
        result = client.infer(
            "t",
            self.inputs(binary=binary),
            model_version="1",
            headers=door.headers(),
            request_id="é-1",
            request_compression_algorithm=packing,
            response_compression_algorithm=packing,
        )
        assert result.get_response()["id"] == "é-1"
        assert result.as_numpy("score").tolist() == [0.25, 0.75]
        assert result.as_numpy("decision").tolist() == [b"pass", b"act"]
        first = door.up.prediction(result.as_numpy("prediction_id")[0].decode())
        assert (first["fields"]["account"], first["fields"]["trades"], first["channel"]) == ("é", 3, "rest")
        second = door.up.prediction(result.as_numpy("prediction_id")[1].decode())
        assert second["fields"]["trades"] == 2**60

    def test_chosen_outputs_as_text_and_as_bytes(self, door: Served, client: triton.InferenceServerClient):
        wanted = [
            triton.InferRequestedOutput("score", binary_data=True),
            triton.InferRequestedOutput("status", binary_data=False),
        ]
        result = client.infer("t", self.inputs(binary=True), headers=door.headers(), outputs=wanted)
        outputs = result.get_response()["outputs"]
        assert [o["name"] for o in outputs] == ["score", "status"]
        assert outputs[0]["parameters"] == {"binary_data_size": 16}
        assert outputs[1]["data"] == ["scored", "scored"]

    def test_repository(self, door: Served, client: triton.InferenceServerClient):
        assert client.get_model_repository_index(headers=door.headers()) == [
            {"name": "t", "version": "1", "state": "READY", "reason": ""}
        ]
        client.load_model("t", headers=door.headers())
        client.unload_model("t", headers=door.headers())
        assert client.infer("t", self.inputs(binary=True), headers=door.headers()).as_numpy("score")[0] == 0.25

    def test_errors(self, door: Served, client: triton.InferenceServerClient):
        for call in (
            lambda: client.infer("unknown", self.inputs(binary=True), headers=door.headers()),
            lambda: client.infer("t", self.inputs(binary=True), model_version="9", headers=door.headers()),
            lambda: client.infer("t", self.inputs(binary=True)[:2], headers=door.headers()),
            lambda: client.infer("t", self.inputs(binary=True)),
        ):
            with pytest.raises(InferenceServerException):
                call()
        assert not client.is_model_ready("unknown", headers=door.headers())


class TestProtocol:
    def test_health_says_both_keys(self, door: Served):
        assert door.get("/v2/health/live", role=None).json() == {"live": True}
        assert door.get("/v2/health/ready", role=None).json() == {"live": True, "ready": True}
        assert door.get("/v2/", role=None).json() == door.get("/v2", role=None).json()

    def test_head_has_no_body_and_a_wrong_verb_says_which_is_right(self, door: Served):
        assert door.get("/v2/health/live", role=None, method="HEAD").content == b""
        wrong = door.get("/v2/models/t/infer")
        assert wrong.headers["allow"] == "POST"
        refused(wrong, 405)
        refused(door.get("/v2/models/t/versions/2", ApiRole.READER), 404)
        refused(door.get("/v2/nothing"), 404)

    def test_every_call_needs_a_key_that_may(self, door: Served):
        refused(door.http.post(f"http://{door.address}/v2/models/t/infer", json=body(1.0)), 401)
        refused(door.infer(body(1.0), headers=door.headers(ApiRole.READER)), 403)
        refused(door.get("/v2/models/t", role=None), 401)
        refused(door.get("/v2/repository/models/t/load", ApiRole.SCORER, method="POST"), 403)
        refused(door.infer(body(1.0), headers={"Authorization": "Bearer tu_nothing"}), 401)
        assert door.count() == 0

    @pytest.mark.parametrize(
        ("datatype", "data"),
        [("FP64", ["1"]), ("FP64", [True]), ("FP32", [[1.0]]), ("INT64", [1]), ("FP64", [None]), ("FP64", [-1.0])],
    )
    def test_nothing_is_coerced(self, door: Served, datatype: str, data: list[Any]):
        sent = body(1.0)
        sent["inputs"][1] = tensor("amount", datatype, data)
        refused(door.infer(sent), 400)
        assert door.count() == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"shape": [-1]},
            {"shape": [2]},
            {"shape": [1, 2]},
            {"shape": [10**12]},
            {"shape": [1, 1, 1]},
            {"shape": [0]},
            {"shape": []},
            {"shape": [1.5]},
            {"name": "unknown"},
            {"name": "account"},
            {"datatype": "FP16"},
            {"datatype": "NONE"},
            {"parameters": {"binary_data_size": 8}},
            {"parameters": {"binary_data_size": True}},
            {"parameters": {"x": {}}},
        ],
    )
    def test_what_does_not_fit_is_refused(self, door: Served, change: dict[str, Any]):
        sent = body(1.0)
        sent["inputs"][1] |= change
        text = refused(door.infer(sent), 400)
        assert "1.0" not in text
        assert door.count() == 0

    def test_nested_data_must_match_the_shape(self, door: Served):
        sent = body(1.0, 2.0)
        sent["inputs"][1] = tensor("amount", "FP64", [[250_000.0], [500_000.0]], [2, 1])
        assert output(door.infer(sent), "score") == [0.25, 0.5]
        sent["inputs"][1]["data"] = [[250_000.0, 500_000.0]]
        refused(door.infer(sent), 400)

    def test_nulls_dates_and_decimals(self, door: Served):
        sent = body(500_000.0, 500_000.0)
        sent["inputs"] += [
            tensor("settled", "BYTES", ["2026-11-20", None]),
            tensor("fee", "BYTES", [None, "12345678901234567890.1234"]),
            tensor("open", "BOOL", [True, False]),
            tensor("open.is_null", "BOOL", [False, True]),
        ]
        ids = output(door.infer(sent), "prediction_id")
        first, second = (door.up.prediction(i)["fields"] for i in ids)
        assert (first["settled"], first["fee"], first["open"]) == ("2026-11-20", None, True)
        assert (second["settled"], second["fee"], second["open"]) == (None, "12345678901234567890.1234", None)

    def test_the_matrix_stands_for_all_numbers(self, door: Served):
        sent = body(0.0, 0.0)
        sent["inputs"][1] = tensor("features", "FP32", [250_000.0, 500_000.0], [2, 1])
        assert output(door.infer(sent), "score") == [0.25, 0.5]
        sent["inputs"].append(tensor("amount", "FP64", [1.0, 1.0]))
        refused(door.infer(sent), 400, "twice")

    def test_a_bad_instance_refuses_the_whole_request_by_name(self, door: Served):
        text = refused(door.infer(body(1.0, -5.0, 2.0)), 400, "row 1, amount")
        assert "-5" not in text
        rows = door.up.query("SELECT reason, detail FROM refusals ORDER BY source_key").rows()
        assert [r["reason"] for r in rows] == ["request", "contract", "request"]
        assert door.count() == 0

    def test_unknown_outputs_and_parameters_of_a_wrong_type(self, door: Served):
        refused(door.infer(body(1.0, outputs=[{"name": "nothing"}])), 400)
        refused(door.infer(body(1.0, parameters={"idempotency_key": 5})), 400)
        refused(door.infer(body(1.0, parameters={"event_time": "yesterday"})), 400)
        refused(door.infer(body(1.0, parameters={"reasons": "yes"})), 400)
        assert door.count() == 0

    def test_the_event_time_is_the_callers(self, door: Served):
        sent = body(1.0, parameters={"event_time": "2026-11-19T23:30:00-05:00"})
        (found,) = output(door.infer(sent), "prediction_id")
        assert str(door.up.prediction(found)["event_day"]) == "2026-11-20"

    def test_a_raw_body_is_the_one_input_of_a_model_that_has_one(self, door: Served):
        only = "name: only\nversion: 1\nfields: {amount: float64}\noutput: {kind: probability}\n"
        door.up.deploy("one", contract=only, model="python:small_models:share_of_a_million", version="1")
        raw = {"Inference-Header-Content-Length": "0"}
        number = struct.pack("<d", 250_000.0)
        answer = door.infer(number, model="one", headers=raw)
        length = int(answer.headers["inference-header-content-length"])
        head = json.loads(answer.content[:length])
        assert [o["name"] for o in head["outputs"]] == ["prediction_id", "status", "score"]
        assert struct.unpack("<d", answer.content[-8:]) == (0.25,)
        refused(door.infer(number + b"x", model="one", headers=raw), 400)
        refused(door.infer(b"", model="one", headers=raw), 400)
        refused(door.infer(number, headers=raw), 400, "several")

    def test_a_large_request_goes_in_pieces(self, door: Served):
        amounts = [float(i) for i in range(5_000)]
        response = door.infer(body(*amounts))
        assert output(response, "score") == [a / 1e6 for a in amounts]
        assert len(set(output(response, "prediction_id"))) == 5_000
        assert door.count("batches") == 5


class TestIdentity:
    def test_one_key_by_32_callers_at_once_is_one_row_and_one_answer(self, door: Served):
        sent = body(250_000.0, parameters={"idempotency_key": "order-1"})
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda _: door.infer(sent), range(32)))
        assert {a.status_code for a in answers} == {200}
        assert len({json.dumps(a.json()["outputs"]) for a in answers}) == 1
        assert sorted(a.json()["parameters"]["repeated"] for a in answers) == [0] + [1] * 31
        assert door.count() == 1

    def test_a_retry_by_header_after_a_promotion_gets_the_first_answer(self, door: Served):
        first = door.infer(body(250_000.0), headers={"Idempotency-Key": "k"})
        door.up.deploy("t", contract=CONTRACT, model="python:small_models:always_half", version="2")
        again = door.infer(body(250_000.0), headers={"Idempotency-Key": "k"})
        assert output(first, "score") == output(again, "score") == [0.25]
        assert output(door.infer(body(250_000.0)), "score") == [0.5]

    def test_the_key_with_other_content_is_a_conflict_and_adds_nothing(self, door: Served):
        key = {"idempotency_key": "k"}
        assert door.infer(body(1.0, 2.0, parameters=key)).status_code == 200
        refused(door.infer(body(1.0, 3.0, 4.0, parameters=key)), 409)
        assert door.count() == 2

    def test_a_promotion_by_another_process_is_seen_without_a_restart(self, door: Served, settings: trueup.Settings):
        assert output(door.infer(body(250_000.0)), "score") == [0.25]
        with trueup.Trueup(wired(settings, door.up.services.urls)) as other:
            other.deploy("t", contract=CONTRACT, model="python:small_models:always_half", version="2")
        deadline = time.monotonic() + 10
        while output(door.infer(body(250_000.0)), "score") != [0.5]:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def test_the_requests_id_is_no_key(self, door: Served):
        assert [door.infer(body(1.0, id="same")).json()["id"] for _ in range(2)] == ["same", "same"]
        assert door.count() == 2


class TestIsolation:
    def test_callers_share_a_batch_and_nothing_else(self, door: Served):
        def call(i: int) -> Any:
            kind = i % 4
            if kind == 0:
                return kind, door.infer(body(1000.0 * i, id=f"caller {i}"))
            if kind == 1:
                return kind, door.infer(body(-1.0))
            if kind == 2:
                wrong = body(1.0)
                wrong["inputs"][1]["shape"] = [3]
                return kind, door.infer(wrong)
            return kind, door.infer(body(1000.0 * i, 5.0, id="ß", outputs=[{"name": "score"}]))

        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(call, range(200)))
        for i, (kind, answer) in enumerate(answers):
            if kind == 0:
                assert output(answer, "score") == [1000.0 * i / 1e6]
                assert answer.json()["id"] == f"caller {i}"
            elif kind == 3:
                assert output(answer, "score") == [1000.0 * i / 1e6, 5.0 / 1e6]
                assert [o["name"] for o in answer.json()["outputs"]] == ["score"]
            else:
                refused(answer, 400)
        assert door.count() == 50 + 100
        assert door.count("refusals") == 50

    def test_a_matrix_of_one_caller_never_fills_anothers(self, door: Served):
        def call(i: int) -> Any:
            sent = body(0.0)
            sent["inputs"][1] = tensor("features", "FP64", [1000.0 * i, 7.0] if i % 2 else [1000.0 * i], [1, 1])
            return door.infer(sent)

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(call, range(60)))
        for i, answer in enumerate(answers):
            if i % 2:
                refused(answer, 400)
            else:
                assert output(answer, "score") == [1000.0 * i / 1e6]

    def test_a_model_that_fails_on_one_caller_answers_the_others(self, up: trueup.Trueup):
        up.deploy("t", contract=CONTRACT, model="python:small_models:fails_on_13", version="1")
        with serving(up) as door, ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: door.infer(body(13.0 if i % 8 == 0 else i + 0.5)), range(64)))
            for i, answer in enumerate(answers):
                if i % 8 == 0:
                    assert "13" not in refused(answer, 500)
                else:
                    assert output(answer, "score") == [0.5]
            assert door.count("refusals", "reason = 'failed'") == 8


class TestBounds:
    def test_beyond_the_queue_it_is_refused_at_once_and_booked(self, narrow: Served):
        with ThreadPoolExecutor(30) as pool:
            answers = list(pool.map(lambda i: narrow.infer(body(float(i))), range(30)))
        codes = [a.status_code for a in answers]
        assert set(codes) == {200, 503}
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 503)
        assert narrow.count() == codes.count(200)
        time.sleep(0.5)
        assert narrow.count("refusals", "reason = 'overloaded'") == narrow.front.inference.gather.rejected > 0

    def test_a_deadline_that_passed_is_not_scored(self, narrow: Served):
        with ThreadPoolExecutor(5) as pool:
            slow = [pool.submit(narrow.infer, body(1.0, 2.0)) for _ in range(2)]
            time.sleep(0.05)
            late = narrow.infer(body(3.0, parameters={"timeout": 1_000}))
            assert [s.result().status_code for s in slow] == [200, 200]
        refused(late, 504)
        time.sleep(0.5)
        assert narrow.count("refusals", "reason = 'timed_out'") == 1
        assert narrow.count() == 4

    def test_bodies_rows_and_unpacked_bytes_are_bounded(self, narrow: Served):
        refused(narrow.infer(b"x" * 5_000), 413)
        url = f"http://{narrow.address}/v2/models/t/infer"
        chunks = iter([b"x" * 3_000] * 2)  # without a declared length
        refused(narrow.http.post(url, headers=narrow.headers(), content=chunks), 413)
        refused(narrow.infer(gzip.compress(b" " * 5_000), headers={"Content-Encoding": "gzip"}), 413)
        refused(narrow.infer(body(*[1.0] * 21)), 400, "at most 20")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"null",
            b"[]",
            b"{",
            b'{"inputs": []}',
            b'{"inputs": null}',
            b"[" * 100_000,
            b'{"inputs": [{"name": "amount", "shape": [1], "datatype": "FP64", "data": ' + b"[" * 50_000,
            b'{"inputs": [{"name": "amount", "shape": [1], "datatype": "FP64", "data": [1e999]}]}',
            b'{"inputs": [{"name": "amount", "shape": [99999999999999999999], "datatype": "FP64", "data": [1]}]}',
            b'{"inputs": [{"name": "\xff", "shape": [1], "datatype": "FP64", "data": [1]}]}',
        ],
    )
    def test_a_hostile_body_is_a_plain_refusal(self, door: Served, content: bytes):
        refused(door.infer(content), 400)
        assert output(door.infer(body(1.0)), "status") == ["scored"]

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
    def test_a_body_that_is_not_what_its_encoding_says(self, door: Served, encoding: str):
        refused(door.infer(b"no such bytes", headers={"Content-Encoding": encoding}), 400)
        cut = zlib.compress(json.dumps(body(1.0)).encode())[:-5]
        refused(door.infer(cut, headers={"Content-Encoding": encoding}), 400)

    @pytest.mark.parametrize("length", ["-1", "x", "9999999", "99999999999999999999", "1"])
    def test_a_wrong_header_length(self, door: Served, length: str):
        sent = json.dumps(body(1.0)).encode()
        refused(door.infer(sent, headers={"Inference-Header-Content-Length": length}), 400)

    @pytest.mark.parametrize("size", [7, 9, 0, 10**9])
    def test_binary_sizes_end_where_the_body_ends(self, door: Served, size: int):
        sent = body(1.0)
        sent["inputs"][1] = {
            "name": "amount",
            "shape": [1],
            "datatype": "FP64",
            "parameters": {"binary_data_size": size},
        }
        head = json.dumps(sent).encode()
        data = head + struct.pack("<d", 1.0)
        refused(door.infer(data, headers={"Inference-Header-Content-Length": str(len(head))}), 400)


def test_what_a_large_request_does_not_reach_is_refused_with_it(narrow: Served):
    late = narrow.infer(body(*(float(i) for i in range(12)), parameters={"timeout": 300_000}))
    refused(late, 504)
    deadline = time.monotonic() + 10
    while narrow.count() + narrow.count("refusals") < 12 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert narrow.count() + narrow.count("refusals") == 12
    assert narrow.count("refusals", "reason = 'timed_out'") == 2


def test_what_is_in_flight_is_answered_when_the_server_stops(narrow: Served):
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(narrow.infer, body(float(i))) for i in range(4)]
        time.sleep(0.1)
        narrow.server.should_exit = True
        assert [a.result().status_code for a in answers] == [200] * 4
    assert narrow.count() == 4


def test_without_its_ledger_nothing_is_answered(door: Served, fresh_database: Urls, server: Any):
    import psycopg

    assert door.infer(body(1.0)).status_code == 200
    name = psycopg.conninfo.conninfo_to_dict(fresh_database.owner)["dbname"]
    with psycopg.connect(server.urls("postgres").owner, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')  # type: ignore[arg-type]
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            for _ in range(10):
                began = time.monotonic()
                refused(door.infer(body(2.0)), 503)
                assert time.monotonic() - began < 1
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')  # type: ignore[arg-type]
    deadline = time.monotonic() + 10
    while door.infer(body(3.0)).status_code != 200:
        assert time.monotonic() < deadline
    assert door.count() == 2
