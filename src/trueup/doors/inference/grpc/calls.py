"""One call, whatever it asks: bounded, its caller known, its message read in time, every fault a status.

The service's methods see messages and a :class:`Call`; nothing of gRPC's context. All are registered as methods
that read for themselves, which clients cannot tell from unary ones: so a caller is known before the first
byte of a message is taken, and a message that does not arrive ends the call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode

from trueup.doors.api import errors as http_errors
from trueup.doors.api.errors import BodyTooSlow
from trueup.doors.auth import Authenticator, Caller, Permission
from trueup.doors.inference import wire
from trueup.doors.inference.asking import Arrival
from trueup.doors.inference.grpc.errors import UNEXPECTED, status_of, text
from trueup.errors import InvalidInput, Overloaded, TrueupError, Unauthenticated
from trueup.settings import Limits
from trueup.telemetry import log
from trueup.telemetry.requests import Observed, Telemetry

DETAILS_CHARS = 2_000  # of an error's text: it travels in a header, and those are bounded to some 8 kB
PUSHBACK = (("grpc-retry-pushback-ms", "1000"),)  # what gRPC's own retries wait for

_Asked = TypeVar("_Asked", bound=Message)
Context: TypeAlias = Any  # grpc.aio.ServicerContext; gRPC comes without types
Metadata: TypeAlias = dict[str, str]
Handle = Callable[[_Asked, "Call"], Awaitable[Message]]


NOBODY = Caller("", ())  # who needs no key


@dataclass(frozen=True, slots=True)
class Call:
    """What a call says beside its message: ``key`` is the metadata's; ``deadline`` of time.monotonic.

    ``spend`` is told the number of instances, and raises RateLimited.
    """

    arrival: Arrival
    caller: Caller = NOBODY
    key: str | None = None
    deadline: float | None = None
    spend: Callable[[int], None] = lambda _: None


class Bound:
    """At most so many at once."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self.held = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counts one for as long as the block lasts. Raises Overloaded."""
        if self.held >= self._most:
            raise Overloaded(f"too many {self._what} at once", next_step="try again after a moment")
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1


class Calls:
    """Makes the handlers that gRPC runs. Health probes are neither counted nor asked for a key."""

    def __init__(self, keys: Authenticator, limits: Limits, telemetry: Telemetry) -> None:
        self._keys = keys
        self._telemetry = telemetry
        self.open = Bound(limits.grpc_calls, "calls")

    def unary(self, asked: type[_Asked], handle: Handle[_Asked], permission: Permission) -> Any:
        """A method of one message and one answer, for callers with the permission."""

        async def serve(_: Any, context: Context) -> bytes:
            with self.observed(metadata(context)) as observed:
                with answering_faults(context) as fault, self.open.one():
                    caller = await self.allow(context, metadata(context), permission)
                    answer = await self._one(asked, handle, context, caller)
                    observed.answered(200, "ok")
                    context.set_trailing_metadata(_told(observed))
                    return answer
                observed.answered(fault.status, fault.outcome)
                return await fault.abort(_told(observed))

        return grpc.stream_unary_rpc_method_handler(serve)

    def stream(self, serve: Callable[[Context], Awaitable[None]], permission: Permission) -> Any:
        """A method of many messages and answers; ``serve`` reads and writes."""

        async def guarded(_: Any, context: Context) -> None:
            with answering_faults(context) as fault, self.open.one():
                await self.allow(context, metadata(context), permission)
                await serve(context)
                return
            await fault.abort()

        return grpc.stream_stream_rpc_method_handler(guarded)

    def observed(self, sent: Metadata) -> Observed:
        """A request, as metrics, traces and logs see it."""
        return self._telemetry.request("grpc", {name.encode(): value.encode() for name, value in sent.items()})

    async def allow(self, context: Context, sent: Metadata, permission: Permission) -> Caller:
        """Who is calling. Raises Unauthenticated, Forbidden, RateLimited."""
        authorization = sent.get("authorization", "")
        bearer = authorization[:7].lower() == "bearer "
        shown = (authorization[7:] if bearer else sent.get("x-api-key", "")).strip()
        if not shown:
            raise Unauthenticated("an API key is needed", next_step="send metadata `authorization: Bearer tu_...`")
        caller = self._keys.known(shown)
        if caller is None:
            authenticate = partial(self._keys.authenticate, shown, _peer(context))
            caller = await asyncio.get_running_loop().run_in_executor(None, authenticate)
        caller.require(permission)
        return caller

    def call_of(self, context: Context, sent: Metadata, caller: Caller) -> Call:
        """What stands beside the message that was just read."""
        spend = partial(self._keys.spend, caller)
        return Call(Arrival.now(), caller, sent.get("idempotency-key"), _deadline(context), spend)

    async def _one(self, asked: type[_Asked], handle: Handle[_Asked], context: Context, caller: Caller) -> bytes:
        raw = await read(context)
        call = self.call_of(context, metadata(context), caller)
        return await _answered(asked, handle, raw, call)


def open_to_all(asked: type[_Asked], handle: Handle[_Asked]) -> Any:
    """A method of one message and one answer that needs no key."""

    async def serve(_: Any, context: Context) -> bytes:
        with answering_faults(context) as fault:
            raw = await read(context)
            return await _answered(asked, handle, raw, Call(Arrival.now()))
        return await fault.abort()

    return grpc.stream_unary_rpc_method_handler(serve)


async def _answered(asked: type[_Asked], handle: Handle[_Asked], raw: bytes | None, call: Call) -> bytes:
    if raw is None:
        raise InvalidInput("the call ended without a message")
    answer: bytes = (await handle(parsed(asked, raw), call)).SerializeToString()
    return answer


async def read(context: Context, within_s: float | None = None) -> bytes | None:
    """The next message as it was sent, None where the caller has no more. Raises BodyTooSlow."""
    bound = wire.BODY_READ_S if within_s is None else within_s
    try:
        async with asyncio.timeout(bound):
            found = await context.read()
    except TimeoutError:
        raise BodyTooSlow(f"the message did not arrive within {bound:.0f} s") from None
    return None if found is grpc.aio.EOF else found


def parsed(asked: type[_Asked], raw: bytes) -> _Asked:
    """The message. Raises InvalidInput."""
    try:
        message: _Asked = asked.FromString(raw)
    except DecodeError:
        raise InvalidInput("the message is not what the method takes") from None
    return message


def _told(observed: Observed) -> tuple[tuple[str, str], ...]:
    """What HTTP answers carry as headers, as metadata: the request's id, its span."""
    return tuple((name.decode(), value.decode()) for name, value in observed.headers())


def _deadline(context: Context) -> float | None:
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left


def _peer(context: Context) -> str | None:
    """The caller's address without its port, as HTTP has it."""
    kind, _, place = context.peer().partition(":")
    return place.rpartition(":")[0].replace("%5B", "").replace("%5D", "") if kind in ("ipv4", "ipv6") else None


def metadata(context: Context) -> Metadata:
    """What the caller sent beside its messages, by lower-case name; of a repeated name the first."""
    return {key: value for key, value in reversed(context.invocation_metadata()) if isinstance(value, str)}


class Fault:
    """What a call ended with instead of an answer."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.code = StatusCode.INTERNAL
        self.text = UNEXPECTED
        self.status, self.outcome = 500, "internal"  # as HTTP would say it

    async def abort(self, told: tuple[tuple[str, str], ...] = ()) -> Any:
        """Ends the call with the fault's status; ``told`` is further metadata behind it."""
        again = self.code in (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED)
        await self._context.abort(self.code, self.text[:DETAILS_CHARS], (PUSHBACK if again else ()) + told)


@contextmanager
def answering_faults(context: Context) -> Iterator[Fault]:
    """Swallows what is raised inside into the fault, which the caller then aborts with.

    gRPC itself would send a stray exception's own text, which may hold a caller's values.
    """
    fault = Fault(context)
    try:
        yield fault
    except TrueupError as error:
        fault.code, fault.text = status_of(error), text(error)
        fault.status, fault.outcome = http_errors.status_of(error)
    except (grpc.aio.AbortError, asyncio.CancelledError):
        raise
    except Exception as error:
        log("inference").error("call_failed", kind=type(error).__name__)
