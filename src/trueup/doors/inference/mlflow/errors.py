"""The one table from trueup's errors to MLflow's: ``{"error_code": ..., "message": ...}``."""

from __future__ import annotations

import msgspec

from trueup import errors
from trueup.doors.inference.errors import NotAllowed, Shape, headers, outcome, status, text
from trueup.doors.inference.wire import Reply


class UnsupportedMedia(errors.InvalidInput):
    """The content type is none that MLflow's protocol has."""


_CODES: dict[type[errors.TrueupError], str] = {
    errors.TrueupError: "INTERNAL_ERROR",
    errors.InvalidInput: "BAD_REQUEST",
    errors.InstanceErrors: "INVALID_PARAMETER_VALUE",
    errors.Unauthenticated: "UNAUTHENTICATED",
    errors.Forbidden: "PERMISSION_DENIED",
    errors.NotFound: "RESOURCE_DOES_NOT_EXIST",
    errors.Conflict: "RESOURCE_CONFLICT",
    errors.Unavailable: "TEMPORARILY_UNAVAILABLE",
    errors.RateLimited: "REQUEST_LIMIT_EXCEEDED",
    NotAllowed: "ENDPOINT_NOT_FOUND",
    errors.MissingExtra: "NOT_IMPLEMENTED",
}
_UNEXPECTED = b'{"error_code":"INTERNAL_ERROR","message":"trueup failed on this request; the server\'s log tells more"}'


def answer(error: errors.TrueupError) -> Reply:
    """The error as MLflow's clients expect it; its text holds no value that was sent."""
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    body = msgspec.json.encode({"error_code": code, "message": text(error)})
    found = 415 if isinstance(error, UnsupportedMedia) else status(error)
    return Reply(found, body, headers(error, found), outcome(error))


MLFLOW = Shape(answer, lambda: Reply(500, _UNEXPECTED, outcome="internal"))
