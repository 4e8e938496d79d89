"""A request that is answered without a task: read at once, and written when the gatherer tells its part."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, Protocol, TypeVar

from trueup.doors.inference.asking import Asked
from trueup.doors.inference.asks import Part
from trueup.doors.inference.errors import Shape
from trueup.doors.inference.wire import Reply, head_of, packed
from trueup.doors.prompt import Respond
from trueup.telemetry.requests import Observed


class Asking(Protocol):
    """What an exchange needs to know of its request."""

    headers: dict[bytes, bytes]
    shape: Shape


_Request = TypeVar("_Request", bound=Asking)


class Exchange(Generic[_Request]):
    """Waits for an answer as an ``asyncio.Future`` does. ``left`` is called when the request is answered."""

    __slots__ = ("_left", "_observed", "_request", "_respond", "_task", "asked")

    def __init__(
        self, request: _Request, observed: Observed, respond: Respond, left: Callable[[_Request], None]
    ) -> None:
        self._request = request
        self._observed = observed
        self._respond = respond
        self._left = left
        self._task: asyncio.Task[list[Part]] | None = None
        self.asked: Asked | None = None
        observed.begin()

    def follow(self, parts: Coroutine[Any, Any, list[Part]]) -> None:
        """The answer of a request in several pieces, which needs a task after all."""
        self._task = asyncio.get_running_loop().create_task(parts)
        self._task.add_done_callback(self._followed)

    def done(self) -> bool:
        """What is accepted is booked, whether or not its caller waits."""
        return False

    def set_result(self, part: Part) -> None:
        """Answers."""
        self._written([part])

    def set_exception(self, error: BaseException) -> None:
        """Answers with what went wrong."""
        with self._observed.here():
            reply = self._request.shape.of(error)
        self._send(reply)

    def _followed(self, task: asyncio.Task[list[Part]]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self.set_exception(error)
        else:
            self._written(task.result())

    def _written(self, parts: Sequence[Part]) -> None:
        assert self.asked is not None
        try:
            reply = self.asked.write(parts)
        except Exception as error:
            self.set_exception(error)
            return
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        self.asked = None  # which refers to this exchange: the garbage collector would have to find out
        observed = self._observed
        observed.answered(reply.status, reply.outcome)
        reply.headers += observed.headers()
        try:
            accepts = self._request.headers.get(b"accept-encoding")
            if accepts is not None:
                packed(reply, accepts)
            self._respond(reply.status, head_of(reply), reply.body)
        finally:
            observed.end()
            self._left(self._request)
