"""The one table from trueup's errors to MLflow's: ``{"error_code", "message"}``, and the fields where any is at fault."""

from __future__ import annotations

from typing import Any

import msgspec

from trueup import errors
from trueup.doors.api.errors import BodyTooLarge, field_documents
from trueup.doors.inference import errors as inference_errors
from trueup.doors.inference.wire import Reply


class UnsupportedMediaType(errors.InvalidInput):
    """A content type or charset that is not taken."""


# MLflow's own status goes with most codes; where HTTP has a more exact one, that is sent.
CODES: dict[type[errors.TrueupError], str] = {
    errors.InvalidInput: "BAD_REQUEST",
    UnsupportedMediaType: "BAD_REQUEST",
    BodyTooLarge: "RESOURCE_LIMIT_EXCEEDED",
    errors.InstanceErrors: "INVALID_PARAMETER_VALUE",
    errors.Unauthenticated: "UNAUTHENTICATED",
    errors.Forbidden: "PERMISSION_DENIED",
    errors.NotFound: "RESOURCE_DOES_NOT_EXIST",
    errors.Conflict: "RESOURCE_CONFLICT",
    errors.ScoringError: "INTERNAL_ERROR",
    errors.RateLimited: "REQUEST_LIMIT_EXCEEDED",
    errors.Unavailable: "TEMPORARILY_UNAVAILABLE",
    errors.TimedOut: "DEADLINE_EXCEEDED",
    errors.MissingExtra: "NOT_IMPLEMENTED",
    errors.TrueupError: "INTERNAL_ERROR",
}


def answer(error: errors.TrueupError) -> Reply:
    """The error as the caller gets it: names, codes and rows, never a value that was sent."""
    reply = inference_errors.answer(error)
    if isinstance(error, UnsupportedMediaType):
        reply.status = 415
    code = next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
    document: dict[str, Any] = {"error_code": code, "message": inference_errors.text(error)}
    if isinstance(error, errors.InstanceErrors):
        document["fields"] = field_documents(error.errors)
    reply.body = msgspec.json.encode(document)
    return reply


def unexpected() -> Reply:
    """A fault of our own says nothing about the inside."""
    said = "trueup failed on this request; the server's log tells more"
    return Reply(500, msgspec.json.encode({"error_code": "INTERNAL_ERROR", "message": said}))
