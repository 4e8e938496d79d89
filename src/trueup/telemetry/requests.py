"""One request as logs, metrics and traces see it.

A door opens it and says what came of it; in between, whoever knows the deployment and the number
of instances says so to :func:`current`, whatever the protocol::

    with telemetry.request("rest", headers) as observed:
        reply = ...
        observed.answered(reply.status, reply.outcome)
        reply.headers += observed.headers()
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from trueup.telemetry.layout import DOORS, OUTCOMES, UNRESOLVED
from trueup.telemetry.logs import describe_with, log, shows_info
from trueup.telemetry.metrics import Metrics
from trueup.telemetry.sharing import Workers
from trueup.telemetry.traces import Traces, response_header, trace_id

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

REQUEST_ID = b"x-request-id"
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:/+=@~-]{1,128}\Z")
_PROCESS, _NUMBERS = uuid4().hex[:12].encode(), count(1)
_NO_HEADERS: list[tuple[bytes, bytes]] = []
_DOOR = {door: place for place, door in enumerate(DOORS)}
# Errors after which no row of the ledger speaks of the request's instances.
_UNBOOKED = frozenset(OUTCOMES) - {
    *("ok", "instance_invalid", "scoring_failed", "conflict", "overloaded", "timed_out", "client_gone"),
}


class Observed:
    """A request from its arrival to its answer."""

    __slots__ = (
        *("_headers", "_id", "_metrics", "_number", "_place", "_token", "began_ns", "deployment", "door"),
        *("outcome", "rows", "span", "status"),
    )

    def __init__(self, telemetry: Telemetry, door: str, headers: Mapping[bytes, bytes]) -> None:
        self._metrics = telemetry.metrics
        self._headers = headers
        self._number = _DOOR[door]
        self._id: bytes | None = None
        self._place = UNRESOLVED
        self.door = door
        self.began_ns = time.perf_counter_ns()
        self.deployment = ""
        self.rows = 0
        self.outcome = "client_gone"  # until it is answered
        self.status = 499
        self.span: Span | None = telemetry.traces.request(door, headers) if telemetry.traces.on else None

    def __enter__(self) -> Self:
        self.begin()
        self._token: Token[Observed | None] = _CURRENT.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _CURRENT.reset(self._token)
        self.end()

    def begin(self) -> None:
        """Counts it as being answered; for whoever ends it elsewhere than it began."""
        self._metrics.in_flight[self._number] += 1

    def here(self) -> _Here:
        """Is the current request for as long as the block lasts."""
        return _Here(self)

    def end(self) -> None:
        """It was answered, or given up."""
        took_ns = time.perf_counter_ns() - self.began_ns
        metrics = self._metrics
        metrics.in_flight[self._number] -= 1
        unbooked = self.outcome in _UNBOOKED
        metrics.request(self._number, self._place, self.outcome, took_ns, self.rows, unbooked=unbooked)
        if self.span is not None:
            self._end_span(self.span)
        if shows_info():
            with self.here():
                self._write(took_ns)

    def resolved(self, deployment: str) -> None:
        """The request is for a deployment that exists."""
        self.deployment = deployment
        self._place = self._metrics.deployment(deployment)

    def scoring(self, rows: int) -> None:
        """So many instances reach the scoring path."""
        self.rows += rows

    def answered(self, status: int, outcome: str) -> None:
        """``status`` as HTTP says it, ``outcome`` one of ``OUTCOMES``."""
        self.status = status
        self.outcome = outcome

    @property
    def request_id(self) -> bytes:
        """The caller's own id where it is short and plain, else one of ours."""
        if self._id is None:
            given = self._headers.get(REQUEST_ID)
            self._id = given if given and _SAFE_ID.match(given) else b"%b-%x" % (_PROCESS, next(_NUMBERS))
        return self._id

    @property
    def context(self) -> SpanContext | None:
        """What a batch's span is linked to; None while tracing is off."""
        return None if self.span is None else self.span.get_span_context()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the answer: the request's id and, while tracing is on, its span.

        An id of ours is worth its bytes only where somebody may ask for it: on errors, and where a log has it.
        """
        if self.span is not None:
            return [(REQUEST_ID, self.request_id), (b"traceresponse", response_header(self.span))]
        if self.outcome == "ok" and REQUEST_ID not in self._headers and not shows_info():
            return _NO_HEADERS
        return [(REQUEST_ID, self.request_id)]

    def _end_span(self, span: Span) -> None:
        from opentelemetry.trace import StatusCode

        span.set_attribute("http.response.status_code", self.status)
        if self.deployment:
            span.set_attribute("trueup.deployment", self.deployment)
            span.set_attribute("trueup.rows", self.rows)
        if self.outcome != "ok":
            span.set_attribute("error.type", self.outcome)
        if self.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    def _write(self, took_ns: int) -> None:
        log("request").info(
            "request",
            trace=trace_id(self.span, self._headers),
            door=self.door,
            deployment=self.deployment,
            status=self.status,
            outcome=self.outcome,
            rows=self.rows,
            ms=round(took_ns / 1e6, 3),
        )


class _Here:
    """A block in which a request is the current one; a generator would take three times as long."""

    __slots__ = ("_observed", "_token")

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def __enter__(self) -> None:
        self._token: Token[Observed | None] = _CURRENT.set(self._observed)

    def __exit__(self, *_: object) -> None:
        _CURRENT.reset(self._token)


class Telemetry:
    """Everything a process says of itself. ``workers`` is set where several share a port."""

    def __init__(self, deployments: int = 64) -> None:
        self.metrics = Metrics(deployments)
        self.traces = Traces()
        self.workers: Workers | None = None

    def start(self, run: Path) -> None:
        """Begins to trace where the environment asks for it, and joins the other workers; ``run`` is their folder.

        For what serves; a command that ends at once needs neither.
        """
        self.traces = Traces.configured()
        self.workers = Workers.joined(run, self.metrics)

    def request(self, door: str, headers: Mapping[bytes, bytes]) -> Observed:
        """A request that has just come in; ``headers`` by lower-case name."""
        return Observed(self, door, headers)

    def close(self) -> None:
        """Sends what waits to be sent."""
        if self.workers is not None:
            self.workers.leave()
        self.traces.close()


_CURRENT: ContextVar[Observed | None] = ContextVar("trueup_request", default=None)
_NOBODY = Observed(Telemetry(deployments=1), "api", {})


def current() -> Observed:
    """The request that is being answered here; outside of one a stand-in, whose counts nobody sees."""
    return _CURRENT.get() or _NOBODY


def _about() -> dict[str, str]:
    """Every event inside a request carries the request's id."""
    observed = _CURRENT.get()
    return {} if observed is None else {"request_id": observed.request_id.decode("ascii")}


describe_with(_about)
