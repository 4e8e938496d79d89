"""OpenTelemetry traces: a span a request, a span a batch that is linked to its requests, a span a booking.

Off unless the standard variables ask for it: ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or
``..._TRACES_ENDPOINT``), or ``OTEL_TRACES_EXPORTER=otlp``. Spans hold names, codes, counts and
times, never instances, keys or what a caller wrote. The exporter's queue is bounded
(``OTEL_BSP_MAX_QUEUE_SIZE``); what does not fit is dropped, and no request waits for it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trueup.telemetry.logs import log

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext
    from opentelemetry.util.types import AnyValue

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")
MOST_STATE = 512  # characters of tracestate, as many as the standard asks to be carried
ROUTES = {
    "rest": "POST /v2/models/{model}/infer",
    "grpc": "inference.GRPCInferenceService/ModelInfer",
    "invocations": "POST /invocations",
    "records": "POST /v1/deployments/{name}/score",
    "api": "trueup api",
}


class Traces:
    """Starts spans where tracing is on; ``on`` False costs a look at it and nothing else."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self.on = provider is not None
        if provider is not None:
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            self._tracer = provider.get_tracer("trueup")
            self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def configured(cls, environment: Mapping[str, str] = os.environ) -> Traces:
        """As the standard variables say; without the extra ``otel`` a warning, and none."""
        if not _wanted(environment):
            return cls()
        try:
            return cls(_provider())
        except ImportError:
            log("telemetry").warning("no_traces", next_step="pip install 'trueup[otel]'")
            return cls()

    def request(self, door: str, headers: Mapping[bytes, bytes]) -> Span | None:
        """The span of one request, in the caller's trace where it names one. None while tracing is off."""
        if not self.on or door not in ROUTES:
            return None
        from opentelemetry.trace import SpanKind

        carrier = {}
        if _PARENT.match(headers.get(TRACEPARENT, b"")):
            carrier["traceparent"] = headers[TRACEPARENT].decode("ascii")
            if len(state := headers.get(TRACESTATE, b"")) <= MOST_STATE:
                carrier["tracestate"] = state.decode("latin-1")
        from opentelemetry.context import Context

        parent = self._propagator.extract(carrier, Context())
        return self._tracer.start_span(ROUTES[door], parent, SpanKind.SERVER, {"trueup.door": door})

    def batch(
        self, requests: Sequence[SpanContext | None], deployment: str, rows: int, steps_us: Any, book_us: int
    ) -> None:
        """A batch that was just booked: ``steps_us`` (n, 4) as in Booking.

        In the trace of its first sampled request, and linked to all of them; none sampled, no span.
        """
        sampled = [context for context in requests if context is not None and context.trace_flags.sampled]
        if not self.on or not sampled:
            return
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, set_span_in_context

        ended = time.time_ns()
        booking = ended - book_us * 1000
        spent_us = int(steps_us[:, (1, 3)].max(axis=0).sum()) if len(steps_us) else 0
        about: dict[str, AnyValue] = {
            "trueup.deployment": deployment,
            "trueup.rows": rows,
            "trueup.requests": len(requests),
        }
        first = set_span_in_context(NonRecordingSpan(sampled[0]), Context())
        links = [Link(context) for context in sampled]
        batch = self._tracer.start_span("batch", first, SpanKind.INTERNAL, about, links, booking - spent_us * 1000)
        inside = set_span_in_context(batch, Context())
        kind: dict[str, AnyValue] = {"db.system.name": "postgresql", "db.operation.batch.size": rows}
        self._tracer.start_span("book", inside, SpanKind.CLIENT, kind, None, booking).end(ended)
        batch.end(ended)

    def close(self) -> None:
        """Sends what waits, for at most the exporter's timeout."""
        if self._provider is not None:
            self._provider.shutdown()


def trace_id(span: Span | None, headers: Mapping[bytes, bytes]) -> str | None:
    """32 hex digits of the trace a request belongs to, also where only its caller traces."""
    if span is not None:
        return f"{span.get_span_context().trace_id:032x}"
    found = _PARENT.match(headers.get(TRACEPARENT, b""))
    return found[1].decode() if found else None


def response_header(span: Span) -> bytes:
    """What ``traceresponse`` says: the trace and span that the request became (W3C Trace Context)."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}".encode()


def _wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter:
        return exporter == "otlp"
    return any(environment.get(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in ("", "TRACES_"))


def _provider() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "trueup"}
    if "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        named = {}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
