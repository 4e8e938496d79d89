"""Bookings, refusals and claims as bytes and back: MessagePack around the arrays' own buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trueup.contracts.reading import contract_from_json, contract_to_json
from trueup.domain.batch import (
    Answers,
    Booking,
    Channel,
    Columns,
    Reasons,
    Refusal,
    Refusals,
    Role,
    Scored,
    Source,
    Status,
)
from trueup.domain.contract import Contract

_MOMENTS = np.dtype("<M8[us]")
_DAYS = np.dtype("<M8[D]")


class _Array(msgspec.Struct, array_like=True):
    """A numeric array: dtype, shape, buffer."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Answers(msgspec.Struct, array_like=True):
    status: list[str]
    score: _Array
    outputs: _Array | None
    classes: list[str | None] | None
    decision: list[str | None] | None
    expected_cost: _Array | None
    reasons: tuple[_Array, _Array, _Array] | None


class _Booking(msgspec.Struct, array_like=True):
    deployment_id: int
    contract_id: int
    channel: str
    source: str
    keys: list[str]
    floats: _Array
    ints: _Array
    texts: list[list[str | None]]
    float_nulls: _Array | None
    int_nulls: _Array | None
    digests: list[bytes]
    business_keys: list[str]
    event_time: _Array
    due_day: _Array
    received_at: _Array
    scored: list[tuple[str, int, _Answers]]
    steps_us: _Array
    claims: bool


class _Refusals(msgspec.Struct, array_like=True):
    deployment_id: int
    channel: str
    source: str
    keys: list[str]
    event_time: datetime
    received_at: datetime
    rows: list[tuple[str, str, str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Claims:
    """Moments datetime64[us] (n,) proposed for keys that had none, as ``Ledger.claim_event_times`` takes them."""

    deployment_id: int
    source: Source
    moments: NDArray[np.datetime64]


class _Claims(msgspec.Struct, array_like=True):
    deployment_id: int
    channel: str
    source: str
    keys: list[str]
    moments: _Array


_ENCODE = msgspec.msgpack.Encoder().encode
_BOOKINGS = msgspec.msgpack.Decoder(_Booking)
_REFUSALS = msgspec.msgpack.Decoder(_Refusals)
_CLAIMS = msgspec.msgpack.Decoder(_Claims)
_CONTRACTS = msgspec.msgpack.Decoder(tuple[int, dict[str, Any]])


def contract_bytes(contract_id: int, contract: Contract) -> bytes:
    """A contract under its id."""
    return _ENCODE((contract_id, contract_to_json(contract)))


def contract_of(payload: bytes) -> tuple[int, Contract]:
    """Id and contract."""
    contract_id, document = _CONTRACTS.decode(payload)
    return contract_id, contract_from_json(document)


def booking_bytes(booking: Booking) -> bytes:
    """A booking. Groups are left out: they say what is answered together, and that is decided by now."""
    columns, source = booking.columns, booking.source
    return _ENCODE(
        _Booking(
            booking.deployment_id,
            booking.contract_id,
            str(source.channel),
            source.name,
            list(source.keys),
            _array(columns.floats),
            _array(columns.ints),
            columns.texts.tolist(),
            _optional(columns.float_nulls),
            _optional(columns.int_nulls),
            list(booking.digests),
            list(booking.business_keys),
            _array(booking.event_time.astype(_MOMENTS)),
            _array(booking.due_day.astype(_DAYS)),
            _array(booking.received_at.astype(_MOMENTS)),
            [(str(s.role), s.model_version_id, _answers_out(s.answers)) for s in booking.scored],
            _array(booking.steps_us),
            booking.claims,
        )
    )


def booking_of(payload: bytes, contracts: Mapping[int, Contract]) -> Booking:
    """The booking; its contract is one of ``contracts``, by id. Raises KeyError, ValueError."""
    read = _BOOKINGS.decode(payload)
    texts = np.empty((len(read.keys), len(read.texts[0]) if read.texts else 0), object)
    if texts.size:
        texts[:] = read.texts
    columns = Columns(
        contracts[read.contract_id],
        _values(read.floats),
        _values(read.ints),
        texts,
        _maybe(read.float_nulls),
        _maybe(read.int_nulls),
    )
    return Booking(
        deployment_id=read.deployment_id,
        contract_id=read.contract_id,
        source=Source(Channel(read.channel), read.source, read.keys),
        columns=columns,
        digests=read.digests,
        business_keys=read.business_keys,
        event_time=_values(read.event_time),
        due_day=_values(read.due_day),
        received_at=_values(read.received_at),
        scored=[Scored(Role(role), version, _answers_in(answers)) for role, version, answers in read.scored],
        steps_us=_values(read.steps_us),
        claims=read.claims,
    )


def refusals_bytes(refusals: Refusals) -> bytes:
    """Refusals of one batch."""
    source = refusals.source
    rows = [(r.key, str(r.reason), r.detail, r.content_digest) for r in refusals.rows]
    keys = [r.key for r in refusals.rows]
    made = _Refusals(
        refusals.deployment_id, str(source.channel), source.name, keys, refusals.event_time, refusals.received_at, rows
    )
    return _ENCODE(made)


def refusals_of(payload: bytes) -> Refusals:
    """The refusals."""
    from trueup.domain.batch import RefusalReason

    read = _REFUSALS.decode(payload)
    rows = [Refusal(key, RefusalReason(reason), detail, digest) for key, reason, detail, digest in read.rows]
    source = Source(Channel(read.channel), read.source, read.keys)
    return Refusals(read.deployment_id, source, read.event_time, read.received_at, rows)


def claims_bytes(claims: Claims) -> bytes:
    """Claims of one source."""
    source = claims.source
    moments = _array(claims.moments.astype(_MOMENTS))
    return _ENCODE(_Claims(claims.deployment_id, str(source.channel), source.name, list(source.keys), moments))


def claims_of(payload: bytes) -> Claims:
    """The claims."""
    read = _CLAIMS.decode(payload)
    return Claims(read.deployment_id, Source(Channel(read.channel), read.source, read.keys), _values(read.moments))


def dead_bytes(reason: str, kind: int, payload: bytes) -> bytes:
    """Something set aside, and why."""
    return _ENCODE((reason, kind, payload))


def dead_of(payload: bytes) -> tuple[str, int, bytes]:
    """Reason, kind and bytes of what was set aside."""
    return msgspec.msgpack.decode(payload, type=tuple[str, int, bytes])


def _array(values: NDArray[Any]) -> _Array:
    return _Array(values.dtype.str, values.shape, values.tobytes())


def _values(read: _Array) -> NDArray[Any]:
    return np.frombuffer(read.data, np.dtype(read.dtype)).reshape(read.shape)


def _optional(values: NDArray[Any] | None) -> _Array | None:
    return None if values is None else _array(values)


def _maybe(read: _Array | None) -> NDArray[Any] | None:
    return None if read is None else _values(read)


def _answers_out(answers: Answers) -> _Answers:
    reasons = answers.reasons
    return _Answers(
        [str(s) for s in answers.status.tolist()],
        _array(answers.score),
        _optional(answers.outputs),
        None if answers.classes is None else answers.classes.tolist(),
        None if answers.decision is None else answers.decision.tolist(),
        _optional(answers.expected_cost),
        None if reasons is None else (_array(reasons.fields), _array(reasons.values), _array(reasons.present)),
    )


def _answers_in(read: _Answers) -> Answers:
    return Answers(
        np.array([Status(s) for s in read.status], object),
        _values(read.score),
        _maybe(read.outputs),
        _objects(read.classes),
        _objects(read.decision),
        _maybe(read.expected_cost),
        None if read.reasons is None else Reasons(*(_values(part) for part in read.reasons)),
    )


def _objects(values: list[str | None] | None) -> NDArray[np.object_] | None:
    return None if values is None else np.array(values, object)
