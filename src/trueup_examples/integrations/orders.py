"""An order in, a decision out: what both views share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from trueup import errors
from trueup.client import Client

DEPLOYMENT = "fails"
FIELDS = ("settlement_date", "cusip", "last_value_usd")  # of the contract; an order may hold more
TIMEOUT_S = 2.0  # a person waits for the page


@dataclass(frozen=True)
class Answer:
    """What the view answers."""

    status: HTTPStatus
    document: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def decide(client: Client, order: Any) -> Answer:
    """Scores an order under its own id, so that sending the same order again is never a second prediction.

    An error that is nobody's here, such as a key that was revoked, is raised: it belongs into the log.
    """
    if not isinstance(order, Mapping) or not isinstance(order.get("order_id"), str) or not order["order_id"]:
        return Answer(HTTPStatus.BAD_REQUEST, {"error": "an order is an object with an order_id"})
    instance = {name: order[name] for name in FIELDS if name in order}
    try:
        answer = client.score(DEPLOYMENT, instance, key=order["order_id"])
    except errors.InstanceErrors as wrong:
        faults = [{"field": e.field, "code": e.code, "expected": e.expected} for e in wrong.errors]
        return Answer(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": "the order cannot be scored", "fields": faults})
    except errors.InvalidInput as wrong:
        return Answer(HTTPStatus.BAD_REQUEST, {"error": wrong.message})
    except errors.Conflict:
        return Answer(HTTPStatus.CONFLICT, {"error": "an order of this id was decided with other content"})
    except errors.Unavailable:
        again = {"Retry-After": "1"}
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "no decision now; send the order again"}, again)
    return Answer(HTTPStatus.OK, {"decision": answer.decision, "prediction_id": answer.prediction_id})
