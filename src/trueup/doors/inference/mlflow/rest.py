"""MLflow's ``/invocations``: translate a request, have it scored, translate back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import msgspec

from trueup.domain.batch import Booked, Channel
from trueup.domain.contract import Contract, OutputKind
from trueup.doors.inference.asking import Arrival, Inference, parameter, terms_of
from trueup.doors.inference.mlflow import frames
from trueup.doors.inference.mlflow.errors import UnsupportedMediaType
from trueup.doors.inference.oip import tensors
from trueup.doors.inference.wire import Reply
from trueup.errors import InvalidInput
from trueup.scoring.service import Resolved, Response

INVOCATIONS = "/invocations"
PATHS = frozenset({INVOCATIONS, "/ping", "/health", "/version"})
DEPLOYMENT = b"x-trueup-deployment"
MOST_QUERY = 20  # parameters of one address
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}\Z")
_FORMS: dict[str, Callable[[bytes, Contract, int], frames.Frame]] = {
    "application/json": frames.of_json,
    "text/csv": frames.of_csv,
}
_HOW_TO_NAME = "send the header X-Trueup-Deployment or ?deployment=NAME, or set TRUEUP_INVOCATIONS_DEPLOYMENT"


@dataclass(slots=True)
class Call:
    """What a request says beside its body."""

    deployment: str
    content_type: str
    key: str | None  # of the header Idempotency-Key
    spend: Callable[[int], None]  # told the number of instances; raises RateLimited


def deployment_named(headers: Mapping[bytes, bytes], query: bytes, default: str | None) -> str | None:
    """The deployment that a request asks for: by its header, its address, or the setting. Raises InvalidInput."""
    name = default
    if DEPLOYMENT in headers:
        name = headers[DEPLOYMENT].decode("latin-1").strip()
    elif query:
        try:
            given = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MOST_QUERY)
        except ValueError:
            raise InvalidInput(f"an address has at most {MOST_QUERY} parameters") from None
        names = given.get("deployment", [])
        if len(names) > 1:
            raise InvalidInput("the address names several deployments")
        name = names[0] if names else default
    if name is not None and not _NAME.match(name):
        raise InvalidInput("no deployment can have such a name", next_step=_HOW_TO_NAME)
    return name


def only_deployment(names: Sequence[str]) -> str:
    """The one deployment there is. Raises InvalidInput where there is none, or a choice."""
    if len(names) != 1:
        found = "there is none" if not names else "there are several"
        raise InvalidInput(f"no deployment is named, and {found} that the caller may use", next_step=_HOW_TO_NAME)
    return names[0]


async def invoke(inference: Inference, call: Call, body: bytes) -> Reply:
    """One request: all of its instances are answered, or none."""
    arrival = Arrival.now()
    read = _FORMS[_media_type(call.content_type)]
    resolved = await inference.resolved(call.deployment)
    frame = read(body, resolved.contract, inference.limits.request_rows)
    call.spend(frame.rows)
    detailed = parameter(frame.params, "details", bool) is True
    parts = await inference.score(
        resolved,
        terms_of(Channel.REST, frame.params, key=call.key),
        rows=frame.rows,
        decode=frames.decoded,
        form="records",
        payload=frame.records,
        arrival=arrival,
    )
    predictions: list[Any] = []
    for part in parts:
        if detailed:
            made = part.booked.once("mlflow details", lambda response: _details(resolved, response))
        else:
            made = part.booked.once("mlflow", lambda response: _predictions(resolved, response))
        predictions += made[part.answered]
    return Reply(200, msgspec.json.encode({"predictions": predictions}))


def _media_type(content_type: str) -> str:
    """JSON or CSV. Raises UnsupportedMediaType, also for another charset or any other parameter."""
    name, *parameters = (piece.strip() for piece in content_type.split(";"))
    if name.lower() not in _FORMS:
        raise UnsupportedMediaType("the content type is not taken", next_step=f"send {' or '.join(_FORMS)}")
    for piece in filter(None, parameters):
        key, _, value = piece.partition("=")
        if key.strip().lower() != "charset":
            raise UnsupportedMediaType("a content type has no parameter but charset")
        if value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("only UTF-8 is taken", next_step="send it with charset=utf-8")
    return name.lower()


def _predictions(resolved: Resolved, response: Response) -> list[Any]:
    """What the model itself would have answered: a number a row, or the row's list of numbers."""
    answers = response.receipt.answers
    if resolved.contract.output.kind in (OutputKind.CLASS, OutputKind.VECTOR) and answers.outputs is not None:
        listed: list[Any] = answers.outputs.tolist()
        return listed
    return answers.score.tolist()


def _details(resolved: Resolved, response: Response) -> list[dict[str, Any]]:
    """Everything that is answered of each row, by name."""
    columns = tensors.answered(resolved, response)
    columns["repeated"] = (response.receipt.booked == Booked.REPEATED).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
