"""Traces of the running door, as a real OTLP/HTTP receiver gets them."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import grpc_calls
import trueup
from observing import CONTRACT, oip, records
from serving import Served, serving
from trueup.doors.auth import ApiRole
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Receiver:
    """What a collector is to us: it takes POST /v1/traces and decodes the protobuf."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.raw = b""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                receiver.raw += body
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    about = {a.key: a.value.string_value for a in resource.resource.attributes}
                    receiver.services.add(about["service.name"])
                    receiver.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def awaited(self, name: str, n: int) -> list[Span]:
        until = time.monotonic() + 10
        while len(self.named(name)) < n and time.monotonic() < until:
            time.sleep(0.02)
        assert len(self.named(name)) == n, [span.name for span in self.spans]
        return self.named(name)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def door(up: trueup.Trueup, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    up.deploy("t", contract=CONTRACT, model="python:small_models:slow_share_of_a_million", version="1")
    up.services.telemetry.start(tmp_path / "run")
    with serving(up) as served:
        yield served


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_request_is_a_span_in_its_callers_trace(door: Served, receiver: Receiver):
    response = door.infer(oip(1.0, 2.0), headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "desk=7"})
    (request,) = receiver.awaited("POST /v2/models/{model}/infer", 1)
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert request.kind == Span.SPAN_KIND_SERVER
    assert request.trace_state == "desk=7"
    assert response.headers["traceresponse"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert attributes(request) == {
        "trueup.door": "rest",
        "http.response.status_code": 200,
        "trueup.deployment": "t",
        "trueup.rows": 2,
    }
    assert receiver.services == {"trueup"}


def test_a_grpc_call_is_one_too(door: Served, receiver: Receiver):
    asked = grpc_calls.infer_request(("account", "BYTES", [b"a"]), ("amount", "FP64", [1.0]), raw=False)
    sent = [("authorization", f"Bearer {door.keys[ApiRole.SCORER]}"), ("traceparent", f"00-{TRACE}-{PARENT}-01")]
    with grpc_calls.calling(door) as client:
        _, call = client.stub.ModelInfer.with_call(asked, metadata=[*sent, ("x-request-id", "mine-7")], timeout=30)
        told = dict(call.trailing_metadata())
        with pytest.raises(grpc.RpcError) as error:
            client.stub.ModelInfer(pb.ModelInferRequest(model_name="nobody"), metadata=sent, timeout=30)
    good, bad = receiver.awaited("inference.GRPCInferenceService/ModelInfer", 2)
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, PARENT)
    assert told["traceresponse"] == f"00-{TRACE}-{good.span_id.hex()}-01"
    assert told["x-request-id"] == "mine-7"
    assert dict(error.value.trailing_metadata())["traceresponse"] == f"00-{TRACE}-{bad.span_id.hex()}-01"
    assert (attributes(good)["trueup.deployment"], attributes(bad)["error.type"]) == ("t", "not_found")


def test_a_batch_is_linked_to_its_requests_and_holds_its_booking(door: Served, receiver: Receiver):
    with ThreadPoolExecutor(8) as pool:
        assert {a.status_code for a in pool.map(lambda i: door.infer(oip(float(i))), range(8))} == {200}
    requests = {span.span_id: span for span in receiver.awaited("POST /v2/models/{model}/infer", 8)}
    until = time.monotonic() + 10
    while sum(len(batch.links) for batch in receiver.named("batch")) < 8 and time.monotonic() < until:
        time.sleep(0.02)
    batches = receiver.named("batch")
    assert 2 <= len(batches) < 8
    linked = [link.span_id for batch in batches for link in batch.links]
    assert sorted(linked) == sorted(requests)
    books = {span.parent_span_id: span for span in receiver.named("book")}
    for batch in batches:
        parent, book = requests[batch.parent_span_id], books[batch.span_id]
        assert batch.trace_id == parent.trace_id == book.trace_id
        assert batch.start_time_unix_nano <= book.start_time_unix_nano
        assert book.end_time_unix_nano <= batch.end_time_unix_nano <= parent.end_time_unix_nano
        assert batch.end_time_unix_nano - batch.start_time_unix_nano >= 2e8  # the model's own 0.2 s
        assert attributes(batch) == {
            "trueup.deployment": "t",
            "trueup.rows": len(batch.links),
            "trueup.requests": len(batch.links),
        }
        assert attributes(book) == {"db.system.name": "postgresql", "db.operation.batch.size": len(batch.links)}


def test_errors_are_told_apart(door: Served, receiver: Receiver):
    door.infer(b"{")
    door.infer(oip(1.0), model="made_up_secret_name")
    spans = receiver.awaited("POST /v2/models/{model}/infer", 2)
    assert [attributes(span).get("error.type") for span in spans] == ["invalid_request", "not_found"]
    assert "trueup.deployment" not in attributes(spans[1])
    assert b"made_up_secret_name" not in receiver.raw


@pytest.mark.parametrize("malformed", ["", "x", f"00-{TRACE}-{PARENT}", f"00-{'0' * 32}-{PARENT}-01", "00-" * 500])
def test_a_malformed_parent_begins_a_new_trace(door: Served, receiver: Receiver, malformed: str):
    assert records(door, 1.0).status_code == 200
    assert door.infer(oip(1.0), headers={"traceparent": malformed}).status_code == 200
    (request,) = receiver.awaited("POST /v2/models/{model}/infer", 1)
    assert request.parent_span_id == b""
    assert request.trace_id.hex() != TRACE
    assert len(receiver.awaited("POST /v1/deployments/{name}/score", 1)) == 1


def test_what_its_caller_does_not_sample_is_not_sent(door: Served, receiver: Receiver):
    unsampled = door.infer(oip(1.0), headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert unsampled.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert door.infer(oip(2.0)).status_code == 200
    assert len(receiver.awaited("batch", 1)[0].links) == 1
    assert all(span.trace_id.hex() != TRACE for span in receiver.spans)


def test_no_value_key_or_header_is_in_a_span(door: Served, receiver: Receiver):
    planted = "planted-4711"
    headers = {"Idempotency-Key": planted, "X-Request-Id": planted, "X-Other": planted, "baggage": f"a={planted}"}
    sent = oip(1.0, id=planted)
    sent["inputs"][0]["data"] = [planted]
    assert door.infer(sent, headers=headers).status_code == 200
    receiver.awaited("book", 1)
    assert planted.encode() not in receiver.raw
    assert door.keys[ApiRole.SCORER].encode() not in receiver.raw


def test_a_receiver_that_is_away_stops_no_request(door: Served, receiver: Receiver):
    receiver.server.shutdown()
    receiver.server.server_close()
    assert [door.infer(oip(float(i))).status_code for i in range(3)] == [200] * 3
