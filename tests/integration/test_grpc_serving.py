"""The gRPC door as a server: health, reflection, streams, deadlines, bounds, and how it stops."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import trueup
from grpc_calls import Client, calling, infer_request, refused, values
from serving import Served, serving
from trueup.bootstrap import wired
from trueup.doors.auth import ApiRole
from trueup.doors.inference import wire
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb
from trueup.doors.inference.grpc.generated.open_inference_pb2_grpc import GRPCInferenceServiceStub
from trueup.ledger.urls import Urls
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
INFER = "/inference.GRPCInferenceService/ModelInfer"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def door(up: trueup.Trueup) -> Iterator[Served]:
    up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    with serving(up) as served:
        yield served


@pytest.fixture
def client(door: Served) -> Iterator[Client]:
    with calling(door) as found:
        yield found


@pytest.fixture
def narrow(fresh_database: Urls, tmp_path: Path) -> Iterator[Client]:
    limits = Limits(body_bytes=20_000, request_rows=20, gathered_rows=2, queued_rows=6, grpc_calls=12,
                    inferences_in_flight=10, stream_requests_in_flight=3)  # fmt: skip
    with trueup.Trueup(wired(trueup.Settings(data_dir=tmp_path, limits=limits), fresh_database)) as up:
        up.deploy("t", contract=CONTRACT, model="python:small_models:slow_share_of_a_million", version="1")
        with serving(up) as served, calling(served) as found:
            yield found


def request(*amounts: float, raw: bool = False, **parameters: Any) -> pb.ModelInferRequest:
    accounts = [b"00%d" % i for i in range(len(amounts))]
    return infer_request(("account", "BYTES", accounts), ("amount", "FP64", amounts), raw=raw, **parameters)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def health(client: Client) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(client.channel)


class TestHealth:
    @pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService"])
    def test_a_served_service_is_serving_without_a_key(self, client: Client, service: str):
        asked = health_pb2.HealthCheckRequest(service=service)
        assert health(client).Check(asked).status == SERVING
        watch = health(client).Watch(asked)
        assert next(watch).status == SERVING
        watch.cancel()

    def test_an_unknown_service_is_not_found(self, client: Client):
        asked = health_pb2.HealthCheckRequest(service="other")
        refused(lambda: health(client).Check(asked), StatusCode.NOT_FOUND)
        watch = health(client).Watch(asked)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()

    def test_it_is_not_serving_while_the_server_drains_and_calls_are_still_answered(self, up: trueup.Trueup):
        up.deploy("t", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
        with serving(up, drain_s=1.5) as door, calling(door) as client:
            watch = health(client).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == SERVING
            door.server.handle_exit(signal.SIGTERM, None)
            for service in ("", "inference.GRPCInferenceService"):
                assert health(client).Check(health_pb2.HealthCheckRequest(service=service)).status == NOT_SERVING
            assert not client.stub.ServerReady(pb.ServerReadyRequest()).ready
            assert client.stub.ServerLive(pb.ServerLiveRequest()).live
            assert next(watch).status == NOT_SERVING
            assert values(client.infer(request(250_000.0)), "score") == [0.25]
            assert list(watch) == []  # the watch ends with the server


def test_reflection_describes_the_services_to_whoever_may_read(client: Client):
    for name in ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"):
        ask = client.channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Such"),
        ]
        refused(lambda ask=ask, one=questions[0]: list(ask(iter([one]))), StatusCode.UNAUTHENTICATED)
        services, described, unknown = ask(iter(questions), metadata=client.metadata(ApiRole.READER))
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= {
            s.name for s in services.list_services_response.service
        }
        file = FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
        assert [s.name for s in file.service] == ["GRPCInferenceService"]
        assert unknown.error_response.error_code == StatusCode.NOT_FOUND.value[0]


class Stream:
    """An open inference stream that the test writes to and reads from."""

    def __init__(self, client: Client, **metadata: str) -> None:
        self.asked: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
        self.answers = client.stub.ModelStreamInfer(
            iter(self.asked.get, None), metadata=client.metadata(ApiRole.SCORER, **metadata), timeout=60
        )

    def ask(self, *requests: pb.ModelInferRequest) -> None:
        for one in requests:
            self.asked.put(one)

    def end(self) -> None:
        self.asked.put(None)


class TestStream:
    @pytest.mark.parametrize("raw", [False, True])
    def test_answers_come_in_the_order_of_the_questions(self, door: Served, client: Client, raw: bool):
        stream = Stream(client)
        for i in range(100):
            asked = request(1_000.0 * i, raw=raw)
            asked.id = str(i)
            stream.ask(asked)
        stream.end()
        answers = list(stream.answers)
        assert [a.infer_response.id for a in answers] == [str(i) for i in range(100)]
        assert [values(a.infer_response, "score") for a in answers] == [[i / 1e3] for i in range(100)]
        assert all(a.infer_response.parameters["triton_final_response"].bool_param for a in answers)
        assert door.count() == 100

    def test_a_question_is_answered_before_the_next_is_asked(self, client: Client):
        stream = Stream(client)
        for i in range(3):
            stream.ask(request(1_000.0 * i))
            assert values(next(stream.answers).infer_response, "score") == [i / 1e3]
        stream.end()

    def test_what_fails_is_an_error_message_and_the_stream_goes_on(self, door: Served, client: Client):
        stream = Stream(client)
        bad, unknown = request(-5.5), request(1.0)
        bad.id, unknown.model_name = "bad", "no"
        stream.ask(bad, unknown, request(1.0, idempotency_key="k"), request(2.0, idempotency_key="k"), request(4.0))
        stream.end()
        first, second, third, conflict, last = stream.answers
        assert "row 0, amount" in first.error_message
        assert "5.5" not in first.error_message
        assert (first.infer_response.id, first.infer_response.parameters["status"].string_param) == (
            "bad",
            "INVALID_ARGUMENT",
        )
        assert second.infer_response.parameters["status"].string_param == "NOT_FOUND"
        assert (third.error_message, last.error_message) == ("", "")
        assert conflict.infer_response.parameters["status"].string_param == "ALREADY_EXISTS"
        assert door.count() == 2

    def test_it_needs_a_key_that_may_score_and_that_still_works(self, door: Served, client: Client):
        refused(lambda: list(client.stub.ModelStreamInfer(iter([request(1.0)]))), StatusCode.UNAUTHENTICATED)
        reader = client.metadata(ApiRole.READER)
        refused(
            lambda: list(client.stub.ModelStreamInfer(iter([request(1.0)]), metadata=reader)),
            StatusCode.PERMISSION_DENIED,
        )
        stream = Stream(client)
        stream.ask(request(1.0))
        next(stream.answers)
        door.revoke(ApiRole.SCORER)
        stream.ask(request(1.0))
        refused(lambda: next(stream.answers), StatusCode.UNAUTHENTICATED)
        assert door.count() == 1

    def test_one_key_for_a_whole_stream_is_refused(self, client: Client):
        stream = Stream(client, idempotency_key="k")
        stream.ask(request(1.0))
        refused(lambda: next(stream.answers), StatusCode.INVALID_ARGUMENT, "its own key")

    def test_a_stream_never_has_more_in_flight_than_its_bound(self, narrow: Client):
        stream = Stream(narrow)
        stream.ask(*[request(float(i)) for i in range(30)])
        stream.end()
        answers = list(stream.answers)  # all at once would not fit into the queue of 6
        assert [a.error_message for a in answers] == [""] * 30
        assert narrow.door.count() == 30

    def test_a_caller_that_leaves_ends_its_stream(self, door: Served, client: Client):
        stream = Stream(client)
        stream.ask(request(1.0))
        next(stream.answers)
        stream.answers.cancel()
        until(lambda: door.grpc.open_calls == 0)


class TestDeadlines:
    def test_a_request_whose_deadline_passed_is_not_scored_and_is_booked_as_timed_out(self, narrow: Client):
        with ThreadPoolExecutor(2) as pool:
            slow = [pool.submit(narrow.infer, request(1.0, 2.0)) for _ in range(2)]
            until(lambda: narrow.door.grpc.open_calls == 2)
            narrow.refused(request(3.0), StatusCode.DEADLINE_EXCEEDED, timeout=0.1)
            assert all(len(s.result().outputs) for s in slow)
        until(lambda: narrow.door.count("refusals", "reason = 'timed_out'") == 1)
        assert narrow.door.count() == 4

    def test_the_timeout_parameter_is_a_deadline_too(self, narrow: Client):
        with ThreadPoolExecutor(2) as pool:
            slow = [pool.submit(narrow.infer, request(1.0, 2.0)) for _ in range(2)]
            until(lambda: narrow.door.grpc.open_calls == 2)
            narrow.refused(
                request(3.0, timeout=1_000), StatusCode.DEADLINE_EXCEEDED, "before the instances were scored"
            )
            assert all(len(s.result().outputs) for s in slow)
        until(lambda: narrow.door.count("refusals", "reason = 'timed_out'") == 1)

    def test_a_retry_after_a_deadline_gets_the_answer_that_was_booked_meanwhile(self, narrow: Client):
        narrow.refused(request(250_000.0, idempotency_key="k"), StatusCode.DEADLINE_EXCEEDED, timeout=0.1)
        answer = narrow.infer(request(250_000.0, idempotency_key="k"))
        assert values(answer, "score") == [0.25]
        assert narrow.door.count() == 1

    def test_a_message_that_does_not_arrive_ends_the_call(self, client: Client, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(wire, "BODY_READ_S", 0.3)
        gone = threading.Event()

        def nothing() -> Iterator[bytes]:
            gone.wait(30)
            yield from ()

        call = client.channel.stream_unary(INFER)
        refused(lambda: call(nothing(), metadata=client.metadata()), StatusCode.DEADLINE_EXCEEDED, "did not arrive")
        gone.set()


class TestBounds:
    def test_beyond_the_queue_it_is_refused_at_once_and_booked(self, narrow: Client):
        def call(i: int) -> StatusCode | None:
            try:
                narrow.infer(request(float(i), float(i)))
            except grpc.RpcError as error:
                told.append(list(error.trailing_metadata()))
                code: StatusCode = error.code()
                return code
            return None

        told: list[Any] = []

        with ThreadPoolExecutor(9) as pool:
            codes = list(pool.map(call, range(9)))
        assert set(codes) == {None, StatusCode.RESOURCE_EXHAUSTED}
        assert all(("grpc-retry-pushback-ms", "1000") in metadata for metadata in told)
        assert narrow.door.count() == 2 * codes.count(None)
        refusals = 2 * codes.count(StatusCode.RESOURCE_EXHAUSTED)
        until(lambda: narrow.door.count("refusals", "reason = 'overloaded'") == refusals)

    def test_calls_are_bounded_and_health_is_answered_all_the_same(self, narrow: Client):
        streams = [Stream(narrow) for _ in range(12)]
        until(lambda: narrow.door.grpc.open_calls == 12)
        narrow.refused(request(1.0), StatusCode.RESOURCE_EXHAUSTED, "too many calls")
        assert health(narrow).Check(health_pb2.HealthCheckRequest()).status == SERVING
        for stream in streams:
            stream.end()
        until(lambda: narrow.door.grpc.open_calls == 0)
        narrow.infer(request(1.0))

    def test_messages_are_bounded_also_when_they_are_unpacked(self, narrow: Client):
        large = request(1.0, raw=True)
        large.raw_input_contents[0] = bytes(30_000)
        narrow.refused(large, StatusCode.RESOURCE_EXHAUSTED)
        large.raw_input_contents[0] = bytes(5_000_000)
        with pytest.raises(grpc.RpcError) as error:
            narrow.stub.ModelInfer(large, metadata=narrow.metadata(), compression=grpc.Compression.Gzip)
        assert error.value.code() is StatusCode.RESOURCE_EXHAUSTED
        narrow.refused(request(*[1.0] * 21), StatusCode.INVALID_ARGUMENT, "at most 20")
        narrow.refused(request(1.0), StatusCode.RESOURCE_EXHAUSTED, padding="x" * 40_000)
        assert narrow.door.count() == 0
        narrow.infer(request(1.0))

    @pytest.mark.parametrize("message", [b"", b"\xff", b"\x2a\xff\xff\xff\xff\x7f", b"\x0a\x01\xff", b"\x2a\x02" * 99])
    def test_a_hostile_message_is_a_plain_refusal(self, client: Client, message: bytes):
        call = client.channel.unary_unary(INFER)
        with pytest.raises(grpc.RpcError) as error:
            call(message, metadata=client.metadata())
        assert error.value.code() in (StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND)
        client.infer(request(1.0))

    def test_an_unknown_method_is_unimplemented(self, client: Client):
        for method in ("/inference.GRPCInferenceService/ModelConfig", "/other.Service/Method"):
            call = client.channel.unary_unary(method)
            refused(lambda call=call: call(b"", metadata=client.metadata()), StatusCode.UNIMPLEMENTED)


class TestStopping:
    def test_what_has_arrived_is_answered_and_booked(self, narrow: Client):
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(narrow.infer, request(float(i))) for i in range(4)]
            until(lambda: narrow.door.grpc.open_calls == 4)
            narrow.door.server.should_exit = True
            assert [values(a.result(), "status") for a in answers] == [[b"scored"]] * 4
        assert narrow.door.count() == 4

    def test_a_stream_answers_what_it_has_read_and_says_that_it_stops(self, narrow: Client):
        stream = Stream(narrow)
        stream.ask(request(1.0), request(2.0), request(3.0))
        until(lambda: narrow.door.count() in (1, 2))  # a batch of at most two is booked, the rest in the model
        narrow.door.server.should_exit = True
        answered = []
        with pytest.raises(grpc.RpcError) as error:
            answered.extend(a for a in stream.answers)
        assert error.value.code() is StatusCode.UNAVAILABLE
        assert narrow.door.count() == 3


class Up:
    """`trueup up` in a process of its own, with a gRPC port."""

    def __init__(self, urls: Urls, folder: Path, port: int, prelude: str = "") -> None:
        environment = {
            **os.environ,
            "TRUEUP_DATABASE_URL": urls.owner,
            "TRUEUP_DATA_DIR": str(folder),
            "TRUEUP_GRPC_PORT": str(port),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
        }
        program = f"{prelude}\nfrom trueup.doors.cli.server import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "up", "--port", "0", "--drain-seconds", "0.5"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def started(self) -> str:
        """Waits until it listens; the admin key."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if re.search(r"listens on (\S+)", line):
                return self.process.stdout.readline().strip()
        raise AssertionError("the server did not start")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_sigterm_under_load_loses_no_accepted_request(up: trueup.Trueup, fresh_database: Urls, tmp_path: Path):
    up.deploy("t", contract=CONTRACT, model="python:small_models:slow_share_of_a_million", version="1")
    port = free_port()
    process = Up(fresh_database, tmp_path / "data", port)
    key = process.started()
    answered: list[str] = []
    codes: list[StatusCode] = []

    def load(caller: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            for i in range(1_000):
                name = f"{caller}-{i}"
                try:
                    stub.ModelInfer(
                        request(1.0, idempotency_key=name), metadata=[("authorization", f"Bearer {key}")], timeout=30
                    )
                except grpc.RpcError as error:
                    codes.append(error.code())
                    return
                answered.append(name)

    with ThreadPoolExecutor(8) as pool:
        for caller in range(8):
            pool.submit(load, caller)
        until(lambda: len(answered) > 16)
        process.process.send_signal(signal.SIGTERM)
    process.process.communicate(timeout=30)
    assert process.process.returncode == 0
    booked = {row["source_key"] for row in up.query("SELECT source_key FROM predictions").rows()}
    assert booked == set(answered)
    assert set(codes) == {StatusCode.UNAVAILABLE}


def test_a_port_that_is_taken_is_said_at_the_start(up: trueup.Trueup, fresh_database: Urls, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = Up(fresh_database, tmp_path / "data", taken.getsockname()[1]).process
        _, err = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "TRUEUP_GRPC_PORT" in err
    assert "Traceback" not in err


def test_without_the_extra_the_port_is_refused_by_name(up: trueup.Trueup, fresh_database: Urls, tmp_path: Path):
    process = Up(fresh_database, tmp_path / "data", 0, "import sys; sys.modules['grpc'] = None").process
    _, err = process.communicate(timeout=60)
    assert process.returncode == 8
    assert "pip install 'trueup[grpc]'" in err
