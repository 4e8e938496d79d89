"""One HTTP request as far as it is read, and whose answers its path asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import Message, Receive, Scope

from trueup.doors.inference import errors
from trueup.doors.inference.mlflow.errors import MLFLOW
from trueup.doors.inference.wire import headers_of

MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?/?\Z")
_RECORDS = re.compile(r"/v1/deployments/([^/]+)/score\Z")
REMEMBERED_CHARS = 512  # of a path: strangers choose them

Target = tuple[errors.Shape, str, str | None]
"""Protocol, model and version."""


async def _no_more() -> Message:
    """What the body of a whole request is followed by."""
    return {"type": "http.disconnect"}


@dataclass(slots=True)
class Request:
    """One HTTP request as far as it is read."""

    headers: dict[bytes, bytes]
    receive: Receive
    peer: str | None = None
    query: bytes = b""
    model: str = ""
    version: str | None = None
    action: str = ""
    held: int = 0  # bytes of its body in memory
    shape: errors.Shape = errors.OPEN_INFERENCE  # of its errors

    @property
    def key(self) -> str | None:
        """The idempotency key of its header."""
        key = self.headers.get(b"idempotency-key")
        return None if key is None else key.decode("latin-1")

    @property
    def shown(self) -> str:
        """The key or token that says who is calling, "" where there is none."""
        authorization = self.headers.get(b"authorization", b"")
        bearer = authorization[:7].lower() == b"bearer "
        shown = authorization[7:] if bearer else self.headers.get(b"x-api-key", b"")
        return shown.decode("latin-1").strip()


def target_of(path: str) -> Target | None:
    """Whose scores a path stands for: protocol, model and version; None for any other path."""
    return _remembered(path) if len(path) <= REMEMBERED_CHARS else _read_target(path)


def _read_target(path: str) -> Target | None:
    found = MODEL.match(path)
    if found is not None:
        return (errors.OPEN_INFERENCE, found[1], found[2]) if found[3] == "/infer" else None
    found = _RECORDS.match(path)
    return None if found is None else (errors.RECORDS, found[1], None)


_remembered = lru_cache(1024)(_read_target)


def request_of(scope: Scope, receive: Receive = _no_more, target: Target | None = None) -> Request:
    """The request of an ASGI scope; ``receive`` where its body is still to come."""
    client = scope.get("client")
    request = Request(headers_of(scope), receive, client[0] if client else None, scope["query_string"])
    if target is not None:
        request.shape, request.model, request.version = target
    return request


def door_of(path: str, request: Request) -> str:
    """Which of ``DOORS`` a path belongs to."""
    if request.shape is errors.RECORDS:
        return "records"
    if path.endswith("/infer"):
        return "rest"
    if request.shape is MLFLOW:
        return "invocations" if path == "/invocations" else "health"
    return "health" if path.startswith("/v2/health/") else "api"
