"""The one table from the server's codes to trueup's errors, and the two errors that only a caller can have."""

from __future__ import annotations

import msgspec

from trueup import errors
from trueup.client.answers import FieldFault
from trueup.domain.contract import FieldError

MOST_CHARS = 2_000  # of one text of the server


class Unreachable(errors.Unavailable):
    """No answer from the server. Whether the request was booked is not known: repeat it under the same key."""


class UnexpectedAnswer(errors.TrueupError):
    """What answered does not speak trueup's API, or more came than ``answer_bytes``."""


BY_CODE: dict[str, type[errors.TrueupError]] = {
    "invalid_request": errors.InvalidInput,
    "invalid_query": errors.InvalidQuery,
    "invalid_file": errors.InvalidFile,
    "body_too_slow": errors.InvalidInput,
    "body_too_large": errors.InvalidInput,
    "contract_invalid": errors.ContractError,
    "instance_invalid": errors.InstanceErrors,
    "unauthenticated": errors.Unauthenticated,
    "forbidden": errors.Forbidden,
    "not_found": errors.NotFound,
    "conflict": errors.Conflict,
    "scoring_failed": errors.ScoringError,
    "model_refused": errors.ModelRefused,
    "parity": errors.ParityError,
    "unavailable": errors.Unavailable,
    "ledger_unavailable": errors.LedgerUnavailable,
    "overloaded": errors.Overloaded,
    "rate_limited": errors.RateLimited,
    "timed_out": errors.TimedOut,
}
# Where something on the way answered and not trueup, or with a code that is newer than this client.
BY_STATUS: dict[int, type[errors.TrueupError]] = {
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    429: errors.RateLimited,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.TimedOut,
}


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""
    next_step: str = ""
    fields: tuple[FieldFault, ...] = ()


class _Body(msgspec.Struct):
    error: _Error


_BODY = msgspec.json.Decoder(_Body)


def error_of(status: int, content: bytes, retry_after_s: float | None) -> errors.TrueupError:
    """The error that an answer with a status of 300 or more stands for."""
    try:
        said = _BODY.decode(content).error
    except (msgspec.MsgspecError, ValueError, RecursionError):
        said = _Error(message=f"the answer was HTTP {status}")
    kind = BY_CODE.get(said.code) or BY_STATUS.get(status) or _family(status)
    message, step = said.message[:MOST_CHARS], said.next_step[:MOST_CHARS]
    if issubclass(kind, errors.InstanceErrors):
        return errors.InstanceErrors(tuple(FieldError(f.row, f.field, f.code, f.expected) for f in said.fields))
    if issubclass(kind, errors.RateLimited):
        return errors.RateLimited(
            message, next_step=step, retry_after_s=1.0 if retry_after_s is None else retry_after_s
        )
    return kind(message, next_step=step)


def _family(status: int) -> type[errors.TrueupError]:
    if status < 400:
        return UnexpectedAnswer  # a redirect: following it would hand the key to somebody else
    return errors.InvalidInput if status < 500 else errors.TrueupError
