"""What every inference protocol asks of the core: which models answer, and scores for instances.

A protocol's handlers translate a request into :class:`Terms` and an undecoded payload, make an ``Ask`` of
them, have it answered, and translate the parts back. Nothing here knows a protocol.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from trueup.bootstrap import Services
from trueup.contracts.values import microseconds
from trueup.domain.batch import REQUEST_SOURCE, UNKEYED_SOURCE, Channel, RefusalReason, Source
from trueup.domain.contract import Contract
from trueup.doors.inference.gather import Ask, Decode, Gather, Part
from trueup.doors.inference.wire import Reply
from trueup.errors import Conflict, InvalidInput, NotFound, ScoringError, TrueupError, Unavailable
from trueup.scoring.service import REFRESH_S, Resolved
from trueup.telemetry import log
from trueup.telemetry.requests import current

AGED_S = 5.0  # a revision older than this is looked up before it answers
LOOKUP_S = 0.5  # and taken all the same when that takes longer
LONGEST_US = 10**12  # of a timeout: beyond it is as good as none, and may be no float
_PROCESS, _NUMBERS = uuid4().hex, count()  # a key nobody has drawn before, without asking the system each time
_Known = TypeVar("_Known", str, int, float, bool)


@dataclass(slots=True)
class Terms:
    """What a caller says beside its instances, whatever the protocol.

    ``key`` is the idempotency key of the whole request; ``event_time`` ISO 8601 with zone;
    ``deadline`` of time.monotonic.
    """

    channel: Channel
    key: str | None = None
    event_time: str | None = None
    reasons: bool = False
    deadline: float | None = None


@dataclass(slots=True)
class Arrival:
    """When a request came in: ``us`` since 1970 in UTC, ``ns`` of time.perf_counter_ns."""

    us: int
    ns: int

    @classmethod
    def now(cls) -> Arrival:
        """This moment."""
        return cls(time.time_ns() // 1000, time.perf_counter_ns())


def terms_of(channel: Channel, parameters: Mapping[str, Any], *, key: str | None) -> Terms:
    """The terms among a request's parameters; ``key`` is the header's, which a parameter outdoes.

    Raises InvalidInput for a parameter of another type than is documented.
    """
    if not parameters:
        return Terms(channel, key)
    timeout_us = parameter(parameters, "timeout", int)
    return Terms(
        channel,
        parameter(parameters, "idempotency_key", str) or key,
        parameter(parameters, "event_time", str),
        bool(parameter(parameters, "reasons", bool)),
        None if timeout_us is None or timeout_us <= 0 else time.monotonic() + min(timeout_us, LONGEST_US) / 1e6,
    )


@dataclass(slots=True)
class Asked:
    """A request that is read: what it asks of the gatherer, piece by piece, and how its answer is written.

    ``write`` raises Conflict, ScoringError or InstanceErrors where an instance got no answer.
    """

    asks: Sequence[Ask]
    write: Callable[[Sequence[Part]], Reply]


class Inference:
    """Everything the inference door answers. ``gather`` makes the batches."""

    def __init__(self, services: Services, gather: Gather) -> None:
        self._services = services
        self.gather = gather
        self.limits = services.settings.limits
        self._refreshing: dict[str, asyncio.Future[Resolved]] = {}

    async def resolved(self, model: str, version: str | None = None) -> Resolved:
        """What answers under the name, without ever blocking the event loop.

        What is in memory is taken if it was the newest ``AGED_S`` ago, and looked up again meanwhile. Older
        it is looked up first, and taken all the same while the registry does not answer: then booking decides.
        Raises NotFound, also for a version that does not answer.
        """
        held = self._services.scoring.held(model)
        if held is None:
            found = await asyncio.shield(self._refresh(model))
        else:
            found, age = held
            if age > AGED_S:
                with suppress(Unavailable, TimeoutError):  # also of a database that hangs
                    found = await asyncio.wait_for(asyncio.shield(self._refresh(model)), LOOKUP_S)
            elif age > REFRESH_S:
                self._refresh(model)
        if version is not None and version != found.champion.version.version:
            raise NotFound("no such version of the model answers", next_step="the model's metadata lists the versions")
        current().resolved(found.deployment.name)
        return found

    def at_hand(self, model: str, version: str | None = None) -> Resolved | None:
        """What answers under the name, where ``resolved`` would neither wait nor raise."""
        held = self._services.scoring.held(model)
        if held is None or held[1] > AGED_S or version not in (None, held[0].champion.version.version):
            return None
        if held[1] > REFRESH_S:
            self._refresh(model)
        return held[0]

    async def score(self, ask: Ask) -> list[Part]:
        """Every instance's answer, booked.

        All or nothing: raises InstanceErrors, Conflict, ScoringError where an instance got no answer, and what
        ``Gather.score`` raises.
        """
        parts = await self.gather.score([ask])
        check_whole(parts)
        return parts

    def ask(
        self,
        resolved: Resolved,
        terms: Terms,
        *,
        rows: int,
        decode: Decode,
        form: Hashable,
        payload: Any,
        arrival: Arrival,
    ) -> Ask:
        """Instances that are answered all or not at all; payloads of one ``decode`` and ``form`` are decoded together.

        Raises InvalidInput for terms that the contract does not allow.
        """
        observed = current()
        observed.scoring(rows)
        return Ask(
            resolved,
            _source(terms, rows, self.limits.key_chars),
            rows,
            arrival.us,
            decode,
            form,
            payload,
            event_us=_event_us(terms, resolved.contract, arrival.us),
            want_reasons=terms.reasons,
            deadline=terms.deadline,
            parse_us=(time.perf_counter_ns() - arrival.ns) // 1000,
            trace=observed.context,
        )

    def asks(
        self,
        resolved: Resolved,
        source: Source,
        *,
        decode: Decode,
        payload: Sequence[Any],
        event_us: int | NDArray[np.int64] | None,
        want_reasons: bool,
        arrival: Arrival,
    ) -> list[Ask]:
        """Instances of which each is answered or refused on its own; ``payload`` has one element for each."""
        observed = current()
        observed.scoring(len(payload))
        parse_us, size = (time.perf_counter_ns() - arrival.ns) // 1000, self.limits.gathered_rows
        whole = len(payload) <= size
        pieces = []
        for start in range(0, len(payload), size):
            piece = slice(start, start + size)
            pieces.append(
                Ask(
                    resolved,
                    source if whole else replace(source, keys=source.keys[piece]),
                    len(payload[piece]),
                    arrival.us,
                    decode,
                    "rows",
                    payload[piece],
                    event_us=event_us[piece] if isinstance(event_us, np.ndarray) else event_us,
                    whole=False,
                    want_reasons=want_reasons,
                    parse_us=parse_us,
                    trace=observed.context,
                )
            )
        return pieces

    def index(self, *, only_ready: bool, shown: Callable[[str], bool] = lambda _: True) -> list[dict[str, str]]:
        """Every deployment that is ``shown``, with the version that answers. Blocking."""
        found = []
        for deployment in self._services.registry.deployments():
            if not shown(deployment.name):
                continue
            try:
                self._services.scoring.resolve(deployment.name)
                state, reason = "READY", ""
            except TrueupError as error:
                state, reason = "UNAVAILABLE", error.message
            if state == "READY" or not only_ready:
                found.append(
                    {"name": deployment.name, "version": deployment.champion.version, "state": state, "reason": reason}
                )
        return found

    def reload(self, model: str, *, load: bool) -> None:
        """Loads the newest revision now, or lets go of it until it is asked for again. Blocking. Raises NotFound."""
        if load:
            self._services.scoring.resolve(model, fresh=True)
        else:
            self._services.scoring.release(model)

    def _refresh(self, model: str) -> asyncio.Future[Resolved]:
        """The newest revision, looked up in a thread; of many who ask at once, once."""
        running = self._refreshing.get(model)
        if running is None:
            running = asyncio.get_running_loop().run_in_executor(None, self._services.scoring.resolve, model)
            self._refreshing[model] = running
            running.add_done_callback(lambda done: self._forget(model, done))
        return running

    def _forget(self, model: str, done: asyncio.Future[Resolved]) -> None:
        self._refreshing.pop(model, None)
        if not done.cancelled() and not isinstance(done.exception(), NotFound | None):  # whoever asked is told
            log("inference").warning("not_refreshed", kind=type(done.exception()).__name__)


def parameter(parameters: Mapping[str, Any], name: str, kind: type[_Known]) -> _Known | None:
    """A parameter's value, None where it is not given. Raises InvalidInput where it has another type."""
    value = parameters.get(name)
    if value is None:
        return None
    if type(value) is not kind:
        raise InvalidInput(f"the parameter {name} is a {kind.__name__}")
    return value


def check_whole(parts: Sequence[Part]) -> None:
    """Raises Conflict or ScoringError where an instance was not answered."""
    for part in parts:
        for refused in part.refused:
            if refused.reason in (RefusalReason.CONFLICT, RefusalReason.REQUEST):
                raise Conflict("the key was used with other content", next_step="use a new key for new instances")
            raise ScoringError("the model could not answer")


def unkeyed(channel: Channel, n: int) -> Source:
    """Rows that nobody can repeat, under keys that nobody has."""
    drawn = f"{_PROCESS}-{next(_NUMBERS):x}"
    return Source(channel, UNKEYED_SOURCE, [drawn] if n == 1 else [f"{drawn}/{row}" for row in range(n)])


def _source(terms: Terms, n: int, most: int) -> Source:
    """One key a row: the request's own for a single instance, else with the row's number behind it."""
    key = terms.key
    if key is None:
        return unkeyed(terms.channel, n)
    if not 1 <= len(key) <= most - 8 or not key.isprintable():
        raise InvalidInput(f"an idempotency key is printable text of at most {most - 8} characters")
    return Source(terms.channel, REQUEST_SOURCE, [key] if n == 1 else [f"{key}/{row}" for row in range(n)])


def _event_us(terms: Terms, contract: Contract, received_us: int) -> int | None:
    """When all instances happened; None where the contract or the key's first arrival says it."""
    if terms.event_time is None:
        return None if terms.key is not None or contract.event_time else received_us
    if contract.event_time:
        raise InvalidInput(f"the contract takes the event time from the field {contract.event_time}")
    try:
        moment = datetime.fromisoformat(terms.event_time)
        if moment.tzinfo is None:
            raise ValueError
        return microseconds(moment)
    except (ValueError, OverflowError):
        raise InvalidInput("event_time is an ISO 8601 instant with zone") from None
