"""Translating what really happened, and what was done about it. Blocking: the server runs these in threads."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response as HttpResponse

from trueup.bootstrap import Services
from trueup.contracts.decoding import Decoder
from trueup.domain.action import Action, ActionsOf
from trueup.domain.batch import Decoded
from trueup.doors.api.edge import more_than
from trueup.doors.api.errors import BodyTooLarge
from trueup.doors.api.handlers import parsed, reply
from trueup.doors.api.reach import check_outcomes
from trueup.doors.api.schemas import ActionGiven, ActionsRequest, OutcomesRequest
from trueup.doors.auth import Caller, Permission
from trueup.errors import InstanceErrors, InvalidInput
from trueup.outcomes.decoding import fitting, outcome_batches, outcome_contract, stated


class _AnyObject(msgspec.Struct, gc=False):
    """Any JSON object, read without keeping anything of it."""


_ROWS = msgspec.json.Decoder(list[_AnyObject])


def record_outcomes(services: Services, body: bytes, caller: Caller) -> HttpResponse:
    """Records outcomes: all or none, or those that fit, and says of each other what is wrong with it."""
    request = parsed(body, OutcomesRequest)
    check_outcomes(services, request.contract, caller)
    contract = services.registry.contract(request.contract)
    decoder = Decoder(outcome_contract(contract, request.label), services.settings.limits)
    decoded = _decoded(services, decoder, bytes(request.outcomes))
    decoded = fitting(stated(decoded, request.state), contract, request.label)
    if decoded.errors_total and request.all_or_none:
        raise InstanceErrors(decoded.errors, decoded.errors_total)
    now = datetime.now(UTC)
    batches = outcome_batches(contract, decoded.columns, source=request.source, now=now, label=request.label)
    receipt = asdict(services.outcomes.record_all(batches))
    return reply(receipt if request.all_or_none else {**receipt, "refused": _refused(decoded)})


def record_actions(services: Services, body: bytes, caller: Caller) -> HttpResponse:
    """Records what was done about items of a deployment, all or none."""
    request = parsed(body, ActionsRequest)
    caller.require(Permission.RECORD_OUTCOMES, request.deployment)
    most = services.settings.limits.request_rows
    if len(request.actions) > most:
        raise BodyTooLarge(f"a request may have at most {most} actions", next_step="send smaller batches")
    found = services.registry.deployment(request.deployment)
    assert found.deployment_id is not None
    contract = found.champion.contract.name
    check_outcomes(services, contract, caller)  # whoever keeps the contract reports the item as treated
    actions = [_action(one, caller) for one in request.actions]
    given = ActionsOf(found.name, found.deployment_id, contract, caller.actor, actions)
    return reply(asdict(services.actions.record(given)))


def _action(given: ActionGiven, caller: Caller) -> Action:
    """Who did it is the caller, unless the request names somebody."""
    named = {name: getattr(given, name) for name in given.__struct_fields__}
    try:
        return Action(**{**named, "actor": given.actor or caller.actor})
    except ValueError as error:  # of the domain, in its words
        raise InvalidInput(str(error), next_step="see /docs for examples") from None


def _decoded(services: Services, decoder: Decoder, raw: bytes) -> Decoded:
    """Rows, or columns as one object of arrays."""
    if raw.lstrip()[:1] == b"{":
        decoded = decoder.json_columns(raw)
        if decoded.received > services.settings.limits.request_rows:
            raise _too_many(services)
        return decoded
    _check_rows(services, raw)
    return decoder.json(raw)


def _refused(decoded: Decoded) -> list[dict[str, Any]]:
    """Every bad row; of those beyond the bound on field errors, without its faults."""
    faults: dict[int, list[dict[str, Any]]] = {}
    for error in decoded.errors:
        faults.setdefault(error.row, []).append(asdict(error))
    good = set(decoded.rows.tolist())
    return [{"row": row, "fields": faults.get(row, [])} for row in range(decoded.received) if row not in good]


def _too_many(services: Services) -> BodyTooLarge:
    most = services.settings.limits.request_rows
    return BodyTooLarge(f"a request may have at most {most} instances", next_step="send smaller batches")


def _check_rows(services: Services, raw: bytes) -> None:
    """Raises BodyTooLarge or InvalidInput unless they are objects and not too many, without keeping them.

    Objects are counted by their braces outside of texts, because decoding millions of empty
    objects to learn that they are too many is what a bound should prevent.
    """
    if more_than(raw, b"{", services.settings.limits.request_rows):
        raise _too_many(services)
    try:
        _ROWS.decode(raw)
    except msgspec.ValidationError:
        raise InvalidInput("instances are a JSON array of objects", next_step='send [{"field": value, ...}]') from None
    except (msgspec.DecodeError, UnicodeError):
        raise InvalidInput("the body is not valid JSON") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply", next_step="an instance is a flat object") from None
