"""One caller's instances on their way through a batch, and its share of the batch's answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trueup.contracts.decoding import Decoder
from trueup.domain.batch import Columns, Decoded, RefusalReason, Source
from trueup.domain.contract import FieldError
from trueup.errors import InstanceErrors, InvalidInput
from trueup.scoring.service import Instances, Resolved, Response, RowRefusal

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

Decode = Callable[[Decoder, Sequence[Any]], Decoded]
T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_US = 2**31 - 1  # of a step, as the ledger stores it


@dataclass(slots=True, eq=False)
class Ask:
    """One caller's ``rows`` instances: ``payload`` as ``decode`` takes it, or ``columns`` that are decoded already.

    Payloads of one ``decode`` and one ``form`` can be decoded together. ``whole``: one bad instance refuses
    all. Moments are microseconds since 1970 in UTC; ``event_us`` of all rows or (rows,), None where the
    contract or the first arrival says it.
    """

    resolved: Resolved
    source: Source
    rows: int
    received_us: int
    decode: Decode
    form: Hashable
    payload: Any
    columns: Columns | None = None
    event_us: int | NDArray[np.int64] | None = None
    whole: bool = True
    want_reasons: bool = False
    deadline: float | None = None  # of time.monotonic
    parse_us: int = 0
    waiting_since_ns: int = 0
    trace: SpanContext | None = None
    answer: Answer | None = None  # told when there is one; set by the gatherer

    @property
    def received_at(self) -> datetime:
        """When it arrived, in UTC."""
        return _EPOCH + timedelta(microseconds=self.received_us)

    def goes_with(self, other: Ask) -> bool:
        """Whether both may be rows of one batch."""
        return (
            self.resolved is other.resolved
            and self.source.channel is other.source.channel
            and self.form == other.form
            and self.decode is other.decode
            and self.want_reasons == other.want_reasons
            and (self.event_us is None) == (other.event_us is None)
        )

    def pieces(self, columns: Columns, bound: int) -> list[Ask]:
        """The request in parts of at most ``bound`` rows, decoded."""
        found = []
        for start in range(0, self.rows, bound):
            rows = slice(start, start + bound)
            part = columns.take(rows)
            found.append(
                replace(
                    self,
                    rows=len(part),
                    form="columns",
                    payload=None,
                    columns=part,
                    event_us=self.event_us[rows] if isinstance(self.event_us, np.ndarray) else self.event_us,
                    source=replace(self.source, keys=self.source.keys[rows]),
                )
            )
        return found


class Answer(Protocol):
    """Who waits for an ask's answer: an ``asyncio.Future``, or what behaves like one."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, part: Part, /) -> None:
        """The ask's share of its batch."""

    def set_exception(self, error: BaseException, /) -> None:
        """Why there is none."""


class Booked:
    """The response to a whole batch, and what doors make of it once for all of its callers."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[Response], T]) -> T:
        """``make`` of the response, made by the first who asks."""
        made: T | None = self._made.get(name)
        if made is None:
            made = self._made[name] = make(self.response)
        return made


@dataclass(slots=True)
class Part:
    """One caller's rows of a batch: ``rows`` of what was received."""

    booked: Booked
    rows: slice

    @property
    def answered(self) -> slice:
        """The same rows among those of the receipt, which has none for a bad instance."""
        response = self.booked.response
        if len(response.rows) == response.received:
            return self.rows
        return slice(*np.searchsorted(response.rows, (self.rows.start, self.rows.stop)).tolist())

    @property
    def refused(self) -> list[RowRefusal]:
        """What of the caller's rows got no answer."""
        found = self.booked.response.refused
        return [r for r in found if self.rows.start <= r.row < self.rows.stop] if found else []


def parts_of(asks: Sequence[Ask], booked: Booked) -> list[Part]:
    """Each caller's share."""
    parts, start = [], 0
    for ask in asks:
        parts.append(Part(booked, slice(start, start + ask.rows)))
        start += ask.rows
    return parts


def prediction_ids(response: Response) -> list[str]:
    """The ids of the receipt's rows as UUID texts."""
    ids = response.receipt.ids.tobytes().hex()
    rows = (ids[at : at + 32] for at in range(0, len(ids), 32))
    return [f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in rows]


def decoded_together(asks: Sequence[Ask]) -> Decoded:
    """All instances of all callers, one after another. Raises InvalidInput when that is impossible."""
    first = asks[0]
    if first.columns is not None:
        columns = Columns.joined([ask.columns for ask in asks if ask.columns is not None])
        return Decoded(columns, np.arange(len(columns)), len(columns))
    decoded = first.decode(first.resolved.decoder, [ask.payload for ask in asks])
    if decoded.errors_total > len(decoded.errors) and len(asks) > 1:
        raise InvalidInput("more errors than are told apart")
    return decoded


def own_errors(asks: Sequence[Ask], decoded: Decoded) -> list[InstanceErrors | None]:
    """For each request that is answered whole, what is wrong with its instances."""
    found: list[InstanceErrors | None] = []
    start = 0
    for ask in asks:
        rows = range(start, start + ask.rows)
        own = tuple(replace(e, row=e.row - start) for e in decoded.errors if e.row in rows) if ask.whole else ()
        found.append(InstanceErrors(own, decoded.errors_total if len(asks) == 1 else len(own)) if own else None)
        start += ask.rows
    return found


def refused_whole(ask: Ask, errors: Sequence[FieldError]) -> list[RowRefusal]:
    """A refusal of every instance: bad ones by the contract, the others with their request."""
    named: dict[int, list[str]] = {}
    for error in errors:
        named.setdefault(error.row, []).append(f"{error.field}: {error.code}")
    return [
        RowRefusal(row, RefusalReason.CONTRACT, ", ".join(named[row][:20]))
        if row in named
        else RowRefusal(row, RefusalReason.REQUEST, "another instance of the request breaks the contract")
        for row in range(ask.rows)
    ]


def instances_of(asks: Sequence[Ask], decoded: Decoded, now_ns: int) -> Instances:
    """All rows of the batch, each with its own arrival, waiting time and group."""
    first, source = asks[0], asks[0].source
    steps = np.zeros((len(asks), 4), np.int32)
    steps[:, 0] = [min(a.parse_us, _MOST_US) for a in asks]
    steps[:, 2] = [min((now_ns - a.waiting_since_ns) // 1000, _MOST_US) for a in asks]
    arrived = np.array([a.received_us for a in asks]).view("datetime64[us]")
    if len(asks) > 1:
        source = Source(source.channel, source.name, [key for ask in asks for key in ask.source.keys])
    groups = None
    lengths = [ask.rows for ask in asks]
    if lengths.count(1) != len(lengths):  # else one row a caller: nothing to repeat
        groups = _groups(asks, lengths)
        steps, arrived = np.repeat(steps, lengths, axis=0), np.repeat(arrived, lengths)
    happened = None if first.event_us is None else _event_times(asks)
    return Instances(decoded, source, arrived, steps, happened, groups, first.want_reasons)


def _groups(asks: Sequence[Ask], lengths: Sequence[int]) -> NDArray[np.int64] | None:
    """Rows that are booked together or not at all: those of a request that is answered whole."""
    if not any(ask.whole and ask.rows > 1 for ask in asks):
        return None
    groups = np.repeat(np.arange(len(asks)), lengths)
    start = 0
    for ask in asks:
        if not ask.whole:  # each row by itself
            groups[start : start + ask.rows] = np.arange(start, start + ask.rows) + len(asks)
        start += ask.rows
    return groups


def _event_times(asks: Sequence[Ask]) -> NDArray[np.datetime64]:
    moments: list[Any] = []
    for ask in asks:
        moments += ask.event_us.tolist() if isinstance(ask.event_us, np.ndarray) else [ask.event_us] * ask.rows
    return np.array(moments, np.int64).view("datetime64[us]")
