"""MLflow's scoring protocol over REST: translate a request, have it scored, translate back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from trueup.bootstrap import Services
from trueup.domain.batch import Channel
from trueup.doors.auth import Caller, Permission
from trueup.doors.inference import records
from trueup.doors.inference.asking import AGED_S, Arrival, Inference, parameter, terms_of
from trueup.doors.inference.asks import Part
from trueup.doors.inference.mlflow import forms
from trueup.doors.inference.wire import Reply
from trueup.errors import InvalidInput
from trueup.scoring.service import Resolved

DEPLOYMENT = b"x-trueup-deployment"


@dataclass(slots=True)
class InvocationsCall:
    """What a request says beside its body. ``spend`` is told the number of instances, and raises RateLimited."""

    deployment: str
    content_type: str
    key: str | None  # of the header Idempotency-Key
    spend: Callable[[int], None]


class Invocations:
    """Requests of MLflow's protocol, which names no model."""

    def __init__(self, inference: Inference, services: Services) -> None:
        self._inference = inference
        self._services = services
        self._names: tuple[float, Sequence[str]] = (0.0, ())

    async def deployment(self, headers: Mapping[bytes, bytes], query: bytes, caller: Caller) -> str:
        """Whom the request is for: the header says it, or the query, or the settings, or the caller may ask only one.

        Raises InvalidInput.
        """
        named = headers.get(DEPLOYMENT)
        if named is not None:
            return named.decode("latin-1")
        asked = _asked(query)
        if asked is not None:
            return asked
        if self._services.settings.invocations_deployment is not None:
            return self._services.settings.invocations_deployment
        names = [name for name in await self._known() if caller.may(Permission.SCORE, name)]
        if len(names) != 1:
            raise InvalidInput(
                "the request does not say which deployment is to answer",
                next_step="send the header X-Trueup-Deployment, or set TRUEUP_INVOCATIONS_DEPLOYMENT",
            )
        return names[0]

    async def score(self, call: InvocationsCall, body: bytes) -> Reply:
        """Every instance's prediction, or an error for all of them."""
        arrival = Arrival.now()
        resolved = await self._inference.resolved(call.deployment)
        rows, params = forms.rows_of(body, call.content_type, resolved.contract, self._inference.limits)
        call.spend(len(rows))
        details = bool(parameter(params, "details", bool))
        ask = self._inference.ask(
            resolved,
            terms_of(Channel.REST, params, key=call.key),
            rows=len(rows),
            decode=forms.decoded,
            form="invocations",
            payload=rows,
            arrival=arrival,
        )
        parts = await self._inference.score(ask)
        return _answer(resolved, parts, details=details)

    async def _known(self) -> Sequence[str]:
        """All names, looked up at most once in ``AGED_S``."""
        if time.monotonic() - self._names[0] > AGED_S:
            found = await asyncio.get_running_loop().run_in_executor(None, self._services.registry.revisions)
            self._names = (time.monotonic(), tuple(found))
        return self._names[1]


def _asked(query: bytes) -> str | None:
    """The deployment in the query, once or not at all. Raises InvalidInput."""
    try:
        found = parse_qs(query.decode("latin-1"), max_num_fields=20).get("deployment", [])
    except ValueError:
        raise InvalidInput("the query has too many parameters") from None
    if len(found) > 1:
        raise InvalidInput("the query names two deployments")
    return found[0] if found else None


def _answer(resolved: Resolved, parts: Sequence[Part], *, details: bool) -> Reply:
    """``predictions``: numbers as the model gave them, or with ``details`` all that is known of each."""
    if details:
        documents = [document for part in parts for document in records.documents(resolved, part)[part.answered]]
        return Reply(200, b'{"predictions":[' + b",".join(documents) + b"]}")
    predictions: list[Any] = []
    for part in parts:
        answers = part.booked.response.receipt.answers
        values = answers.score if answers.outputs is None else answers.outputs
        predictions += records.numbers(values[part.answered])
    return Reply(200, records.encode({"predictions": predictions}))
