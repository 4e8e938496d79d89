"""Every error of trueup has one HTTP status and one exit code, and one shape."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from trueup import errors
from trueup.domain.contract import FieldError
from trueup.doors.api.errors import answer, status_of, unexpected
from trueup.doors.cli.errors import exit_code


def _family(kind: type[errors.TrueupError]) -> Iterator[type[errors.TrueupError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


def _one(kind: type[errors.TrueupError]) -> errors.TrueupError:
    if issubclass(kind, errors.InstanceErrors):
        return kind((FieldError(0, "x", "type", "float64"),))
    if issubclass(kind, errors.MissingExtra):
        return kind("onnx", "scoring")
    if issubclass(kind, errors.Undelivered):
        return kind("what is wrong", is_passing=True, next_step="what to do")
    return kind("what is wrong", next_step="what to do")


@pytest.mark.parametrize("kind", sorted(set(_family(errors.TrueupError)), key=lambda k: k.__name__))
def test_every_error_is_sent_in_the_one_shape(kind: type[errors.TrueupError]) -> None:
    response = answer(_one(kind))
    body = msgspec.json.decode(response.body)
    assert set(body) == {"error"}
    assert {"code", "message", "next_step"} <= set(body["error"]) <= {"code", "message", "next_step", "fields"}
    assert 400 <= response.status_code < 600
    assert 1 <= exit_code(_one(kind)) <= 8


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (errors.InvalidQuery, 400, 3),
        (errors.InstanceErrors, 422, 3),
        (errors.Unauthenticated, 401, 6),
        (errors.Forbidden, 403, 6),
        (errors.NotFound, 404, 4),
        (errors.Conflict, 409, 5),
        (errors.RateLimited, 429, 7),
        (errors.Overloaded, 503, 7),
        (errors.LedgerUnavailable, 503, 7),
        (errors.MissingExtra, 501, 8),
        (errors.ScoringError, 500, 1),
        (errors.TrueupError, 500, 1),
    ],
)
def test_the_documented_codes_hold(kind: type[errors.TrueupError], status: int, code: int) -> None:
    assert status_of(_one(kind))[0] == status
    assert exit_code(_one(kind)) == code


def test_who_must_come_again_is_told_when() -> None:
    assert answer(errors.Overloaded("full")).headers["Retry-After"] == "1"
    assert answer(errors.RateLimited("slower", retry_after_s=1.2)).headers["Retry-After"] == "2"
    assert answer(errors.RateLimited("slower", retry_after_s=1e-9)).headers["Retry-After"] == "1"
    assert answer(errors.Unauthenticated("who")).headers["WWW-Authenticate"] == "Bearer"


def test_a_fault_of_our_own_says_nothing_about_the_inside() -> None:
    assert msgspec.json.decode(unexpected().body)["error"]["code"] == "internal"
