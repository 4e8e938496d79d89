"""What arrived while the last batch was being booked forms the next batch; nothing waits for a timer.

1. *admit* a request, unless as many rows wait as may (then: overloaded, and a row of refusals).
2. *gather* what waits, oldest first, up to the bound of a batch. Of one key only the first
   request: its repeat goes with a later batch and finds the row. A request whose deadline has
   passed is not scored; it is a row of refusals.
3. *decode*, *predict* and *book* in a thread. A request with a bad instance is refused whole;
   if decoding or the model fails on a gathered batch, every request is tried alone, so that none
   fails for its neighbour.
4. *answer* each caller from its own rows.

A second batch is booked beside the first once a full one waits: under load batches grow instead
of multiplying. Callers share a batch and a commit, nothing else.
Everything but step 3 runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Columns, Decoded, RefusalReason, Source
from trueup.errors import InstanceErrors, InvalidInput, Overloaded, TimedOut, TrueupError
from trueup.scoring.service import Instances, Resolved, Response, RowRefusal, Scoring
from trueup.settings import Limits
from trueup.telemetry import log
from trueup.telemetry.requests import Telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

REFUSALS_S = 0.05  # refusals wait for so long for others

Decode = Callable[[Decoder, Sequence[Any]], Decoded]
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Ask:
    """One caller's ``rows`` instances: ``payload`` as ``decode`` takes it, or ``columns`` that are decoded already.

    Payloads of one ``decode`` and one ``form`` can be decoded together.
    """

    resolved: Resolved
    source: Source
    rows: int
    received_at: datetime
    decode: Decode
    form: Hashable
    payload: Any
    columns: Columns | None = None
    event_time: datetime | None = None  # of all rows; None where the contract or the first arrival says it
    want_reasons: bool = False
    deadline: float | None = None  # of time.monotonic
    parse_us: int = 0
    waiting_since_ns: int = 0
    trace: SpanContext | None = None
    answer: asyncio.Future[Part] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def goes_with(self, other: Ask) -> bool:
        """Whether both may be rows of one batch."""
        return (
            self.resolved is other.resolved
            and self.form == other.form
            and self.decode is other.decode
            and self.want_reasons == other.want_reasons
            and (self.event_time is None) == (other.event_time is None)
        )


class Booked:
    """The response to a whole batch, and what doors make of it once for all of its callers."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[Response], T]) -> T:
        """``make`` of the response, made by the first who asks."""
        if name not in self._made:
            self._made[name] = make(self.response)
        made: T = self._made[name]
        return made


@dataclass(frozen=True, slots=True)
class Part:
    """One caller's rows of a batch."""

    booked: Booked
    rows: slice

    @property
    def refused(self) -> list[RowRefusal]:
        """What of the caller's rows got no answer."""
        found = self.booked.response.refused
        return [r for r in found if self.rows.start <= r.row < self.rows.stop] if found else []


class Gather:
    """The queues of all deployments. Belongs to one event loop."""

    def __init__(self, scoring: Scoring, limits: Limits, telemetry: Telemetry) -> None:
        self._scoring = scoring
        self._limits = limits
        self._lines: dict[tuple[str, str], _Line] = {}
        self._threads = ThreadPoolExecutor(limits.pool_connections, "trueup-inference")
        self._refused: deque[tuple[Ask, RefusalReason]] = deque(maxlen=limits.queued_refusals)
        self._refusing: asyncio.Task[None] | None = None
        self.rejected = 0  # requests beyond the bound, since the start
        self._telemetry = telemetry
        telemetry.metrics.observe("queue_rows", lambda: self._now(lambda line: line.rows))
        telemetry.metrics.observe("batches_in_flight", lambda: self._now(lambda line: line.in_flight))

    async def score(self, ask: Ask) -> list[Part]:
        """The answers to one request, in the order of its rows.

        A large request goes piece by piece, so that small ones pass between its pieces.
        Raises Overloaded, TimedOut, InstanceErrors, InvalidInput, LedgerUnavailable.
        """
        if ask.rows <= self._limits.gathered_rows:
            return [await self._one(ask)]
        decoded = await self._in_thread(lambda: ask.decode(ask.resolved.decoder, [ask.payload]))
        if decoded.errors_total:
            await self._in_thread(lambda: self._refuse_whole(ask, decoded))
            raise InstanceErrors(decoded.errors, decoded.errors_total)
        pieces = list(_pieces(ask, decoded.columns, self._limits.gathered_rows))
        return [await self._one(piece) for piece in pieces]

    async def drain(self) -> None:
        """Waits until nothing waits and nothing is being booked."""
        while any(line.waiting or line.in_flight for line in self._lines.values()):
            await asyncio.sleep(0.005)
        if self._refusing is not None:
            await self._refusing
        self._threads.shutdown()

    async def _one(self, ask: Ask) -> Part:
        name = (ask.resolved.deployment.name, ask.source.name)
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line()
        if line.rows + ask.rows > self._limits.queued_rows:
            self.rejected += 1
            self._refuse(ask, RefusalReason.OVERLOADED)
            raise Overloaded("too many instances wait", next_step="try again after a moment, with the same key")
        ask.waiting_since_ns = time.perf_counter_ns()
        line.waiting.append(ask)
        line.rows += ask.rows
        self._pump(line)
        return await ask.answer

    def _pump(self, line: _Line) -> None:
        while line.waiting and line.may_start(self._limits):
            asks = line.next_batch(self._limits.gathered_rows, self._expired)
            if not asks:
                return
            line.in_flight += 1
            running = asyncio.get_running_loop().run_in_executor(self._threads, self._answers, asks)
            running.add_done_callback(lambda done, asks=asks: self._done(line, asks, done))  # type: ignore[misc]

    def _done(self, line: _Line, asks: Sequence[Ask], done: asyncio.Future[list[Part | TrueupError]]) -> None:
        line.in_flight -= 1
        fault = done.exception()
        answers: Sequence[Part | BaseException] = [fault] * len(asks) if fault is not None else done.result()
        for ask, answer in zip(asks, answers, strict=True):
            if ask.answer.done():  # the caller has gone
                continue
            if isinstance(answer, BaseException):
                ask.answer.set_exception(answer)
            else:
                ask.answer.set_result(answer)
        self._pump(line)

    def _expired(self, ask: Ask) -> None:
        self._refuse(ask, RefusalReason.TIMED_OUT)
        if not ask.answer.done():
            ask.answer.set_exception(TimedOut("the deadline passed before the instances were scored"))

    def _answers(self, asks: list[Ask]) -> list[Part | TrueupError]:
        """Step 3, in a thread."""
        try:
            columns, errors = self._decoded(asks)
            if any(errors):
                good = [ask for ask, error in zip(asks, errors, strict=True) if error is None]
                answered = iter(self._answers(good) if good else [])
                return [next(answered) if error is None else error for error in errors]
            predicted = self._scoring.predict(asks[0].resolved, _instances(asks, columns))
            if not predicted.scored and len(asks) > 1:
                return self._alone(asks)
            booked = Booked(self._scoring.book(predicted))
            if self._telemetry.traces.on:
                self._telemetry.traces.batch(
                    [ask.trace for ask in asks],
                    asks[0].resolved.deployment.name,
                    len(predicted.rows),
                    predicted.steps_us,
                    booked.response.receipt.book_us,
                )
        except InvalidInput as error:
            return [error] if len(asks) == 1 else self._alone(asks)
        except TrueupError as error:
            return [error] * len(asks)
        ends = np.cumsum([ask.rows for ask in asks]).tolist()
        return [Part(booked, slice(end - ask.rows, end)) for ask, end in zip(asks, ends, strict=True)]

    def _alone(self, asks: Sequence[Ask]) -> list[Part | TrueupError]:
        return [answer for ask in asks for answer in self._answers([ask])]

    def _decoded(self, asks: Sequence[Ask]) -> tuple[Columns, list[InstanceErrors | None]]:
        """All instances, and each request's own errors. Raises InvalidInput when decoding together is impossible."""
        first = asks[0]
        if first.columns is not None:
            return Columns.joined([ask.columns for ask in asks if ask.columns is not None]), [None] * len(asks)
        decoded = first.decode(first.resolved.decoder, [ask.payload for ask in asks])
        if not decoded.errors_total:
            return decoded.columns, [None] * len(asks)
        if decoded.errors_total > len(decoded.errors) and len(asks) > 1:
            raise InvalidInput("more errors than are told apart")
        errors: list[InstanceErrors | None] = []
        start = 0
        for ask in asks:
            rows = range(start, start + ask.rows)
            own = tuple(replace(e, row=e.row - start) for e in decoded.errors if e.row in rows)
            if own:
                bad = {e.row for e in own}
                good = np.array([row for row in range(ask.rows) if row not in bad], np.intp)
                total = decoded.errors_total if len(asks) == 1 else len(own)
                self._refuse_whole(ask, Decoded(decoded.columns, good, ask.rows, own, total))
            errors.append(InstanceErrors(own, total) if own else None)
            start += ask.rows
        return decoded.columns, errors

    def _refuse_whole(self, ask: Ask, decoded: Decoded) -> None:
        """Books the refusal of every instance: bad ones by the contract, the others with their request."""
        named: dict[int, list[str]] = {}
        for error in decoded.errors:
            named.setdefault(error.row, []).append(f"{error.field}: {error.code}")
        good = set(decoded.rows.tolist())
        rows = [
            RowRefusal(row, RefusalReason.REQUEST, "another instance of the request breaks the contract")
            if row in good
            else RowRefusal(row, RefusalReason.CONTRACT, ", ".join(named.get(row, ["more field errors"])[:20]))
            for row in range(ask.rows)
        ]
        self._scoring.refuse(ask.resolved, ask.source, rows, ask.received_at)

    def _refuse(self, ask: Ask, reason: RefusalReason) -> None:
        """Has the refusal booked, soon, with others; the oldest are only counted where too many wait."""
        if len(self._refused) == self._limits.queued_refusals:
            self._lost([self._refused.popleft()])
        self._refused.append((ask, reason))
        if self._refusing is None or self._refusing.done():
            self._refusing = asyncio.get_running_loop().create_task(self._book_refusals())

    async def _book_refusals(self) -> None:
        await asyncio.sleep(REFUSALS_S)
        while self._refused:
            ask, reason = self._refused.popleft()
            rows = [RowRefusal(row, reason, _WHY[reason]) for row in range(ask.rows)]
            try:
                await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._scoring.refuse, ask.resolved, ask.source, rows, ask.received_at
                )
            except TrueupError as error:
                log("inference").error("refusals_not_booked", error=error.message, lost=len(self._refused) + 1)
                self._lost([(ask, reason), *self._refused])
                self._refused.clear()
                return

    def _lost(self, refused: Iterable[tuple[Ask, RefusalReason]]) -> None:
        """Counts refusals that the ledger will not know of."""
        metrics = self._telemetry.metrics
        for ask, _ in refused:
            metrics.unbooked(metrics.deployment(ask.resolved.deployment.name), ask.rows)

    def _now(self, count: Callable[[_Line], int]) -> dict[str, int]:
        """A count of every deployment's lines, at this moment; called from any thread."""
        found: dict[str, int] = {}
        for (deployment, _), line in list(self._lines.items()):
            found[deployment] = found.get(deployment, 0) + count(line)
        return found

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


_WHY = {
    RefusalReason.OVERLOADED: "too many instances waited",
    RefusalReason.TIMED_OUT: "the deadline passed while waiting",
}


@dataclass(slots=True)
class _Line:
    """What waits for one deployment and kind of source."""

    waiting: deque[Ask] = field(default_factory=deque)
    rows: int = 0
    in_flight: int = 0

    def may_start(self, limits: Limits) -> bool:
        """The first batch at once; a further one when a full one waits."""
        return not self.in_flight or (self.in_flight < limits.commits_in_flight and self.rows >= limits.gathered_rows)

    def next_batch(self, bound: int, expired: Callable[[Ask], None]) -> list[Ask]:
        """Takes what goes into the next batch; the rest keeps its order."""
        chosen: list[Ask] = []
        left: list[Ask] = []
        keys: set[str] = set()
        rows, now = 0, time.monotonic()
        while self.waiting and rows < bound and len(left) < bound:
            ask = self.waiting.popleft()
            if ask.answer.done() or (ask.deadline is not None and now > ask.deadline):
                self.rows -= ask.rows
                expired(ask)
                continue
            fits = not chosen or (ask.goes_with(chosen[0]) and rows + ask.rows <= bound)
            if not fits or not keys.isdisjoint(ask.source.keys):
                left.append(ask)
                continue
            chosen.append(ask)
            keys.update(ask.source.keys)
            rows += ask.rows
        self.waiting.extendleft(reversed(left))
        self.rows -= rows
        return chosen


def _instances(asks: Sequence[Ask], columns: Columns) -> Instances:
    """All rows of the batch, each with its own arrival, waiting time and group."""
    now = time.perf_counter_ns()
    n, first = len(columns), asks[0]
    lengths = [ask.rows for ask in asks]
    waited = [(a.parse_us, 0, (now - a.waiting_since_ns) // 1000, 0) for a in asks]
    steps = np.minimum(np.array(waited), np.iinfo(np.int32).max).astype(np.int32)
    arrived = _moments([a.received_at for a in asks])
    source = first.source
    if len(asks) > 1:
        source = Source(source.channel, source.name, [key for ask in asks for key in ask.source.keys])
    happened = None if first.event_time is None else _moments([a.event_time or a.received_at for a in asks])
    each = n == len(asks)  # one row a caller: nothing to repeat
    return Instances(
        decoded=Decoded(columns, np.arange(n), n),
        source=source,
        received_at=arrived if each else np.repeat(arrived, lengths),
        steps_us=steps if each else np.repeat(steps, lengths, axis=0),
        event_time=happened if happened is None or each else np.repeat(happened, lengths),
        groups=None if each else np.repeat(np.arange(len(asks)), lengths),
        want_reasons=first.want_reasons,
    )


def _moments(moments: Sequence[datetime]) -> NDArray[np.datetime64]:
    return np.array([moment.replace(tzinfo=None) for moment in moments], "datetime64[us]")  # all are UTC


def _pieces(ask: Ask, columns: Columns, bound: int) -> Iterator[Ask]:
    """The request in parts of at most ``bound`` rows."""
    for start in range(0, ask.rows, bound):
        rows = slice(start, start + bound)
        part = columns.take(rows)
        yield replace(
            ask,
            rows=len(part),
            form="columns",
            payload=None,
            columns=part,
            source=replace(ask.source, keys=ask.source.keys[rows]),
            answer=asyncio.get_running_loop().create_future(),
        )
