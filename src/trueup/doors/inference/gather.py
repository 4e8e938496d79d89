"""What arrived while the last batch was being booked forms the next batch; nothing waits for a timer.

1. *admit* a request, unless as many rows wait as may (then: overloaded, and a row of refusals).
2. *gather* what waits, oldest first, up to the bound of a batch. Of one key only the first
   request: its repeat goes with a later batch and finds the row. A request whose deadline has
   passed is not scored; it is a row of refusals.
3. *predict* and *book* in a thread, at most so many batches of a deployment at once.
4. *answer* each caller from its own rows. If the model fails on a gathered batch, every
   request is scored alone, so that none fails for its neighbour.

Callers share a batch and a commit, nothing else. Everything but steps 3 runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Answers, Columns, Decoded, Receipt, RefusalReason, Source
from trueup.errors import Overloaded, TimedOut, TrueupError
from trueup.scoring.service import Instances, Resolved, Response, RowRefusal, Scoring
from trueup.settings import Limits
from trueup.telemetry import log


@dataclass(slots=True, eq=False)
class Ask:
    """One caller's instances, all of which fit the contract."""

    resolved: Resolved
    columns: Columns
    source: Source
    received_at: datetime
    began_ns: int  # of time.perf_counter_ns, when the request's first byte was looked at
    event_time: NDArray[np.datetime64] | None = None
    want_reasons: bool = False
    deadline: float | None = None  # of time.monotonic
    parse_us: int = 0
    validate_us: int = 0
    waiting_since_ns: int = 0
    answer: asyncio.Future[Response] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __len__(self) -> int:
        return len(self.columns)

    def goes_with(self, other: Ask) -> bool:
        """Whether both may be rows of one batch."""
        return (
            self.resolved is other.resolved
            and self.want_reasons == other.want_reasons
            and (self.event_time is None) == (other.event_time is None)
        )


class Gather:
    """The queues of all deployments. Belongs to one event loop."""

    def __init__(self, scoring: Scoring, limits: Limits) -> None:
        self._scoring = scoring
        self._limits = limits
        self._lines: dict[tuple[str, str], _Line] = {}
        self._threads = ThreadPoolExecutor(limits.pool_connections, "trueup-inference")
        self._refused: deque[tuple[Ask, RefusalReason]] = deque(maxlen=limits.queued_rows)
        self._refusing: asyncio.Task[None] | None = None
        self.rejected = 0  # requests beyond the bound, since the start

    async def score(self, ask: Ask) -> Response:
        """The answers to one request. Raises Overloaded, TimedOut, LedgerUnavailable.

        A large request goes piece by piece, so that small ones pass between its pieces.
        """
        pieces = list(_pieces(ask, self._limits.gathered_rows))
        responses = [await self._one(piece) for piece in pieces]
        return responses[0] if len(responses) == 1 else _joined(responses)

    async def refuse(
        self, resolved: Resolved, source: Source, rows: Sequence[RowRefusal], received_at: datetime
    ) -> None:
        """Books refusals before it returns. Raises LedgerUnavailable."""
        await asyncio.get_running_loop().run_in_executor(
            self._threads, self._scoring.refuse, resolved, source, rows, received_at
        )

    async def drain(self) -> None:
        """Waits until nothing waits and nothing is being booked."""
        while any(line.waiting or line.in_flight for line in self._lines.values()):
            await asyncio.sleep(0.005)
        if self._refusing is not None:
            await self._refusing
        self._threads.shutdown()

    @property
    def depth(self) -> int:
        """Rows that wait."""
        return sum(line.rows for line in self._lines.values())

    async def _one(self, ask: Ask) -> Response:
        name = ask.resolved.deployment.name
        line = self._lines.get((name, ask.source.name))
        if line is None:
            line = self._lines[name, ask.source.name] = _Line()
        if line.rows + len(ask) > self._limits.queued_rows:
            self.rejected += 1
            self._refuse(ask, RefusalReason.OVERLOADED)
            raise Overloaded("too many instances wait", next_step="try again after a moment, with the same key")
        ask.waiting_since_ns = time.perf_counter_ns()
        line.add(ask)
        self._pump(line)
        return await ask.answer

    def _pump(self, line: _Line) -> None:
        while line.waiting and line.in_flight < self._limits.commits_in_flight:
            asks = line.next_batch(self._limits.gathered_rows, self._expired)
            if not asks:
                return
            line.in_flight += 1
            running = asyncio.get_running_loop().run_in_executor(self._threads, self._answers, asks)
            running.add_done_callback(lambda done, asks=asks: self._done(line, asks, done))  # type: ignore[misc]

    def _done(self, line: _Line, asks: Sequence[Ask], done: asyncio.Future[list[Response | TrueupError]]) -> None:
        line.in_flight -= 1
        fault = done.exception()
        answers: Sequence[Response | BaseException] = [fault] * len(asks) if fault is not None else done.result()
        for ask, answer in zip(asks, answers, strict=True):
            if ask.answer.cancelled():
                continue
            if isinstance(answer, BaseException):
                ask.answer.set_exception(answer)
            else:
                ask.answer.set_result(answer)
        self._pump(line)

    def _expired(self, ask: Ask) -> None:
        self._refuse(ask, RefusalReason.TIMED_OUT)
        if not ask.answer.cancelled():
            ask.answer.set_exception(TimedOut("the deadline passed before the instances were scored"))

    def _answers(self, asks: list[Ask]) -> list[Response | TrueupError]:
        """Steps 3 and 4, in a thread."""
        try:
            predicted = self._scoring.predict(asks[0].resolved, _instances(asks))
            if not predicted.scored and len(asks) > 1:
                return [answer for ask in asks for answer in self._answers([ask])]
            response = self._scoring.book(predicted)
        except TrueupError as error:
            return [error] * len(asks)
        return list(_split(response, asks))

    def _refuse(self, ask: Ask, reason: RefusalReason) -> None:
        """Has the refusal booked, soon, with others; the oldest are only counted where too many wait."""
        self._refused.append((ask, reason))
        if self._refusing is None or self._refusing.done():
            self._refusing = asyncio.get_running_loop().create_task(self._book_refusals())

    async def _book_refusals(self) -> None:
        await asyncio.sleep(REFUSALS_S)
        while self._refused:
            ask, reason = self._refused.popleft()
            rows = [RowRefusal(row, reason, _WHY[reason]) for row in range(len(ask))]
            try:
                await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._scoring.refuse, ask.resolved, ask.source, rows, ask.received_at
                )
            except TrueupError as error:
                log("inference").error("refusals_not_booked", error=error.message, lost=len(self._refused) + 1)
                return


REFUSALS_S = 0.05  # refusals wait for so long for others
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

    def add(self, ask: Ask) -> None:
        self.waiting.append(ask)
        self.rows += len(ask)

    def next_batch(self, bound: int, expired: Callable[[Ask], None]) -> list[Ask]:
        """Takes what goes into the next batch; the rest keeps its order."""
        chosen: list[Ask] = []
        left: list[Ask] = []
        keys: set[str] = set()
        rows, now = 0, time.monotonic()
        while self.waiting and rows < bound and len(left) < bound:
            ask = self.waiting.popleft()
            if ask.answer.cancelled() or (ask.deadline is not None and now > ask.deadline):
                self.rows -= len(ask)
                expired(ask)
                continue
            fits = not chosen or (ask.goes_with(chosen[0]) and rows + len(ask) <= bound)
            if not fits or not keys.isdisjoint(ask.source.keys):
                left.append(ask)
                continue
            chosen.append(ask)
            keys.update(ask.source.keys)
            rows += len(ask)
        self.waiting.extendleft(reversed(left))
        self.rows -= rows
        return chosen


def _instances(asks: Sequence[Ask]) -> Instances:
    """All rows of the batch, each with its own arrival, waiting time and group."""
    now = time.perf_counter_ns()
    columns = Columns.joined([ask.columns for ask in asks])
    n = len(columns)
    lengths = [len(ask) for ask in asks]
    steps = np.array([(a.parse_us, a.validate_us, (now - a.waiting_since_ns) // 1000, 0) for a in asks], np.int32)
    arrived = np.array([a.received_at.astimezone(UTC).replace(tzinfo=None) for a in asks], "datetime64[us]")
    first = asks[0]
    return Instances(
        decoded=Decoded(columns, np.arange(n), n),
        source=first.source if len(asks) == 1 else replace(first.source, keys=[k for a in asks for k in a.source.keys]),
        received_at=np.repeat(arrived, lengths),
        steps_us=np.repeat(steps, lengths, axis=0),
        event_time=None if first.event_time is None else np.concatenate([_known(a.event_time) for a in asks]),
        groups=np.repeat(np.arange(len(asks)), lengths),
        want_reasons=first.want_reasons,
    )


def _known(moments: NDArray[np.datetime64] | None) -> NDArray[np.datetime64]:
    assert moments is not None  # asks of one batch all have them or none has
    return moments


def _split(response: Response, asks: Sequence[Ask]) -> Iterator[Response]:
    """Each caller's own part of a batch's response."""
    if len(asks) == 1:
        yield response
        return
    answered = len(response.receipt.booked) > 0
    start = 0
    for ask in asks:
        rows = slice(start, start + len(ask))
        receipt = response.receipt
        part = Receipt(receipt.batch_id, receipt.ids[rows], receipt.booked[rows], receipt.answers.take(rows),
                       receipt.book_us)  # fmt: skip
        refused = tuple(replace(r, row=r.row - start) for r in response.refused if start <= r.row < start + len(ask))
        yield Response(len(ask), np.arange(len(ask)) if answered else response.rows, part, refused)
        start += len(ask)


def _pieces(ask: Ask, bound: int) -> Iterator[Ask]:
    """The request in parts of at most ``bound`` rows."""
    if len(ask) <= bound:
        yield ask
        return
    for start in range(0, len(ask), bound):
        rows = slice(start, start + bound)
        yield replace(
            ask,
            columns=ask.columns.take(rows),
            source=replace(ask.source, keys=ask.source.keys[rows]),
            event_time=None if ask.event_time is None else ask.event_time[rows],
            answer=asyncio.get_running_loop().create_future(),
        )


def _joined(responses: Sequence[Response]) -> Response:
    """The pieces of one request as one response."""
    offsets = np.cumsum([0] + [r.received for r in responses])
    receipts = [r.receipt for r in responses]
    return Response(
        int(offsets[-1]),
        np.concatenate([r.rows + o for r, o in zip(responses, offsets, strict=False)]),
        Receipt(
            receipts[-1].batch_id,
            np.concatenate([r.ids for r in receipts]),
            np.concatenate([r.booked for r in receipts]),
            Answers.joined([r.answers for r in receipts]),
        ),
        tuple(replace(x, row=x.row + int(o)) for r, o in zip(responses, offsets, strict=False) for x in r.refused),
    )
