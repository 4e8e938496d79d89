"""Inference over gRPC on a real socket and a real PostgreSQL, typed and raw."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc import StatusCode

import trueup
from grpc_calls import Client, calling, infer_request, refused, values
from serving import Served, serving
from trueup.doors.auth import ApiRole
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb
from trueup.ledger.urls import Urls

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
def client(door: Served) -> Iterator[Client]:
    with calling(door) as found:
        yield found


def request(*amounts: float, raw: bool = False, **parameters: Any) -> pb.ModelInferRequest:
    return infer_request(
        ("account", "BYTES", [b"00%d" % i for i in range(len(amounts))]),
        ("amount", "FP64", amounts),
        ("trades", "INT32", [3] * len(amounts)),
        raw=raw,
        **parameters,
    )


def rest_body(*amounts: float, **more: Any) -> dict[str, Any]:
    tensors = (("account", "BYTES", [f"00{i}" for i in range(len(amounts))]), ("amount", "FP64", list(amounts)),
               ("trades", "INT64", [3] * len(amounts)))  # fmt: skip
    return {"inputs": [{"name": n, "datatype": d, "shape": [len(v)], "data": v} for n, d, v in tensors], **more}


class TestWhatThereIs:
    def test_health_needs_no_key(self, client: Client):
        assert client.stub.ServerLive(pb.ServerLiveRequest()).live
        assert client.stub.ServerReady(pb.ServerReadyRequest()).ready

    def test_metadata_of_server_and_model(self, client: Client):
        reader = client.metadata(ApiRole.READER)
        server = client.stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=reader)
        assert (server.name, list(server.extensions)) == ("trueup", ["model_repository", "model_stream_infer"])
        model = client.stub.ModelMetadata(pb.ModelMetadataRequest(name="t", version="1"), metadata=reader)
        assert (model.name, list(model.versions), model.platform) == ("t", ["1"], "trueup_python")
        assert [(i.name, i.datatype, list(i.shape)) for i in model.inputs][:2] == [
            ("account", "BYTES", [-1]),
            ("amount", "FP64", [-1]),
        ]
        assert {o.name for o in model.outputs} == {"prediction_id", "status", "score", "decision", "expected_cost"}
        assert client.stub.ModelReady(pb.ModelReadyRequest(name="t"), metadata=reader).ready

    @pytest.mark.parametrize("asked", [("no", ""), ("t", "2"), ("", ""), ("t\x00", "")])
    def test_an_unknown_model_or_version_is_not_found(self, client: Client, asked: tuple[str, str]):
        admin = client.metadata()
        for method, message in (
            (client.stub.ModelReady, pb.ModelReadyRequest(name=asked[0], version=asked[1])),
            (client.stub.ModelMetadata, pb.ModelMetadataRequest(name=asked[0], version=asked[1])),
            (client.stub.ModelInfer, pb.ModelInferRequest(model_name=asked[0], model_version=asked[1])),
        ):
            refused(lambda m=method, one=message: m(one, metadata=admin), StatusCode.NOT_FOUND)

    def test_the_repository_is_listed_loaded_and_unloaded(self, client: Client):
        admin = client.metadata()
        (model,) = client.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), metadata=admin).models
        assert (model.name, model.version, model.state, model.reason) == ("t", "1", "READY", "")
        loaded = client.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="t"), metadata=admin)
        assert (loaded.model_name, loaded.is_loaded) == ("t", True)
        # KServe's layout has the model's name as field 1, where Triton's names the repository.
        left = client.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(repository_name="t"), metadata=admin)
        assert (left.model_name, left.is_unloaded) == ("t", True)
        assert values(client.infer(request(250_000.0)), "score") == [0.25]
        refused(
            lambda: client.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="no"), metadata=admin),
            StatusCode.NOT_FOUND,
        )


class TestInference:
    @pytest.mark.parametrize("raw", [False, True])
    def test_the_answer_comes_as_the_question_did(self, door: Served, client: Client, raw: bool):
        asked = request(250_000.0, 750_000.0, raw=raw)
        asked.id, asked.model_version = "é-1 ✓", "1"
        answer = client.infer(asked)
        assert (answer.model_name, answer.model_version, answer.id) == ("t", "1", "é-1 ✓")
        assert len(answer.raw_output_contents) == (len(answer.outputs) if raw else 0)
        assert [o.name for o in answer.outputs] == ["prediction_id", "status", "score", "decision", "expected_cost"]
        assert [list(o.shape) for o in answer.outputs] == [[2]] * 5
        assert values(answer, "score") == [0.25, 0.75]
        assert values(answer, "decision") == [b"pass", b"act"]
        first = door.up.prediction(values(answer, "prediction_id")[0].decode())
        assert (first["fields"]["account"], first["fields"]["trades"], first["channel"]) == ("000", 3, "grpc")
        assert answer.parameters["repeated"].int64_param == 0

    @pytest.mark.parametrize("raw", [False, True])
    def test_only_the_outputs_that_are_asked_for(self, client: Client, raw: bool):
        asked = request(250_000.0, raw=raw)
        for name in ("decision", "score"):
            asked.outputs.add(name=name)
        answer = client.infer(asked)
        assert [o.name for o in answer.outputs] == ["decision", "score"]
        assert values(answer, "score") == [0.25]
        asked.outputs.add(name="nothing")
        client.refused(asked, StatusCode.INVALID_ARGUMENT, "the model has not")

    def test_nulls_dates_and_decimals(self, door: Served, client: Client):
        asked = request(500_000.0, 500_000.0)
        for name, datatype, field, elements in (
            ("settled", "BYTES", "bytes_contents", [b"2026-11-20", b""]),
            ("settled.is_null", "BOOL", "bool_contents", [False, True]),
            ("fee", "BYTES", "bytes_contents", [b"12345678901234567890.1234", b"0"]),
            ("open", "BOOL", "bool_contents", [True, False]),
        ):
            tensor = asked.inputs.add(name=name, datatype=datatype, shape=[2])
            getattr(tensor.contents, field).extend(elements)
        ids = values(client.infer(asked), "prediction_id")
        first, second = (door.up.prediction(i.decode())["fields"] for i in ids)
        assert (first["settled"], first["fee"], first["open"]) == ("2026-11-20", "12345678901234567890.1234", True)
        assert (second["settled"], second["open"]) == (None, False)

    def test_the_event_time_is_the_callers(self, door: Served, client: Client):
        (found,) = values(client.infer(request(1.0, event_time="2026-11-19T23:30:00-05:00")), "prediction_id")
        assert str(door.up.prediction(found.decode())["event_day"]) == "2026-11-20"

    def test_a_large_request_goes_in_pieces(self, door: Served, client: Client):
        amounts = [float(i) for i in range(3_000)]
        answer = client.infer(request(*amounts, raw=True))
        assert values(answer, "score") == [a / 1e6 for a in amounts]
        assert len(set(values(answer, "prediction_id"))) == 3_000
        assert door.count("batches") == 3

    @pytest.mark.parametrize(
        "parameters", [{"idempotency_key": 5}, {"event_time": "yesterday"}, {"reasons": "yes"}, {"timeout": 0.5}]
    )
    def test_a_parameter_of_a_wrong_type_or_form_is_refused(
        self, door: Served, client: Client, parameters: dict[str, Any]
    ):
        details = client.refused(request(1.0, **parameters), StatusCode.INVALID_ARGUMENT)
        assert "yesterday" not in details
        assert door.count() == 0

    @pytest.mark.parametrize("raw", [False, True])
    def test_a_bad_instance_refuses_the_whole_request_by_name(self, door: Served, client: Client, raw: bool):
        details = client.refused(request(1.0, -5.5, 2.0, raw=raw), StatusCode.INVALID_ARGUMENT, "row 1, amount")
        assert "5.5" not in details
        rows = door.up.query("SELECT reason FROM refusals ORDER BY source_key").rows()
        assert [r["reason"] for r in rows] == ["request", "contract", "request"]
        assert door.count() == 0

    def test_what_breaks_the_protocol_is_refused_and_books_nothing(self, door: Served, client: Client):
        both = request(1.0, raw=True)
        both.inputs[0].contents.bytes_contents.append(b"a")
        client.refused(both, StatusCode.INVALID_ARGUMENT, "not both")
        missing = request(1.0, raw=True)
        del missing.raw_input_contents[2:]
        client.refused(missing, StatusCode.INVALID_ARGUMENT, "one entry for each input")
        cut = request(1.0, raw=True)
        cut.raw_input_contents[1] = cut.raw_input_contents[1][:-1]
        client.refused(cut, StatusCode.INVALID_ARGUMENT, "do not fill")
        client.refused(pb.ModelInferRequest(model_name="t"), StatusCode.INVALID_ARGUMENT, "at least one input")
        assert door.count() == door.count("refusals") == 0

    def test_a_model_that_fails_is_an_internal_error_without_its_text(self, up: trueup.Trueup):
        up.deploy("t", contract=CONTRACT, model="python:small_models:fails_on_13", version="1")
        with serving(up) as door, calling(door) as client:
            assert "13" not in client.refused(request(13.0), StatusCode.INTERNAL)
            assert values(client.infer(request(1.0)), "score") == [0.5]


class TestIdentity:
    def test_one_key_by_32_callers_at_once_is_one_row_and_one_answer(self, door: Served, client: Client):
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda i: client.infer(request(250_000.0, idempotency_key="k")), range(32)))
        assert sorted(a.parameters["repeated"].int64_param for a in answers) == [0] + [1] * 31
        assert len({tuple(o.SerializeToString() for o in a.outputs) for a in answers}) == 1
        assert door.count() == 1

    @pytest.mark.parametrize("first", ["rest", "grpc"])
    def test_a_key_has_one_answer_whichever_protocol_repeats_it(self, door: Served, client: Client, first: str):
        def by_rest() -> str:
            answer = door.infer(rest_body(250_000.0), headers={"Idempotency-Key": "k"}).json()
            return str(answer["outputs"][0]["data"][0])

        def by_grpc() -> str:
            return str(values(client.infer(request(250_000.0), idempotency_key="k"), "prediction_id")[0].decode())

        order = [by_rest, by_grpc] if first == "rest" else [by_grpc, by_rest]
        assert order[0]() == order[1]()
        assert door.count() == 1
        assert door.up.query("SELECT channel FROM predictions").rows()[0]["channel"] == first
        assert door.infer(rest_body(9.0), headers={"Idempotency-Key": "k"}).status_code == 409

    def test_rest_and_grpc_at_once_are_booked_under_their_own_channel(self, door: Served, client: Client):
        def call(i: int) -> None:
            if i % 2:
                assert door.infer(rest_body(float(i))).status_code == 200
            else:
                client.infer(request(float(i), raw=True))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(call, range(120)))
        found = door.up.query("SELECT channel, count(*) AS n FROM predictions GROUP BY 1 ORDER BY 1").rows()
        assert [(r["channel"], r["n"]) for r in found] == [("grpc", 60), ("rest", 60)]

    def test_a_retry_after_a_promotion_gets_the_first_answer(self, door: Served, client: Client):
        first = client.infer(request(250_000.0), idempotency_key="k")
        door.up.deploy("t", contract=CONTRACT, model="python:small_models:always_half", version="2")
        again = client.infer(request(250_000.0), idempotency_key="k")
        assert values(first, "score") == values(again, "score") == [0.25]

    def test_the_key_with_other_content_already_exists(self, door: Served, client: Client):
        client.infer(request(1.0, idempotency_key="k"))
        client.refused(request(2.0, idempotency_key="k"), StatusCode.ALREADY_EXISTS)
        assert door.count() == 1

    def test_the_requests_id_is_no_key(self, door: Served, client: Client):
        asked = request(1.0)
        asked.id = "same"
        assert [client.infer(asked).id for _ in range(2)] == ["same", "same"]
        assert door.count() == 2


def test_callers_share_a_batch_and_nothing_else(door: Served, client: Client):
    def call(i: int) -> Any:
        asked = request(1000.0 * i if i % 3 else -1.0, raw=i % 2 == 0)
        asked.id = f"caller {i}"
        try:
            return client.infer(asked)
        except grpc.RpcError as error:
            return error.code()

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(call, range(120)))
    for i, answer in enumerate(answers):
        if i % 3 == 0:
            assert answer is StatusCode.INVALID_ARGUMENT
        else:
            assert (values(answer, "score"), answer.id) == ([1000.0 * i / 1e6], f"caller {i}")
    assert (door.count(), door.count("refusals")) == (80, 40)


class TestCallers:
    METHODS = (
        ("ServerMetadata", pb.ServerMetadataRequest(), ApiRole.READER),
        ("ModelReady", pb.ModelReadyRequest(name="t"), ApiRole.READER),
        ("ModelMetadata", pb.ModelMetadataRequest(name="t"), ApiRole.READER),
        ("RepositoryIndex", pb.RepositoryIndexRequest(), ApiRole.READER),
        ("ModelInfer", request(1.0), ApiRole.SCORER),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="t"), ApiRole.OPERATOR),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="t"), ApiRole.OPERATOR),
    )

    @pytest.mark.parametrize(("method", "message", "enough"), METHODS, ids=[m[0] for m in METHODS])
    def test_every_method_asks_for_the_role_it_needs(self, client: Client, method: str, message: Any, enough: ApiRole):
        call = getattr(client.stub, method)
        refused(lambda: call(message), StatusCode.UNAUTHENTICATED)
        wrong = [("authorization", "Bearer tu_0000000000000000_" + "x" * 43)]
        refused(lambda: call(message, metadata=wrong), StatusCode.UNAUTHENTICATED)
        for role in ApiRole:
            if list(ApiRole).index(role) < list(ApiRole).index(enough):
                refused(lambda role=role: call(message, metadata=client.metadata(role)), StatusCode.PERMISSION_DENIED)
            else:
                call(message, metadata=client.metadata(role))

    def test_the_key_may_come_as_x_api_key(self, door: Served, client: Client):
        key = [("x-api-key", door.keys[ApiRole.SCORER])]
        assert values(client.stub.ModelInfer(request(250_000.0), metadata=key), "score") == [0.25]


def test_without_its_ledger_nothing_is_answered(door: Served, client: Client, fresh_database: Urls, server: Any):
    import psycopg

    client.infer(request(1.0))
    name = psycopg.conninfo.conninfo_to_dict(fresh_database.owner)["dbname"]
    with psycopg.connect(server.urls("postgres").owner, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')  # type: ignore[arg-type]
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            details = client.refused(request(2.0), StatusCode.UNAVAILABLE)
            assert name not in details
            _until(lambda: not client.stub.ServerReady(pb.ServerReadyRequest()).ready)
            assert client.stub.ServerLive(pb.ServerLiveRequest()).live
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')  # type: ignore[arg-type]
    _until(lambda: client.stub.ServerReady(pb.ServerReadyRequest()).ready)
    client.infer(request(3.0))
    assert door.count() == 2


def test_an_error_never_shows_what_was_sent(door: Served, client: Client):
    secret = "tell-nobody"
    asked = request(1.0, idempotency_key=secret)
    asked.inputs[0].name = secret
    for change in (lambda r: None, lambda r: setattr(r, "model_name", secret), lambda r: r.outputs.add(name=secret)):
        change(asked)
        with pytest.raises(grpc.RpcError) as error:
            client.infer(asked)
        shown = json.dumps([error.value.details(), [list(m) for m in error.value.trailing_metadata() or ()]])
        assert secret not in shown


def _until(true: Any) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
