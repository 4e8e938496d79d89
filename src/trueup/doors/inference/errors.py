"""The one table from trueup's errors to the protocol's: a status and exactly ``{"error": text}``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
from starlette.responses import Response

from trueup import errors
from trueup.doors.api import errors as api_errors
from trueup.doors.api.errors import retry_after, status_of
from trueup.doors.inference.wire import Reply
from trueup.telemetry import log

RETRY_AFTER = (b"retry-after", b"1")
MOST_FIELDS = 20  # named in one error text


class NotAllowed(errors.InvalidInput):
    """The path is known, the verb is not allowed. ``allow`` says which is."""

    def __init__(self, message: str, *, next_step: str = "", allow: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.allow = allow


_OWN: dict[type[errors.TrueupError], int] = {
    NotAllowed: 405,
    errors.InstanceErrors: 400,
    errors.MissingExtra: 501,
}


def status(error: errors.TrueupError) -> int:
    """HTTP status of an error; the protocol knows no 422."""
    return next((_OWN[kind] for kind in type(error).__mro__ if kind in _OWN), status_of(error)[0])


def text(error: errors.TrueupError) -> str:
    """What is said of an error: names, codes and rows, never a value that was sent."""
    if not isinstance(error, errors.InstanceErrors):
        return f"{error.message}; {error.next_step}" if error.next_step else error.message
    named = "; ".join(f"row {e.row}, {e.field or 'field'}: {e.code} ({e.expected})" for e in error.errors[:MOST_FIELDS])
    more = f"; and {error.total - MOST_FIELDS} more" if error.total > MOST_FIELDS else ""
    return f"{error.message}: {named}{more}"


def answer(error: errors.TrueupError) -> Reply:
    """The error as the caller gets it."""
    code = status(error)
    return Reply(code, msgspec.json.encode({"error": text(error)}), headers(error, code), outcome(error))


def headers(error: errors.TrueupError, code: int) -> list[tuple[bytes, bytes]]:
    """What a caller is told beside the body: when to come again, how to show who it is."""
    found = []
    if code == 401:
        found.append((b"www-authenticate", b"Bearer"))
    if code in (503, 504):
        found.append(RETRY_AFTER)
    if isinstance(error, errors.RateLimited):
        found.append((b"retry-after", retry_after(error).encode()))
    if code == 408:
        found.append((b"connection", b"close"))  # the rest of the body may still come
    if isinstance(error, NotAllowed):
        found.append((b"allow", error.allow.encode()))
    return found


def outcome(error: errors.TrueupError) -> str:
    """The error's code in metrics and logs, the same through every door."""
    return "method_not_allowed" if isinstance(error, NotAllowed) else status_of(error)[1]


def _as_reply(response: Response, named: str) -> Reply:
    headers = [(name, value) for name, value in response.raw_headers if name != b"content-length"]
    return Reply(response.status_code, bytes(response.body), headers, named)


def let_go(error: BaseException) -> None:
    """Forgets where the error came from: its frames hold the request's body, and the request holds the error.

    Else bodies of failed requests stay in memory until the garbage collector comes by, which is seldom here.
    """
    found: BaseException | None = error
    while found is not None and found.__traceback__ is not None:
        found.__traceback__ = None
        found = found.__context__


class Shape(NamedTuple):
    """How a protocol says what went wrong; a fault of our own says nothing about the inside."""

    answer: Callable[[errors.TrueupError], Reply]
    unexpected: Callable[[], Reply]

    def of(self, error: BaseException) -> Reply:
        """What is said of any error, which lets go of its request; what nobody foresaw is logged by its kind."""
        if isinstance(error, errors.TrueupError):
            reply = self.answer(error)
        else:  # its text may hold a caller's values
            log("inference").error("request_failed", kind=type(error).__name__)
            reply = self.unexpected()
        let_go(error)
        return reply


_UNEXPECTED = b'{"error":"trueup failed on this request; the server\'s log tells more"}'
OPEN_INFERENCE = Shape(answer, lambda: Reply(500, _UNEXPECTED, outcome="internal"))
RECORDS = Shape(
    lambda error: _as_reply(api_errors.answer(error), outcome(error)),
    lambda: _as_reply(api_errors.unexpected(), "internal"),
)
