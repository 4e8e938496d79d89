"""Many inferences over one call, answered in the order in which they were asked.

A request that fails is an answer with an ``error_message``, and the stream goes on. At most so many requests
of one stream are being answered; the next is read when the oldest answer has been sent, so a caller that
does not read is not read from.
"""

from __future__ import annotations

import asyncio
from typing import Any

from trueup.doors.api import errors as http_errors
from trueup.doors.auth import Permission
from trueup.doors.inference.grpc.calls import Call, Calls, Context, Metadata, metadata, parsed
from trueup.doors.inference.grpc.errors import UNEXPECTED, status_of, text
from trueup.doors.inference.grpc.generated import open_inference_pb2 as pb
from trueup.doors.inference.grpc.handlers import Handlers
from trueup.errors import InvalidInput, TrueupError, Unavailable
from trueup.telemetry import log
from trueup.telemetry.requests import Observed

_Answers = asyncio.Queue["asyncio.Task[bytes] | BaseException | None"]


class Streams:
    """All open inference streams."""

    def __init__(self, handlers: Handlers, calls: Calls, in_flight: int) -> None:
        self._handlers = handlers
        self._calls = calls
        self._in_flight = in_flight
        self._readers: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def serve(self, context: Context) -> None:
        """One stream. Raises InvalidInput, Unauthenticated, and Unavailable when the server stops meanwhile."""
        if self._stopped:
            raise _stopping()
        sent = metadata(context)
        if "idempotency-key" in sent:
            raise InvalidInput(
                "each request of a stream has its own key", next_step="send idempotency_key as parameter"
            )
        slots = asyncio.Semaphore(self._in_flight)
        answers: _Answers = asyncio.Queue()  # bounded by the slots
        reader = asyncio.create_task(self._read(context, sent, slots, answers))
        # Behind the end of the stream nobody reads this; a reader that was cancelled has told no end.
        reader.add_done_callback(lambda _: answers.put_nowait(_stopping()))
        self._readers.add(reader)
        try:
            while (answer := await answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                await context.write(await answer)
                slots.release()
        finally:
            self._readers.discard(reader)
            reader.cancel()
            _cancel(answers)

    def stop(self) -> None:
        """No stream is read any further; what has been read is answered."""
        self._stopped = True
        for reader in self._readers:
            reader.cancel()

    async def _read(self, context: Context, sent: Metadata, slots: asyncio.Semaphore, answers: _Answers) -> None:
        try:
            while True:
                await slots.acquire()
                raw = await context.read()
                if not isinstance(raw, bytes):  # EOF
                    break
                caller = await self._calls.allow(context, sent, Permission.SCORE)  # the key may be revoked by now
                call = self._calls.call_of(context, sent, caller)
                answers.put_nowait(asyncio.create_task(self._observed(raw, call, sent)))
            answers.put_nowait(None)
        except Exception as error:
            answers.put_nowait(error)

    async def _observed(self, raw: bytes, call: Call, sent: Metadata) -> bytes:
        with self._calls.observed(sent) as observed:
            return await self._answered(raw, call, observed)

    async def _answered(self, raw: bytes, call: Call, observed: Observed) -> bytes:
        answer = pb.ModelStreamInferResponse()
        name = ""
        try:
            request = parsed(pb.ModelInferRequest, raw)
            answer.infer_response.id = request.id
            answer.infer_response.model_name = request.model_name
            answer.infer_response.CopyFrom(await self._handlers.model_infer(request, call))
            observed.answered(200, "ok")
        except TrueupError as error:
            observed.answered(*http_errors.status_of(error))
            answer.error_message, name = text(error), status_of(error).name
        except Exception as error:  # its text may hold a caller's values
            log("inference").error("stream_request_failed", kind=type(error).__name__)
            observed.answered(500, "internal")
            answer.error_message, name = UNEXPECTED, "INTERNAL"
        if name:
            answer.infer_response.parameters["status"].string_param = name
        else:
            answer.infer_response.parameters["triton_final_response"].bool_param = True
        found: bytes = answer.SerializeToString()
        return found


def _stopping() -> Unavailable:
    return Unavailable("the server is stopping", next_step="send the rest again, to another server")


def _cancel(answers: _Answers) -> None:
    """The caller has gone: nobody waits for what is left."""
    while not answers.empty():
        left: Any = answers.get_nowait()
        if isinstance(left, asyncio.Task):
            left.cancel()
