"""A booking comes back from its bytes as it was."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trueup
from trueup.domain.batch import (
    Answers,
    Booking,
    Channel,
    Columns,
    Reasons,
    Refusal,
    RefusalReason,
    Refusals,
    Role,
    Scored,
    Source,
    Status,
)
from trueup.ledger.spool_records import (
    Claims,
    booking_bytes,
    booking_of,
    claims_bytes,
    claims_of,
    contract_bytes,
    contract_of,
    dead_bytes,
    dead_of,
    refusals_bytes,
    refusals_of,
)

CONTRACT = trueup.load_contract("""
name: everything
version: 3
fields:
  key: {type: string, role: key}
  amount: {type: "decimal(38,4)", nullable: true}
  number: {type: float64, allow_nan: true, nullable: true}
  count: {type: int64, nullable: true}
  day: date
output: {kind: probability}
label: {name: l, type: bool, join_key: [key], horizon: {days: 2}}
""")
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def same(one: Any, other: Any) -> bool:
    """Equal in every value, type of array and bit, whatever is nested."""
    if isinstance(one, np.ndarray):
        if one.dtype == object:
            return bool(one.shape == other.shape and one.tolist() == other.tolist())
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    if is_dataclass(one) and type(one).__name__ != "Contract":
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@st.composite
def bookings(draw: st.DrawFn) -> Booking:
    n = draw(st.integers(1, 4))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    def objects(width: int) -> Any:
        made = np.empty((n, width), object)
        for place in range(width):
            made[:, place] = column(TEXTS)
        return made

    optional = draw(st.booleans())
    moments = np.array(column(st.integers(0, 2**50)), "datetime64[us]")
    answers = Answers(
        np.array(column(st.sampled_from(list(Status))), object),
        np.array(column(FLOATS)),
        np.array([column(FLOATS), column(FLOATS)]).T.copy() if optional else None,
        np.array(column(TEXTS), object) if optional else None,
        np.array(column(TEXTS), object),
        np.array(column(FLOATS)) if optional else None,
        Reasons(np.ones((n, 2), np.int16), np.ones((n, 2), np.float32), np.array(column(st.booleans())))
        if optional
        else None,
    )
    return Booking(
        deployment_id=draw(st.integers(1, 2**31 - 1)),
        contract_id=7,
        source=Source(Channel.REST, "request", column(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))),
        columns=Columns(
            CONTRACT,
            np.array(column(FLOATS))[:, None],
            np.array([column(st.integers(-(2**63), 2**63 - 1)) for _ in range(2)]).T.copy(),
            objects(2),
            np.array(column(st.booleans()))[:, None] if optional else None,
            None,
        ),
        digests=column(st.binary(min_size=16, max_size=16)),
        business_keys=column(st.text(st.characters(exclude_categories=["Cs"]))),
        event_time=moments,
        due_day=np.full(n, "NaT", "datetime64[D]") if optional else moments.astype("datetime64[D]"),
        received_at=moments,
        scored=[Scored(Role.CHAMPION, 3, answers), Scored(Role.SHADOW, 4, answers)],
        steps_us=np.arange(4 * n, dtype=np.int32).reshape(n, 4),
        claims=draw(st.booleans()),
    )


@given(bookings())
def test_a_booking_comes_back_in_every_bit(booking: Booking):
    assert same(booking_of(booking_bytes(booking), {7: CONTRACT}), booking)


@given(bookings())
def test_a_booking_without_its_contract_is_an_error_not_a_guess(booking: Booking):
    with pytest.raises(KeyError):
        booking_of(booking_bytes(booking), {8: CONTRACT})


def test_a_contract_comes_back_with_its_digest():
    contract_id, contract = contract_of(contract_bytes(7, CONTRACT))
    assert (contract_id, contract.digest) == (7, CONTRACT.digest)


def test_refusals_claims_and_dead_letters_come_back():
    now = datetime(2026, 11, 20, 1, 2, 3, 4, tzinfo=UTC)
    refusals = Refusals(
        3,
        Source(Channel.GRPC, "unkeyed", ["k"]),
        now,
        now,
        [Refusal("k", RefusalReason.CONTRACT, "amount: type"), Refusal("k", RefusalReason.CONFLICT, "x", b"\1" * 16)],
    )
    read = refusals_of(refusals_bytes(refusals))
    assert (read.deployment_id, read.event_time, read.rows) == (3, now, refusals.rows)
    claims = Claims(3, Source(Channel.BATCH, "batch:x", ["a"]), np.array(["2026-11-20"], "datetime64[us]"))
    assert same(claims_of(claims_bytes(claims)), claims)
    assert dead_of(dead_bytes("why", 2, b"\xff")) == ("why", 2, b"\xff")
