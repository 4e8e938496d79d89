"""A request as it is observed: its id, its place, and what an environment switches on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from trueup.telemetry import configure, log
from trueup.telemetry.exposition import Exposition
from trueup.telemetry.requests import Telemetry, current
from trueup.telemetry.traces import Traces, trace_id

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Loggers hold the standard error they were configured with, which a test's capture closes."""
    yield
    configure("warning")
    structlog.reset_defaults()


@pytest.fixture
def informed() -> None:
    configure("info", as_json=True)


def page(telemetry: Telemetry) -> str:
    return Exposition(telemetry.metrics, None, "0").page("")[0].decode()


class TestRequestId:
    @pytest.mark.parametrize("safe", [b"a", b"0af7-65:19/16.cd=~@+", b"x" * 128])
    def test_a_plain_one_is_echoed(self, safe: bytes):
        with Telemetry().request("rest", {b"x-request-id": safe}) as observed:
            assert observed.headers() == [(b"x-request-id", safe)]

    @pytest.mark.parametrize(
        "unsafe", [b"", b"x" * 129, b"a b", b"a\r\nset-cookie: x", b"\xff", b"<script>", b'"', b"a\n", b"\x00"]
    )
    def test_any_other_gives_way_to_one_of_ours(self, unsafe: bytes):
        with Telemetry().request("rest", {b"x-request-id": unsafe}) as observed:
            ((_, made),) = observed.headers()
            assert made != unsafe
            assert made.decode("ascii").isprintable()

    def test_ours_is_made_where_somebody_may_ask_for_it(self, informed: None):
        telemetry = Telemetry()
        ids = set()
        for _ in range(3):
            with telemetry.request("rest", {}) as observed:
                observed.answered(200, "ok")
                ids.update(dict(observed.headers()).values())
        assert len(ids) == 3

    def test_an_answer_without_a_given_one_carries_none(self):
        with Telemetry().request("rest", {}) as observed:
            assert dict(observed.headers())  # not answered yet: might become an error
            observed.answered(200, "ok")
            assert observed.headers() == []


class TestCounting:
    def test_what_is_said_in_between_is_counted_when_the_request_ends(self):
        telemetry = Telemetry()
        with telemetry.request("records", {}) as observed:
            current().resolved("m")
            current().scoring(3)
            assert 'trueup_requests_in_flight{door="records"} 1.0' in page(telemetry)
            observed.answered(503, "ledger_unavailable")
        text = page(telemetry)
        assert 'trueup_requests_in_flight{door="records"} 0.0' in text
        assert 'trueup_instances_received_total{deployment="m"} 3.0' in text
        assert 'trueup_instances_unbooked_total{deployment="m"} 3.0' in text

    @pytest.mark.parametrize(("outcome", "unbooked"), [("ok", 0), ("overloaded", 0), ("internal", 2), ("conflict", 0)])
    def test_unbooked_is_what_the_ledger_cannot_know_of(self, outcome: str, unbooked: int):
        telemetry = Telemetry()
        with telemetry.request("rest", {}) as observed:
            current().resolved("m")
            current().scoring(2)
            observed.answered(200, outcome)
        assert f'trueup_instances_unbooked_total{{deployment="m"}} {unbooked}.0' in page(telemetry)

    def test_a_request_that_breaks_off_is_counted_too(self):
        telemetry = Telemetry()
        with pytest.raises(ConnectionError), telemetry.request("rest", {}):
            raise ConnectionError
        assert 'outcome="client_gone"' in page(telemetry)
        assert 'trueup_requests_in_flight{door="rest"} 0.0' in page(telemetry)

    def test_outside_of_a_request_nothing_is_counted(self):
        telemetry = Telemetry()
        current().resolved("nobody")
        current().scoring(5)
        assert "nobody" not in page(telemetry)


class TestLogs:
    def test_one_event_a_request_with_what_is_known_of_it(self, informed: None, capsys: pytest.CaptureFixture[str]):
        configure("info", as_json=True)
        headers = {b"x-request-id": b"r-1", b"traceparent": PARENT.encode(), b"authorization": b"Bearer secret"}
        with Telemetry().request("grpc", headers) as observed:
            current().resolved("m")
            current().scoring(2)
            log("anything").warning("inside")
            observed.answered(409, "conflict")
        inside, event = (json.loads(line) for line in capsys.readouterr().err.splitlines())
        assert inside["request_id"] == "r-1"
        assert {k: v for k, v in event.items() if k not in ("timestamp", "ms")} == {
            "event": "request",
            "room": "request",
            "level": "info",
            "request_id": "r-1",
            "trace": "0af7651916cd43dd8448eb211c80319c",
            "door": "grpc",
            "deployment": "m",
            "status": 409,
            "outcome": "conflict",
            "rows": 2,
        }

    def test_by_default_requests_are_not_logged(self, capsys: pytest.CaptureFixture[str]):
        configure("warning")
        with Telemetry().request("rest", {}):
            pass
        assert capsys.readouterr().err == ""


class TestTraces:
    @pytest.mark.parametrize(
        ("environment", "on"),
        [
            ({}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
            ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
            ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, False),
            ({"OTEL_TRACES_EXPORTER": "console"}, False),
            ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, False),
        ],
    )
    def test_they_are_off_unless_the_standard_variables_ask(self, environment: dict[str, str], on: bool):
        traces = Traces.configured(environment)
        assert traces.on is on
        traces.close()

    @pytest.mark.parametrize(
        "malformed",
        ["", "00", PARENT.upper(), PARENT + "-x", PARENT.replace("-", "_"), "ff" * 30, PARENT + "\n", "é" * 55],
    )
    def test_a_malformed_parent_is_no_parent(self, malformed: str):
        assert trace_id(None, {b"traceparent": malformed.encode()}) is None

    def test_off_a_request_has_no_span(self):
        with Telemetry().request("rest", {b"traceparent": PARENT.encode()}) as observed:
            assert observed.span is None
            assert observed.context is None
            assert b"traceresponse" not in dict(observed.headers())
