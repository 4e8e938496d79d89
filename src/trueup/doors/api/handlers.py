"""Translate a request, call the core, translate back. Blocking: the server runs these in threads."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response as HttpResponse

from trueup.bootstrap import Services
from trueup.contracts.decoding import Decoder
from trueup.contracts.reading import contract_to_json, load_contract, parse_contract
from trueup.domain.batch import REQUEST_SOURCE, Answers, Booked, Channel, Decoded, Reasons, RefusalReason, Source
from trueup.domain.contract import Contract
from trueup.domain.deployment import Deployment, ModelVersion, Runtime, Serving
from trueup.doors.api.errors import BodyTooLarge, field_documents
from trueup.doors.api.schemas import DeployRequest, OutcomesRequest, ScoreRequest
from trueup.doors.auth import ApiKey
from trueup.errors import (
    Conflict,
    InstanceErrors,
    InvalidInput,
    InvalidQuery,
    NotFound,
    ScoringError,
)
from trueup.outcomes.decoding import outcome_batch, outcome_contract
from trueup.ports import PredictionFilter
from trueup.scoring.service import Instances, Response, RowRefusal

_T = TypeVar("_T")
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')


class _AnyObject(msgspec.Struct, gc=False):
    """Any JSON object, read without keeping anything of it."""


_ROWS = msgspec.json.Decoder(list[_AnyObject])


def score(services: Services, name: str, body: bytes) -> HttpResponse:
    """Scores one instance or many; answered only after the ledger committed."""
    received_at = datetime.now(UTC)
    began = time.perf_counter_ns()
    request = parsed(body, ScoreRequest)
    resolved = services.scoring.resolve(name)
    if (request.instance is msgspec.UNSET) == (request.instances is msgspec.UNSET):
        raise InvalidInput("a request holds either `instance` or `instances`", next_step="see /docs for examples")
    single = isinstance(request.instance, msgspec.Raw)
    decoded = _decoded(services, resolved.decoder, request)
    source = _source(services, request, decoded.received)
    event_time = _event_time(request, resolved.contract, decoded.received, received_at)
    instances = Instances.of(
        decoded,
        source,
        received_at=received_at,
        event_time=event_time,
        want_reasons=request.reasons,
        parse_us=(time.perf_counter_ns() - began) // 1000,
    )
    response = services.scoring.score(resolved, instances)
    answers = _answers(response, resolved.contract, want_reasons=request.reasons)
    if single:
        return reply(_single(response, answers))
    return reply(
        {
            "deployment": resolved.deployment.name,
            "received": response.received,
            "answered": len(answers),
            "results": answers,
            "refused": [_refused(r, source) for r in sorted(response.refused, key=lambda r: r.row)],
        }
    )


def record_outcomes(services: Services, body: bytes) -> HttpResponse:
    """Records outcomes, all or none."""
    request = parsed(body, OutcomesRequest)
    contract = services.registry.contract(request.contract)
    decoder = Decoder(outcome_contract(contract), services.settings.limits)
    decoded = decoder.json(_bounded_rows(services, bytes(request.outcomes)))
    if decoded.errors_total:
        raise InstanceErrors(decoded.errors, decoded.errors_total)
    batch = outcome_batch(contract, decoded.columns, source=request.source, now=datetime.now(UTC))
    return reply(asdict(services.outcomes.record(batch)))


def deployments(services: Services) -> HttpResponse:
    """Newest revision of each deployment."""
    return reply({"deployments": [_deployment(d) for d in services.registry.deployments()]})


def deployment(services: Services, name: str) -> HttpResponse:
    """One deployment, and which revision of it answers in this process."""
    return reply({**_deployment(services.registry.deployment(name)), **services.scoring.models.state(name)})


def deploy(services: Services, body: bytes, caller: ApiKey) -> HttpResponse:
    """Deploys a version whose artifacts the store holds already."""
    request = parsed(body, DeployRequest)
    contract = (
        load_contract(request.contract + "\n")
        if isinstance(request.contract, str)
        else parse_contract(request.contract)
    )
    folder = services.settings.data_dir / "models"
    deployed = services.deploying.deploy(
        request.name,
        contract=contract,
        models=[_stored(folder, a.runtime, a.digest) for a in request.artifacts],
        version=request.version,
        serving=None if request.serving is None else _serving(request.serving),
        libraries=request.libraries,
        role=request.role,
        by=caller.actor,
    )
    return reply(_deployment(deployed), status=201)


def predictions(services: Services, where: PredictionFilter) -> HttpResponse:
    """A filtered list, newest events first."""
    return reply({"predictions": services.ledger.predictions(where)})


def prediction(services: Services, prediction_id: UUID) -> HttpResponse:
    """Everything about one prediction."""
    return reply(services.ledger.prediction(prediction_id))


def contract(services: Services, name: str, version: int | None) -> HttpResponse:
    """A contract and its digest."""
    found = services.registry.contract(name, version)
    return reply({"digest": found.digest, "contract": contract_to_json(found)})


def parsed(body: bytes, kind: type[_T]) -> _T:
    """The body as one of the request types. Raises InvalidInput; its text holds no values."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the request does not fit: {_where(error)}", next_step="see /docs for examples") from None
    except (msgspec.DecodeError, UnicodeError, ValueError):
        raise InvalidInput("the body is not valid JSON", next_step="see /docs for examples") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply", next_step="an instance is a flat object") from None


def reply(value: Any, status: int = 200) -> HttpResponse:
    """The value as JSON; NaN and infinity, which JSON has not, become null."""
    return HttpResponse(msgspec.json.encode(value, enc_hook=_plain), status, media_type="application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (date, Decimal, timedelta)):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _where(error: msgspec.ValidationError) -> str:
    """The type fault and its place. msgspec quotes the caller's text for unknown names and enum
    values alone, so those are reduced to what is wrong."""
    text = str(error)
    place = text.rpartition(" - at ")[2].strip("`") if " - at " in text else "$"
    if text.startswith("Invalid enum value"):
        return f"unknown value at {place}"
    if "unknown field" in text:
        return "unknown field"
    return text


def _decoded(services: Services, decoder: Decoder, request: ScoreRequest) -> Decoded:
    if isinstance(request.instance, msgspec.Raw):
        if request.keys is not None or request.event_times is not None:
            raise InvalidInput("`keys` and `event_times` go with `instances`", next_step="use `key` and `event_time`")
        return decoder.json(b"[" + bytes(request.instance) + b"]")
    if request.key is not None or request.event_time is not None:
        raise InvalidInput("`key` and `event_time` go with `instance`", next_step="use `keys` and `event_times`")
    assert isinstance(request.instances, msgspec.Raw)
    return decoder.json(_bounded_rows(services, bytes(request.instances)))


def _bounded_rows(services: Services, raw: bytes) -> bytes:
    """The rows themselves if they are objects and not too many, found out without keeping them.

    Objects are counted by their braces outside of texts, because decoding millions of empty
    objects to learn that they are too many is what a bound should prevent.
    """
    most = services.settings.limits.request_rows
    if raw.count(b"{") > most and _TEXT.sub(b"", raw).count(b"{") > most:
        raise BodyTooLarge(f"a request may have at most {most} instances", next_step="send smaller batches")
    try:
        _ROWS.decode(raw)
    except msgspec.ValidationError:
        raise InvalidInput("instances are a JSON array of objects", next_step='send [{"field": value, ...}]') from None
    except (msgspec.DecodeError, UnicodeError):
        raise InvalidInput("the body is not valid JSON") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply", next_step="an instance is a flat object") from None
    return raw


def _source(services: Services, request: ScoreRequest, n: int) -> Source:
    """Idempotency keys as given; where there are none, the rows cannot be repeated."""
    keys: Sequence[str] | None = request.keys if request.key is None else [request.key]
    if keys is None:
        return Source(Channel.REST, REQUEST_SOURCE, [str(uuid4()) for _ in range(n)])
    if len(keys) != n:
        raise InvalidInput(f"{n} instances came with {len(keys)} keys", next_step="give one key a row")
    most = services.settings.limits.key_chars
    if any(len(k) > most or not k.isprintable() for k in keys):
        raise InvalidInput(f"a key is printable text of at most {most} characters")
    return Source(Channel.REST, REQUEST_SOURCE, keys)


def _event_time(
    request: ScoreRequest, contract: Contract, n: int, received_at: datetime
) -> NDArray[np.datetime64] | None:
    """datetime64[us] (n,) in UTC, or None where a field or the key's first arrival says it."""
    given = request.event_times if request.event_time is None else [request.event_time]
    if given is None:
        unrepeatable = request.key is None and request.keys is None and not contract.event_time
        return np.full(n, _utc(received_at), "datetime64[us]") if unrepeatable else None
    if contract.event_time:
        raise InvalidInput(
            f"the contract takes the event time from the field {contract.event_time}",
            next_step="leave event_time out of the request",
        )
    if len(given) != n:
        raise InvalidInput(f"{n} instances came with {len(given)} event times", next_step="give one a row")
    return np.array([_utc(moment) for moment in given], "datetime64[us]")


def _utc(moment: datetime) -> np.datetime64:
    try:
        return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")
    except OverflowError:
        raise InvalidInput("an event time lies outside of the calendar") from None


def _answers(response: Response, contract: Contract, *, want_reasons: bool) -> list[dict[str, Any]]:
    """One document an answered row, in the order of the rows."""
    receipt, answers = response.receipt, response.receipt.answers
    documents = []
    for i, (row, booked) in enumerate(zip(response.rows.tolist(), receipt.booked.tolist(), strict=True)):
        if booked >= Booked.CONFLICT:
            continue
        document = {
            "row": row,
            "prediction_id": str(UUID(bytes=receipt.ids[i].tobytes())),
            "status": str(answers.status[i]),
            "score": _number(answers.score[i]),
            "decision": None if answers.decision is None else answers.decision[i],
            "expected_cost": None if answers.expected_cost is None else _number(answers.expected_cost[i]),
            "repeated": booked == Booked.REPEATED,
            **_richer(answers, i),
        }
        if want_reasons and booked == Booked.NEW and answers.reasons is not None:
            document["reasons"] = _reasons(answers.reasons, i, contract)
        documents.append(document)
    return documents


def _richer(answers: Answers, i: int) -> dict[str, Any]:
    """Class and outputs, for the kinds of models that have them."""
    found: dict[str, Any] = {}
    if answers.classes is not None and answers.classes[i] is not None:
        found["class"] = answers.classes[i]
    if answers.outputs is not None:
        found["outputs"] = [_number(v) for v in answers.outputs[i]]
    return found


def _reasons(reasons: Reasons, i: int, contract: Contract) -> list[dict[str, Any]]:
    if not reasons.present[i]:
        return []
    pairs = zip(reasons.fields[i].tolist(), reasons.values[i].tolist(), strict=True)
    return [{"field": contract.features[place].name, "contribution": value} for place, value in pairs if place >= 0]


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _single(response: Response, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The one answer, or the one refusal as an error."""
    if response.refused:
        refused = response.refused[0]
        if refused.reason is RefusalReason.CONFLICT:
            raise Conflict("this key was used with other content", next_step="use a new key for a new instance")
        if refused.reason is RefusalReason.CONTRACT:
            raise InstanceErrors(refused.errors)
        raise ScoringError(
            "the model could not answer", next_step="try again; the deployment's owner is told by its log"
        )
    return {name: value for name, value in answers[0].items() if name != "row"}


def _refused(refused: RowRefusal, source: Source) -> dict[str, Any]:
    return {
        "row": refused.row,
        "key": source.keys[refused.row],
        "reason": str(refused.reason),
        "detail": refused.detail,
        "fields": field_documents(refused.errors),
    }


def _deployment(found: Deployment) -> dict[str, Any]:
    return {
        "name": found.name,
        "revision": found.revision,
        "champion": _version(found.champion),
        "challengers": [_version(v) for v in found.challengers],
        "shadows": [_version(v) for v in found.shadows],
        "serving": asdict(found.serving),
        "deployed_at": found.deployed_at,
        "deployed_by": found.deployed_by,
    }


def _version(found: ModelVersion) -> dict[str, Any]:
    """A version without the places of its files."""
    c = found.contract
    return {
        "name": found.name,
        "version": found.version,
        "contract": {"name": c.name, "version": c.version, "digest": c.digest},
        "artifacts": [{"runtime": str(a.runtime), "digest": a.digest} for a in found.artifacts],
        "parity": [asdict(p) for p in found.parity],
        "libraries": dict(found.libraries),
    }


def _stored(folder: Path, runtime: Runtime, digest: str) -> Path:
    """The model in the server's store. No path of the caller's choosing is ever opened."""
    if runtime is Runtime.PYTHON:
        raise InvalidQuery("a Python function is deployed from the command line only", next_step="use `trueup deploy`")
    found = sorted(folder.glob(f"{digest}*"))
    if not found:
        raise NotFound("the store holds no model of that digest", next_step="put it there with `trueup deploy`")
    return found[0]


def _serving(given: dict[str, Any]) -> Serving:
    try:
        serving = msgspec.convert(given, Serving, strict=True)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"serving does not fit: {_where(error)}", next_step="see the reference of Serving") from None
    if serving.allowed_pickles:
        raise InvalidQuery(
            "pickles are allowed from the command line only", next_step="use `trueup deploy --allow-pickle`"
        )
    return serving
