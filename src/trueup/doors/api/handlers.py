"""Translate a request, call the core, translate back. Blocking: the server runs these in threads."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import numpy as np
from starlette.responses import Response as HttpResponse

from trueup.bootstrap import Services
from trueup.contracts.reading import contract_to_json, load_contract, parse_contract
from trueup.domain.deployment import Deployment, ModelVersion, Runtime, Serving
from trueup.doors.api.reach import check_brought, readable, reads_contract
from trueup.doors.api.schemas import DeployRequest
from trueup.doors.auth import Caller, Permission
from trueup.doors.declared import UnknownKey, serving_of
from trueup.errors import (
    InvalidInput,
    InvalidQuery,
    NotFound,
    no_contract,
    no_prediction,
)
from trueup.monitoring.references import check_fits
from trueup.ports import PredictionFilter

_T = TypeVar("_T")


def deployments(services: Services, caller: Caller) -> HttpResponse:
    """Newest revision of each deployment that the caller may read."""
    return reply({"deployments": [_deployment(d) for d in readable(services, caller)]})


def deployment(services: Services, name: str) -> HttpResponse:
    """One deployment, and which revision of it answers in this process."""
    return reply({**_deployment(services.registry.deployment(name)), **services.scoring.models.state(name)})


def deploy(services: Services, body: bytes, caller: Caller) -> HttpResponse:
    """Deploys a version whose artifacts the store holds already."""
    request = parsed(body, DeployRequest)
    caller.require(Permission.DEPLOY, request.name)
    contract = (
        load_contract(request.contract + "\n")
        if isinstance(request.contract, str)
        else parse_contract(request.contract)
    )
    check_brought(services, contract, caller)
    serving = None if request.serving is None else _serving(request.serving)
    if serving is not None and serving.monitoring is not None:
        check_fits(serving.monitoring, contract)
    folder = services.settings.data_dir / "models"
    deployed = services.deploying.deploy(
        request.name,
        contract=contract,
        models=[_stored(folder, a.runtime, a.digest) for a in request.artifacts],
        version=request.version,
        serving=serving,
        libraries=request.libraries,
        role=request.role,
        by=caller.actor,
    )
    return reply(_deployment(deployed), status=201)


def predictions(services: Services, where: PredictionFilter, caller: Caller) -> HttpResponse:
    """A filtered list, newest events first, of what the caller may read."""
    if where.deployment is not None:
        caller.require(Permission.READ, where.deployment)
    reach = caller.reach(Permission.READ)
    limited = replace(where, deployments=None if reach is None else tuple(sorted(reach)))
    return reply({"predictions": services.ledger.predictions(limited)})


def prediction(services: Services, prediction_id: UUID, caller: Caller) -> HttpResponse:
    """Everything about one prediction; one of a deployment that the caller may not read is like none."""
    found = services.ledger.prediction(prediction_id)
    if not caller.may(Permission.READ, found["deployment"]):
        raise no_prediction()
    return reply(found)


def contract(services: Services, name: str, version: int | None, caller: Caller) -> HttpResponse:
    """A contract and its digest; one of no deployment that the caller may read is like none."""
    if not reads_contract(services, name, caller):
        raise no_contract()
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
        serving = serving_of(given)
    except UnknownKey as error:  # the key itself is the caller's text
        raise InvalidInput(
            f"serving has an unknown key at {error.place}; {error.hint}", next_step="see the reference of Serving"
        ) from None
    except msgspec.ValidationError as error:
        raise InvalidInput(f"serving does not fit: {_where(error)}", next_step="see the reference of Serving") from None
    if serving.allowed_pickles:
        raise InvalidQuery(
            "pickles are allowed from the command line only", next_step="use `trueup deploy --allow-pickle`"
        )
    return serving
