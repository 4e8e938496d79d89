"""The one table from trueup's errors to HTTP, and the one shape in which they are sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from trueup import errors
from trueup.domain.contract import FieldError

RETRY_AFTER_S = "1"


class BodyTooLarge(errors.InvalidInput):
    """The request holds more bytes or instances than one may."""


class BodyTooSlow(errors.InvalidInput):
    """The body did not arrive in time."""


# Most special class first found on the error's own line of ancestors: (status, code).
STATUS: dict[type[errors.TrueupError], tuple[int, str]] = {
    errors.InvalidInput: (400, "invalid_request"),
    BodyTooSlow: (408, "body_too_slow"),
    BodyTooLarge: (413, "body_too_large"),
    errors.InvalidQuery: (400, "invalid_query"),
    errors.InvalidFile: (400, "invalid_file"),
    errors.ContractError: (422, "contract_invalid"),
    errors.InstanceErrors: (422, "instance_invalid"),
    errors.Unauthenticated: (401, "unauthenticated"),
    errors.Forbidden: (403, "forbidden"),
    errors.NotFound: (404, "not_found"),
    errors.Conflict: (409, "conflict"),
    errors.ModelRefused: (422, "model_refused"),
    errors.ParityError: (422, "parity"),
    errors.ScoringError: (500, "scoring_failed"),
    errors.RateLimited: (429, "rate_limited"),
    errors.Overloaded: (503, "overloaded"),
    errors.TimedOut: (504, "timed_out"),
    errors.LedgerUnavailable: (503, "ledger_unavailable"),
    errors.Unavailable: (503, "unavailable"),
    errors.MissingExtra: (501, "missing_extra"),
    errors.TrueupError: (500, "failed"),
}


_OUTCOMES = {404: "not_found", 405: "method_not_allowed", 422: "invalid_request", 503: "unavailable"}


def outcome_of(status: int) -> str:
    """How metrics and logs name an answer that comes from no error of ours."""
    return "ok" if status < 400 else _OUTCOMES.get(status, "http_error" if status < 500 else "failed")


def status_of(error: errors.TrueupError) -> tuple[int, str]:
    """HTTP status and code of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def answer(error: errors.TrueupError) -> Response:
    """The error as the caller gets it."""
    status, code = status_of(error)
    fields = field_documents(error.errors) if isinstance(error, errors.InstanceErrors) else None
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 408:
        headers["Connection"] = "close"  # the rest of the body may still come
    if status == 503:
        headers["Retry-After"] = RETRY_AFTER_S
    if isinstance(error, errors.RateLimited):
        headers["Retry-After"] = retry_after(error)
    step = error.next_step or ("try again after a moment" if status == 503 else "see /docs")
    return shaped(status, code, error.message, step, fields=fields, headers=headers)


def retry_after(error: errors.RateLimited) -> str:
    """Whole seconds after which to come again, as the header takes them."""
    return str(max(1, math.ceil(error.retry_after_s)))


def shaped(
    status: int,
    code: str,
    message: str,
    next_step: str = "",
    *,
    fields: Sequence[dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The one shape: ``{"error": {"code", "message", "next_step", "fields"?}}``."""
    body: dict[str, Any] = {"code": code, "message": message, "next_step": next_step}
    if fields is not None:
        body["fields"] = list(fields)
    return Response(msgspec.json.encode({"error": body}), status, headers, "application/json")


def unexpected() -> Response:
    """What a fault of our own looks like from outside: it says nothing about the inside."""
    return shaped(500, "internal", "trueup failed on this request", "try again; the server's log tells more")


def field_documents(found: Sequence[FieldError]) -> list[dict[str, Any]]:
    """Field errors as JSON values; never the values that were sent."""
    return [{"row": e.row, "field": e.field, "code": e.code, "expected": e.expected} for e in found]
