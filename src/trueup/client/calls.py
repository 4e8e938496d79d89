"""Every call of the API as a value: what is sent, and how its answer is read. Nothing here touches a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import msgspec

from trueup.client import answers
from trueup.client.errors import UnexpectedAnswer
from trueup.errors import InvalidInput

T = TypeVar("T")
Instance = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call. ``content`` stays the same for every attempt, and with it the idempotency keys."""

    method: str
    path: str
    read: Callable[[bytes], T]
    content: bytes | None = None
    parameters: Mapping[str, str] | None = None
    with_key: bool = True
    probe: bool = False  # a question of health: asked once, and 503 is an answer


def new_key() -> str:
    """An idempotency key that nobody else has."""
    return str(uuid4())


def score(
    deployment: str, instance: Instance, *, key: str | None, event_time: datetime | None, reasons: bool
) -> Call[answers.Answer]:
    """One instance. Raises InvalidInput."""
    body: dict[str, Any] = {"instance": exact(instance), "key": new_key() if key is None else key}
    if event_time is not None:
        body["event_time"] = _moment(event_time)
    return _scoring(deployment, body, reasons, answers.Answer)


def score_many(
    deployment: str,
    instances: Iterable[Instance],
    *,
    keys: Sequence[str] | None,
    event_times: Sequence[datetime] | None,
    reasons: bool,
) -> Call[answers.Answers]:
    """Many instances. Raises InvalidInput."""
    rows = [exact(instance) for instance in instances]
    for given, what in ((keys, "keys"), (event_times, "event times")):
        if isinstance(given, str) or (given is not None and len(given) != len(rows)):
            raise InvalidInput(f"{len(rows)} instances need as many {what}", next_step="give one a row, or none")
    body: dict[str, Any] = {"instances": rows, "keys": [new_key() for _ in rows] if keys is None else list(keys)}
    if event_times is not None:
        body["event_times"] = [_moment(moment) for moment in event_times]
    return _scoring(deployment, body, reasons, answers.Answers)


def record_outcomes(
    contract: str,
    outcomes: Iterable[Instance],
    *,
    source: str,
    label: str | None,
    state: str | None,
    all_or_none: bool,
) -> Call[answers.OutcomesReceipt]:
    """Real outcomes. Raises InvalidInput."""
    rows = [exact(outcome) for outcome in outcomes]
    body: dict[str, Any] = {"contract": contract, "source": source, "outcomes": rows, "all_or_none": all_or_none}
    body |= {name: str(value) for name, value in (("label", label), ("state", state)) if value is not None}
    return Call("POST", "/v1/outcomes", reading(answers.OutcomesReceipt), encoded(body))


def record_actions(deployment: str, actions: Iterable[Instance]) -> Call[answers.ActionsReceipt]:
    """What was done about items; an action without a key gets one that every attempt sends. Raises InvalidInput."""
    rows = [exact(_named(action)) for action in actions]
    rows = [row if row.get("key") is not None else {**row, "key": new_key()} for row in rows]
    return Call(
        "POST", "/v1/actions", reading(answers.ActionsReceipt), encoded({"deployment": deployment, "actions": rows})
    )


def _named(action: Instance) -> Instance:
    """The prediction's id as text."""
    found = action.get("prediction_id") if isinstance(action, Mapping) else None
    return {**action, "prediction_id": str(found)} if isinstance(found, UUID) else action


class _Predictions(msgspec.Struct):
    predictions: tuple[answers.PredictionSummary, ...]


class _Deployments(msgspec.Struct):
    deployments: tuple[answers.Deployment, ...]


def predictions(**where: str | int | float | date | None) -> Call[tuple[answers.PredictionSummary, ...]]:
    """Predictions that fulfil all conditions."""
    given = {name: str(value) for name, value in where.items() if value is not None}
    read = reading(_Predictions)
    return Call("GET", "/v1/predictions", lambda content: read(content).predictions, parameters=given)


def prediction(prediction_id: str | UUID) -> Call[answers.Prediction]:
    """One prediction."""
    return Call("GET", f"/v1/predictions/{_part(str(prediction_id))}", reading(answers.Prediction))


def deployments() -> Call[tuple[answers.Deployment, ...]]:
    """Every deployment that the caller may read."""
    read = reading(_Deployments)
    return Call("GET", "/v1/deployments", lambda content: read(content).deployments)


def deployment(name: str) -> Call[answers.DeploymentState]:
    """One deployment."""
    return Call("GET", f"/v1/deployments/{_part(name)}", reading(answers.DeploymentState))


def contract(name: str, version: int | None) -> Call[answers.Contract]:
    """One contract."""
    given = None if version is None else {"version": str(version)}
    return Call("GET", f"/v1/contracts/{_part(name)}", reading(answers.Contract), parameters=given)


def health(question: str) -> Call[answers.Health]:
    """``live`` or ``ready``. The key is not sent: it is not asked for."""
    return Call("GET", f"/health/{question}", reading(answers.Health), with_key=False, probe=True)


def reading(kind: type[T]) -> Callable[[bytes], T]:
    """Reads an answer as a record. What it returns raises UnexpectedAnswer."""
    decoder = msgspec.json.Decoder(kind)

    def read(content: bytes) -> T:
        try:
            return decoder.decode(content)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise UnexpectedAnswer(
                "the answer is none of trueup's", next_step="check the address, and the versions of client and server"
            ) from None

    return read


def encoded(body: Mapping[str, Any]) -> bytes:
    """The body as JSON. Raises InvalidInput for what JSON has no form for."""
    try:
        return msgspec.json.encode(body)
    except (TypeError, OverflowError, ValueError, RecursionError):
        raise InvalidInput("a key, name or number cannot be written as JSON") from None


def exact(instance: Instance) -> dict[str, Any]:
    """The instance in JSON's types, every value exactly. Raises InvalidInput, which names the field only."""
    try:
        found = {name: _exact(value) for name, value in instance.items()}
    except AttributeError:
        raise InvalidInput("an instance is a mapping of field names to values") from None
    except _Inexact:
        wrong = [str(name) for name, value in instance.items() if not _is_exact(value)]
        raise InvalidInput(
            f"the fields {', '.join(wrong)} have values of types that are not sent",
            next_step="give None, bool, int, float, Decimal, str, date, or datetime with a zone",
        ) from None
    if not all(isinstance(name, str) for name in found):
        raise InvalidInput("the names of an instance's fields are text")
    return found


class _Inexact(Exception):
    """A value has no exact form."""


def _is_exact(value: Any) -> bool:
    try:
        _exact(value)
    except _Inexact:
        return False
    return True


def _exact(value: Any) -> Any:
    """The value in a type of JSON. NaN, infinity and decimals are text, as contracts take them: JSON has no such."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass, such as an enum's member, the text itself
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _SPECIAL.get(value, "NaN")
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, date):
        if isinstance(value, datetime) and value.tzinfo is None:
            raise _Inexact
        return value.isoformat()
    if hasattr(value, "dtype") and hasattr(value, "item"):  # a numpy scalar
        plain = value.item()
        if isinstance(plain, (bool, int, float, str)) and getattr(value.dtype, "kind", "") in "biufU":
            return _exact(plain)
    raise _Inexact


_SPECIAL = {math.inf: "Infinity", -math.inf: "-Infinity"}


def _moment(moment: datetime) -> str:
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidInput("an event time is a datetime with a zone", next_step="datetime.now(UTC), for one")
    return moment.isoformat()


def _part(name: str) -> str:
    """One part of a path, whatever is in it. Raises InvalidInput for what would be another path."""
    try:
        part = quote(name, safe="")
    except UnicodeEncodeError:
        part = ""
    if part in ("", ".", ".."):
        raise InvalidInput("a name or id is needed")
    return part


def _scoring(deployment: str, body: dict[str, Any], reasons: bool, kind: type[T]) -> Call[T]:
    if reasons:
        body["reasons"] = True
    return Call("POST", f"/v1/deployments/{_part(deployment)}/score", reading(kind), encoded(body))
