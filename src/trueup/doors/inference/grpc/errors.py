"""The one table from trueup's errors to gRPC's status codes. What is said of an error is what REST says."""

from __future__ import annotations

from grpc import StatusCode

from trueup import errors
from trueup.doors.api.errors import BodyTooLarge, BodyTooSlow
from trueup.doors.inference.errors import text

__all__ = ["UNEXPECTED", "status_of", "text"]

UNEXPECTED = "trueup failed on this request; the server's log tells more"

# The most special class on the error's own line of ancestors counts.
STATUS: dict[type[errors.TrueupError], StatusCode] = {
    errors.InvalidInput: StatusCode.INVALID_ARGUMENT,
    BodyTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    BodyTooSlow: StatusCode.DEADLINE_EXCEEDED,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.Forbidden: StatusCode.PERMISSION_DENIED,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.Conflict: StatusCode.ALREADY_EXISTS,
    errors.ScoringError: StatusCode.INTERNAL,
    errors.ModelRefused: StatusCode.FAILED_PRECONDITION,
    errors.ParityError: StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    errors.LedgerUnavailable: StatusCode.UNAVAILABLE,
    errors.Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    errors.TimedOut: StatusCode.DEADLINE_EXCEEDED,
    errors.MissingExtra: StatusCode.UNIMPLEMENTED,
    errors.TrueupError: StatusCode.INTERNAL,
}


def status_of(error: errors.TrueupError) -> StatusCode:
    """The code that a client gets for an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
