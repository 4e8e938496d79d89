"""Plain records in and out: one instance as an object, or many, each answered or refused on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trueup.contracts.decoding import Decoder
from trueup.contracts.values import microseconds
from trueup.domain.batch import REQUEST_SOURCE, Booked, Channel, Decoded, Reasons, RefusalReason, Source
from trueup.domain.contract import Contract
from trueup.doors.api.edge import more_than
from trueup.doors.api.errors import BodyTooLarge, field_documents
from trueup.doors.api.handlers import parsed
from trueup.doors.api.schemas import ScoreRequest
from trueup.doors.inference.asking import Arrival, Asked, Inference, unkeyed
from trueup.doors.inference.asks import Part, prediction_ids
from trueup.doors.inference.wire import Reply
from trueup.errors import Conflict, InstanceErrors, InvalidInput, ScoringError
from trueup.scoring.service import Resolved, Response, RowRefusal

_BRACE = ord("{")
_CONFLICT = int(Booked.CONFLICT)  # and what is above it has no answer
_RAW_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
encode = msgspec.json.Encoder().encode


class _Answer(msgspec.Struct, gc=False):
    """One answer as it is written: ``Answer`` of the OpenAPI document."""

    prediction_id: str
    status: str
    score: float | None
    decision: str | None
    expected_cost: float | None
    repeated: bool
    class_: str | msgspec.UnsetType = msgspec.field(name="class", default=msgspec.UNSET)
    outputs: list[Any] | msgspec.UnsetType = msgspec.UNSET
    reasons: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


@dataclass(slots=True)
class RecordsCall:
    """What a request says beside its body: ``key`` of the header Idempotency-Key, for a single instance.

    ``spend`` is told the number of instances, and raises RateLimited.
    """

    key: str | None
    spend: Callable[[int], None]


def asked(inference: Inference, call: RecordsCall, body: bytes, resolved: Resolved, arrival: Arrival) -> Asked:
    """One instance or many. Raises InvalidInput, BodyTooLarge, RateLimited.

    The reply raises InstanceErrors, Conflict or ScoringError where a single instance got no answer.
    """
    limits = inference.limits
    request = parsed(body, ScoreRequest)
    rows, single = _rows_of(request, limits.request_rows)
    call.spend(len(rows))
    source = _source(request, call.key, len(rows), limits.key_chars)
    asks = inference.asks(
        resolved,
        source,
        decode=_decoded,
        payload=rows,
        event_us=_event_us(request, resolved.contract, source, arrival.us),
        want_reasons=request.reasons,
        arrival=arrival,
    )
    if single:
        return Asked(asks, lambda parts: _single(resolved, parts[0], want_reasons=request.reasons))
    return Asked(asks, lambda parts: _many(resolved, parts, source, want_reasons=request.reasons))


def _rows_of(request: ScoreRequest, most: int) -> tuple[list[msgspec.Raw], bool]:
    """The instances, unread, and whether the one was sent alone. Raises InvalidInput, BodyTooLarge."""
    if (request.instance is msgspec.UNSET) == (request.instances is msgspec.UNSET):
        raise InvalidInput("a request holds either `instance` or `instances`", next_step="see /docs for examples")
    if isinstance(request.instance, msgspec.Raw):
        if request.keys is not None or request.event_times is not None:
            raise InvalidInput("`keys` and `event_times` go with `instances`", next_step="use `key` and `event_time`")
        return [request.instance], True
    if request.key is not None or request.event_time is not None:
        raise InvalidInput("`key` and `event_time` go with `instance`", next_step="use `keys` and `event_times`")
    assert isinstance(request.instances, msgspec.Raw)
    return _bounded_rows(bytes(request.instances), most), False


def _bounded_rows(raw: bytes, most: int) -> list[msgspec.Raw]:
    """The rows if they are objects and not too many.

    Objects are counted by their braces outside of texts, because making millions of empty
    objects to learn that they are too many is what a bound should prevent.
    """
    if more_than(raw, b"{", most):
        raise BodyTooLarge(f"a request may have at most {most} instances", next_step="send smaller batches")
    if raw.count(b",") >= most and not raw.count(b"{"):
        raise _no_rows()
    try:
        rows: list[msgspec.Raw] = _RAW_ROWS.decode(raw)
    except msgspec.ValidationError:
        raise _no_rows() from None
    if any(memoryview(row)[0] != _BRACE for row in rows):
        raise _no_rows()
    return rows


def _no_rows() -> InvalidInput:
    return InvalidInput("instances are a JSON array of objects", next_step='send [{"field": value, ...}]')


def _decoded(decoder: Decoder, requests: Sequence[Sequence[msgspec.Raw]]) -> Decoded:
    return decoder.json(b"[" + b",".join([bytes(row) for rows in requests for row in rows]) + b"]")


def _source(request: ScoreRequest, header: str | None, n: int, most: int) -> Source:
    """Idempotency keys as given; where there are none, the rows cannot be repeated."""
    keys: Sequence[str] | None = request.keys if request.key is None else [request.key]
    if keys is None and header is not None:
        if request.instance is msgspec.UNSET:
            raise InvalidInput("Idempotency-Key goes with `instance`", next_step="use `keys`, one for each instance")
        keys = [header]
    if keys is None:
        return unkeyed(Channel.REST, n)
    if len(keys) != n:
        raise InvalidInput(f"{n} instances came with {len(keys)} keys", next_step="give one key a row")
    if any(not 1 <= len(k) <= most or not k.isprintable() for k in keys):
        raise InvalidInput(f"a key is printable text of at most {most} characters")
    return Source(Channel.REST, REQUEST_SOURCE, keys)


def _event_us(
    request: ScoreRequest, contract: Contract, source: Source, received_us: int
) -> int | NDArray[np.int64] | None:
    """When the instances happened, of all or (n,); None where a field or the key's first arrival says it."""
    given = request.event_times if request.event_time is None else [request.event_time]
    if given is None:
        return None if contract.event_time or source.name == REQUEST_SOURCE else received_us
    if contract.event_time:
        raise InvalidInput(
            f"the contract takes the event time from the field {contract.event_time}",
            next_step="leave event_time out of the request",
        )
    if len(given) != len(source.keys):
        raise InvalidInput(
            f"{len(source.keys)} instances came with {len(given)} event times", next_step="give one a row"
        )
    return np.array([_instant(moment) for moment in given], np.int64)


def _instant(moment: datetime) -> int:
    try:
        return microseconds(moment.astimezone(UTC))
    except OverflowError:
        raise InvalidInput("an event time lies outside of the calendar") from None


def _single(resolved: Resolved, part: Part, *, want_reasons: bool) -> Reply:
    """The one answer, or the one refusal as an error."""
    for refused in part.refused:
        if refused.reason is RefusalReason.CONFLICT:
            raise Conflict("this key was used with other content", next_step="use a new key for a new instance")
        if refused.reason is RefusalReason.CONTRACT:
            raise InstanceErrors(tuple(replace(e, row=0) for e in refused.errors))
        raise ScoringError(
            "the model could not answer", next_step="try again; the deployment's owner is told by its log"
        )
    return Reply(200, documents(resolved, part, want_reasons=want_reasons)[part.answered.start])


def _many(resolved: Resolved, parts: Sequence[Part], source: Source, *, want_reasons: bool) -> Reply:
    """Answers in the order of the rows; refused ones apart."""
    answers: list[bytes] = []
    refused: list[dict[str, Any]] = []
    received = 0
    for part in parts:
        response, written = part.booked.response, documents(resolved, part, want_reasons=want_reasons)
        shift, answered = received - part.rows.start, part.answered
        places = zip(
            response.rows[answered].tolist(), response.receipt.booked[answered].tolist(), written[answered], strict=True
        )
        answers += [b'{"row":%d,%b' % (row + shift, text[1:]) for row, booked, text in places if booked < _CONFLICT]
        refused += [_refused(r, shift, source) for r in sorted(part.refused, key=lambda r: r.row)]
        received += part.rows.stop - part.rows.start
    head = {"deployment": resolved.deployment.name, "received": received, "answered": len(answers), "refused": refused}
    return Reply(200, encode(head)[:-1] + b',"results":[' + b",".join(answers) + b"]}")


def _refused(refused: RowRefusal, shift: int, source: Source) -> dict[str, Any]:
    row = refused.row + shift
    return {
        "row": row,
        "key": source.keys[row],
        "reason": str(refused.reason),
        "detail": refused.detail,
        "fields": field_documents([replace(e, row=row) for e in refused.errors]),
    }


def documents(resolved: Resolved, part: Part, *, want_reasons: bool = False) -> list[bytes]:
    """An answer for each booked row of the whole batch, written by the first who asks."""
    name = "records with reasons" if want_reasons else "records"
    return part.booked.once(name, lambda response: _written(response, resolved.contract, want_reasons=want_reasons))


def _written(response: Response, contract: Contract, *, want_reasons: bool) -> list[bytes]:
    receipt, answers = response.receipt, response.receipt.answers
    nothing = [None] * len(receipt.booked)
    costs = nothing if answers.expected_cost is None else numbers(answers.expected_cost)
    decisions = nothing if answers.decision is None else answers.decision.tolist()
    rows = zip(
        prediction_ids(response),
        answers.status.tolist(),
        numbers(answers.score),
        decisions,
        costs,
        (receipt.booked == Booked.REPEATED).tolist(),
        strict=True,
    )
    documents = [_Answer(*row) for row in rows]
    if answers.classes is not None:
        for document, label in zip(documents, answers.classes.tolist(), strict=True):
            if label is not None:
                document.class_ = label
    if answers.outputs is not None:
        for document, row in zip(documents, answers.outputs, strict=True):
            document.outputs = numbers(row)
    if want_reasons and answers.reasons is not None:
        for i in np.flatnonzero(receipt.booked == Booked.NEW).tolist():
            documents[i].reasons = _reasons(answers.reasons, i, contract)
    return [encode(document) for document in documents]


def numbers(values: NDArray[np.float64]) -> list[Any]:
    """The numbers (n,) or (n, k) as lists; None for what JSON has no number for."""
    if values.ndim > 1:
        return [numbers(row) for row in values]
    listed: list[Any] = values.tolist()
    return listed if np.isfinite(values).all() else [v if np.isfinite(v) else None for v in listed]


def _reasons(reasons: Reasons, i: int, contract: Contract) -> list[dict[str, Any]]:
    if not reasons.present[i]:
        return []
    pairs = zip(reasons.fields[i].tolist(), reasons.values[i].tolist(), strict=True)
    return [{"field": contract.features[place].name, "contribution": value} for place, value in pairs if place >= 0]
