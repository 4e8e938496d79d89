"""What arrives while batches are being booked forms the next batch; nothing waits for a timer.

1. *admit* a request, unless as many rows wait as may (then: overloaded, and a row of refusals).
2. *gather* what waits, oldest first, up to the bound of a batch. Of one key only the first
   request: its repeat goes with a later batch and finds the row. A request whose deadline has
   passed is not scored; it is a row of refusals.
3. *decode*, *predict* and *book*. A request with a bad instance is refused whole, if it is answered
   whole; if decoding or the model fails on a gathered batch, every request is tried alone, so that
   none fails for its neighbour.
4. *answer* each caller from its own rows.

Step 3 runs on the event loop while the deployment's batches take less than a millisecond or two: the
message to the database is sent, and the loop goes on with other requests until the commit is
confirmed. What takes longer, and whatever would have to wait, runs in a thread.

A batch starts when half of those who lately called at once wait (``waiting.py``): the database commits their
rows while the loop reads the other half. A smaller one starts when the loop has read all that was sent and
nobody else came. Callers share a batch and a commit, nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from typing import TypeVar

from trueup.domain.batch import RefusalReason
from trueup.doors.inference.asks import (
    Answer,
    Ask,
    Booked,
    Decode,
    Part,
    decoded_together,
    instances_of,
    own_errors,
    parts_of,
    refused_whole,
)
from trueup.doors.inference.waiting import Line
from trueup.doors.inference.watching import Watch
from trueup.errors import InstanceErrors, InvalidInput, LedgerUnavailable, Overloaded, TimedOut, TrueupError
from trueup.scoring.service import Begun, Predicted, Response, RowRefusal, Scoring
from trueup.settings import Limits
from trueup.telemetry import log
from trueup.telemetry.requests import Telemetry

__all__ = ["Ask", "Booked", "Decode", "Gather", "Part"]

REFUSALS_S = 0.05  # refusals wait for so long for others

T = TypeVar("T")


class Gather:
    """The queues of all deployments. Belongs to one event loop."""

    def __init__(self, scoring: Scoring, limits: Limits, telemetry: Telemetry) -> None:
        self._scoring = scoring
        self._limits = limits
        self._lines: dict[tuple[str, str, bool], Line] = {}
        self._threads = ThreadPoolExecutor(limits.pool_connections, "trueup-inference")
        self._refused: deque[tuple[Ask, RefusalReason]] = deque(maxlen=limits.queued_refusals)
        self._refusing: asyncio.Task[None] | None = None
        self.rejected = 0  # requests beyond the bound, since the start
        self._telemetry = telemetry
        telemetry.metrics.observe("queue_rows", lambda: self._now(lambda line: line.rows))
        telemetry.metrics.observe("batches_in_flight", lambda: self._now(lambda line: line.in_flight))

    def fits_a_batch(self, asks: Sequence[Ask]) -> bool:
        """Whether a request is one piece, which ``submit`` takes."""
        return len(asks) == 1 and asks[0].rows <= self._limits.gathered_rows

    def submit(self, ask: Ask, answer: Answer) -> None:
        """Takes a request that fits a batch; ``answer`` is told its part, or the error. Raises Overloaded."""
        ask.answer = answer
        self._admit(ask)

    async def score(self, asks: Sequence[Ask]) -> list[Part]:
        """The answers to one request's pieces, one after another, so that small requests pass between them.

        A single piece that is too large for a batch is decoded and split here; after a failure the rest is
        refused with it. Raises Overloaded, TimedOut, InstanceErrors, InvalidInput, LedgerUnavailable.
        """
        if len(asks) != 1 or asks[0].rows <= self._limits.gathered_rows:
            return await self._in_turn(asks)
        ask = asks[0]
        decoded = await self._in_thread(lambda: ask.decode(ask.resolved.decoder, [ask.payload]))
        if decoded.errors_total:
            rows = refused_whole(ask, decoded.errors)
            await self._in_thread(lambda: self._scoring.refuse(ask.resolved, ask.source, rows, ask.received_at))
            raise InstanceErrors(decoded.errors, decoded.errors_total)
        return await self._in_turn(ask.pieces(decoded.columns, self._limits.gathered_rows))

    async def _in_turn(self, pieces: Sequence[Ask]) -> list[Part]:
        parts: list[Part] = []
        try:
            for piece in pieces:
                answer: asyncio.Future[Part] = asyncio.get_running_loop().create_future()
                self.submit(piece, answer)
                parts.append(await answer)
        except BaseException:
            for piece in pieces[len(parts) + 1 :]:
                self._refuse(piece, RefusalReason.REQUEST)
            raise
        return parts

    async def drain(self) -> None:
        """Waits until nothing waits and nothing is being booked."""
        while any(line.waiting or line.in_flight for line in self._lines.values()):
            await asyncio.sleep(0.005)
        if self._refusing is not None:
            await self._refusing
        self._threads.shutdown()

    def _admit(self, ask: Ask) -> None:
        """Steps 1 and 2, and 3 where it is time."""
        name = (ask.resolved.deployment.name, ask.source.name, ask.want_reasons)
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = Line()
        if line.rows + ask.rows > self._limits.queued_rows:
            self.rejected += 1
            self._refuse(ask, RefusalReason.OVERLOADED)
            raise Overloaded("too many instances wait", next_step="try again after a moment, with the same key")
        ask.waiting_since_ns = time.perf_counter_ns()
        line.came(ask)
        if line.has_its_share(self._limits):
            self._pump(line)
        elif line.in_flight < self._limits.commits_in_flight:
            self._watch(line)

    def _watch(self, line: Line) -> None:
        """Looks again when the loop has read what is there."""
        if not line.watched:
            line.watched = True
            # In a context of its own: a batch is nobody's request, whoever's arrival has started it.
            asyncio.get_running_loop().call_soon(self._settle, line, line.arrived, context=Context())

    def _settle(self, line: Line, arrived: int) -> None:
        """One turn of the loop later. While requests come, it is the share that starts a batch."""
        line.watched = False
        if line.arrived != arrived and line.in_flight < self._limits.commits_in_flight:
            self._watch(line)
        elif line.may_go_on(self._limits):
            self._pump(line, settled=True)

    def _pump(self, line: Line, *, settled: bool = False) -> None:
        while line.waiting and (settled or line.has_its_share(self._limits)):
            settled = False
            asks = line.next_batch(self._bound(line), self._expired)
            if not asks:
                return
            line.started(asks)
            predicted, begun = self._begun(line, asks)
            if predicted is not None and begun is not None:
                Context().run(Watch(begun.under_way, partial(self._booked, line, asks, predicted, begun)).start)
            else:
                self._run(line, asks, partial(self._answers, line, asks, predicted))

    def _bound(self, line: Line) -> int:
        """Rows of the next batch: what can be done on the event loop where that is enough for the first who waits."""
        on_loop = line.pace.rows(self._limits.on_loop_ms)
        return (
            min(on_loop, self._limits.gathered_rows) if line.waiting[0].rows <= on_loop else self._limits.gathered_rows
        )

    def _begun(self, line: Line, asks: Sequence[Ask]) -> tuple[Predicted | None, Begun | None]:
        """Step 3 on the event loop, as far as it goes without waiting."""
        if sum(ask.rows for ask in asks) > line.pace.rows(self._limits.on_loop_ms):
            return None, None
        try:
            predicted = self._predicted(line, asks)
            if predicted is None or predicted.refused:
                return predicted, None
            return predicted, self._scoring.begin(predicted)
        except Exception:
            return None, None  # the thread meets it again, and tells each caller

    def _booked(self, line: Line, asks: Sequence[Ask], predicted: Predicted, begun: Begun) -> None:
        if begun.under_way.blocks:
            self._run(line, asks, lambda: self._parts(asks, predicted, begun.response()))
            return
        try:
            answers: Sequence[Part | BaseException] = self._parts(asks, predicted, begun.response())
        except LedgerUnavailable as error:
            answers = [error] * len(asks)
        except Exception as error:
            if len(asks) > 1:  # which request is at fault, each finds out by itself
                self._run(line, asks, partial(self._alone, line, asks))
                return
            answers = [error]
        self._done(line, asks, answers)

    def _run(self, line: Line, asks: Sequence[Ask], work: Callable[[], Sequence[Part | BaseException]]) -> None:
        """Step 3, or what is left of it, in a thread."""

        def finished(done: asyncio.Future[Sequence[Part | BaseException]]) -> None:
            fault = done.exception()
            self._done(line, asks, [fault] * len(asks) if fault is not None else done.result())

        asyncio.get_running_loop().run_in_executor(self._threads, work).add_done_callback(finished, context=Context())

    def _done(self, line: Line, asks: Sequence[Ask], answers: Sequence[Part | BaseException]) -> None:
        """Step 4."""
        line.ended(asks)
        for ask, answer in zip(asks, answers, strict=True):
            try:
                _tell(ask, answer)
            except Exception as error:  # the others are told all the same
                log("inference").error("not_told", kind=type(error).__name__)
        if line.waiting:  # after the answers are on their way
            self._watch(line)

    def _expired(self, ask: Ask) -> None:
        self._refuse(ask, RefusalReason.TIMED_OUT)
        _tell(ask, TimedOut("the deadline passed before the instances were scored"))

    def _predicted(self, line: Line, asks: Sequence[Ask]) -> Predicted | None:
        """All requests decoded and scored together; None where one must be refused whole, or all be tried alone."""
        began = time.perf_counter_ns()
        decoded = decoded_together(asks)
        if decoded.errors_total and any(own_errors(asks, decoded)):
            return None
        predicted = self._scoring.predict(asks[0].resolved, instances_of(asks, decoded, began))
        line.pace.took(decoded.received, time.perf_counter_ns() - began)
        return predicted if predicted.scored or not len(decoded.rows) or len(asks) == 1 else None

    def _answers(
        self, line: Line, asks: Sequence[Ask], predicted: Predicted | None = None
    ) -> list[Part | BaseException]:
        """Step 3, in a thread."""
        try:
            predicted = predicted or self._predicted(line, asks)
            if predicted is None:
                return self._refused_or_alone(line, asks)
            return [*self._parts(asks, predicted, self._scoring.book(predicted))]
        except InvalidInput as error:
            return [error] if len(asks) == 1 else self._alone(line, asks)
        except TrueupError as error:
            return [error] * len(asks)
        except Exception:  # of our own or the database's: whoever is at fault, the others are answered
            if len(asks) == 1:
                raise
            return self._alone(line, asks)

    def _parts(self, asks: Sequence[Ask], predicted: Predicted, response: Response) -> list[Part]:
        """Each caller's share, the batch told to whoever traces it."""
        traces = self._telemetry.traces
        if traces.on:
            name, book_us = predicted.resolved.deployment.name, response.receipt.book_us
            traces.batch([ask.trace for ask in asks], name, len(predicted.rows), predicted.steps_us, book_us)
        return parts_of(asks, Booked(response))

    def _refused_or_alone(self, line: Line, asks: Sequence[Ask]) -> list[Part | BaseException]:
        """Refuses whole what has a bad instance; where nothing has, the model failed on some request."""
        errors = own_errors(asks, decoded_together(asks))
        if not any(errors):
            return self._alone(line, asks)
        for ask, error in zip(asks, errors, strict=True):
            if error is not None:
                self._scoring.refuse(ask.resolved, ask.source, refused_whole(ask, error.errors), ask.received_at)
        good = [ask for ask, error in zip(asks, errors, strict=True) if error is None]
        answered = iter(self._answers(line, good) if good else [])
        return [next(answered) if error is None else error for error in errors]

    def _alone(self, line: Line, asks: Sequence[Ask]) -> list[Part | BaseException]:
        found: list[Part | BaseException] = []
        for ask in asks:
            try:
                found += self._answers(line, [ask])
            except Exception as error:
                found.append(error)
        return found

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
            except Exception as error:
                log("inference").error("refusals_not_booked", kind=type(error).__name__, lost=len(self._refused) + 1)
                self._lost([(ask, reason), *self._refused])
                self._refused.clear()
                return

    def _lost(self, refused: Iterable[tuple[Ask, RefusalReason]]) -> None:
        """Counts refusals that the ledger will not know of."""
        metrics = self._telemetry.metrics
        for ask, _ in refused:
            metrics.unbooked(metrics.deployment(ask.resolved.deployment.name), ask.rows)

    def _now(self, count: Callable[[Line], int]) -> dict[str, int]:
        """A count of every deployment's lines, at this moment; called from any thread."""
        found: dict[str, int] = {}
        for (deployment, *_), line in list(self._lines.items()):
            found[deployment] = found.get(deployment, 0) + count(line)
        return found

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _tell(ask: Ask, answer: Part | BaseException) -> None:
    waiting = ask.answer
    if waiting is None or waiting.done():  # the caller has gone
        return
    if isinstance(answer, BaseException):
        waiting.set_exception(answer)
    else:
        waiting.set_result(answer)


_WHY = {
    RefusalReason.OVERLOADED: "too many instances waited",
    RefusalReason.TIMED_OUT: "the deadline passed while waiting",
    RefusalReason.REQUEST: "an earlier part of the request was not answered",
}
