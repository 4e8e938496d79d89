"""Contracts as documents: strict to read, equal when written and read again, compared with reasons."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trueup
from trueup.contracts.horizon import due_days
from trueup.contracts.identity import business_keys, content_digests
from trueup.contracts.reading import contract_from_json, contract_to_json
from trueup.domain.contract import Field, FieldRole, FieldType, Horizon, HorizonKind, Label, Output, OutputKind
from trueup.errors import ContractError, InvalidFile
from trueup.settings import Limits

TEXT = """
name: settlement
version: 3
fields:
  trade_id: {type: string, role: key}
  amount: {type: float64, minimum: 0, unit: EUR}
  side: {type: category, categories: [buy, sell]}
  trade_date: {type: date, role: context}
output: {kind: probability}
label: {name: fails, type: bool, horizon: {business_days: 1, calendar: us-settlement}}
decision: {threshold: 0.5, at_or_above: chase, below: pass, abstain_between: [0.4, 0.5]}
expected_cost: probability x amount
event_time: trade_date
"""


def test_a_contract_is_equal_when_written_and_read_again():
    contract = trueup.load_contract(TEXT)
    assert trueup.load_contract(trueup.dump_contract(contract)) == contract
    assert contract_from_json(contract_to_json(contract)) == contract


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("unit: EUR", "unitt: EUR", "contract.fields.amount"),
        ("version: 3", "version: 0", "contract.version"),
        ("version: 3", "version: true", "contract.version"),
        ("type: float64", "type: float", "contract.fields.amount.type"),
        ("role: key", "role: key, nullable: true", "contract.fields.trade_id"),
        ("x amount", "x side", "contract.expected_cost"),
        ("x amount", "+ amount", "contract.expected_cost"),
        ("event_time: trade_date", "event_time: amount", "contract.event_time"),
        ("trade_id:", "Trade-ID:", "contract.fields.Trade-ID"),
        ("[0.4, 0.5]", "[0.6, 0.5]", "contract.decision"),
        ("business_days: 1, ", "", "contract.label.horizon"),
        ("name: fails, ", "name: fails, join_key: [amount], ", "contract.label.join_key"),
        ("  amount:", "  score:", "contract.fields.score"),
    ],
)
def test_a_fault_is_named_with_its_place(old: str, new: str, place: str):
    with pytest.raises(ContractError) as caught:
        trueup.load_contract(TEXT.replace(old, new, 1))
    assert caught.value.message.startswith(place)


def test_aliases_and_broken_yaml_are_refused():
    with pytest.raises(ContractError):
        trueup.load_contract("a: &a [x]\nb: *a\n")
    with pytest.raises(InvalidFile):
        trueup.load_contract("a: [\n")


def test_the_digest_ignores_documentation_and_nothing_else():
    contract = trueup.load_contract(TEXT)
    assert trueup.load_contract(TEXT.replace("unit: EUR", "unit: USD")).digest == contract.digest
    assert trueup.load_contract(TEXT.replace("0.5, at", "0.6, at")).digest != contract.digest


NAMES = st.from_regex(r"f[a-z0-9_]{1,10}", fullmatch=True)
FIELDS = st.builds(
    lambda name, kind, nullable, role: Field(
        name,
        kind,
        role,
        nullable and role is not FieldRole.KEY,
        categories=("a", "b") if kind is FieldType.CATEGORY else (),
        precision=12 if kind is FieldType.DECIMAL else None,
        scale=2 if kind is FieldType.DECIMAL else None,
    ),
    NAMES,
    st.sampled_from(FieldType),
    st.booleans(),
    st.sampled_from(FieldRole),
)


@given(st.lists(FIELDS, min_size=1, max_size=8, unique_by=lambda f: f.name))
def test_any_contract_survives_being_stored(fields: list[Field]):
    contract = trueup.Contract("c", 1, (Field("first", FieldType.FLOAT64), *fields), Output(OutputKind.VALUE))
    assert contract_from_json(contract_to_json(contract)) == contract
    assert trueup.load_contract(trueup.dump_contract(contract)).digest == contract.digest


@pytest.mark.parametrize(
    ("old", "new", "path", "breaking"),
    [
        ("  side:", "  note: {type: string, role: context, nullable: true}\n  side:", "fields.note", False),
        ("  side:", "  note: {type: string, role: context}\n  side:", "fields.note", True),
        ("minimum: 0, ", "", "fields.amount.minimum", False),
        ("minimum: 0", "minimum: 1", "fields.amount.minimum", True),
        ("[buy, sell]", "[buy, sell, lend]", "fields.side.categories", False),
        ("[buy, sell]", "[sell, buy]", "fields.side.categories", True),
        ("[buy, sell]", "[buy]", "fields.side.categories", True),
        ("threshold: 0.5", "threshold: 0.7", "decision", False),
        ("type: bool", "type: float64", "label", True),
        ("type: float64", "type: int64", "fields.amount.type", True),
    ],
)
def test_a_change_is_compatible_or_breaking_with_a_reason(old: str, new: str, path: str, breaking: bool):
    changes = trueup.compare_contracts(trueup.load_contract(TEXT), trueup.load_contract(TEXT.replace(old, new, 1)))
    assert [(c.path, c.breaking) for c in changes] == [(path, breaking)]
    assert changes[0].reason


def rows(*changes: dict[str, object]):
    from trueup.contracts.decoding import Decoder

    base = {"trade_id": "T1", "amount": 1.0, "side": "buy", "trade_date": "2026-11-23"}
    return Decoder(trueup.load_contract(TEXT), Limits()).records([{**base, **c} for c in changes]).columns


def test_digests_tell_contents_apart_and_nothing_else():
    same, minus_zero, zero, other, key = content_digests(
        rows({}, {"amount": -0.0}, {"amount": 0.0}, {"amount": 2.0}, {"trade_id": "T2"})
    )
    assert minus_zero == zero
    assert len({same, zero, other, key}) == 4
    assert all(len(d) == 16 for d in (same, zero))


@given(
    st.lists(st.text(alphabet="ab|\\", max_size=4), min_size=2, max_size=2),
    st.lists(st.text(alphabet="ab|\\", max_size=4), min_size=2, max_size=2),
)
def test_business_keys_never_collide(one: list[str], two: list[str]):
    from trueup.contracts.decoding import Decoder

    contract = trueup.load_contract(
        "name: k\nversion: 1\nfields:\n  a: {type: string, role: key}\n  b: {type: string, role: key}\n  x: float64\n"
        "output: {kind: value}\n"
    )
    decoded = Decoder(contract, Limits()).records([{"a": a, "b": b, "x": 0.0} for a, b in (one, two)])
    first, second = business_keys(decoded.columns)
    assert (first == second) == (one == two)


def label(kind: HorizonKind, length: int = 0, calendar: str = "") -> Label:
    return Label("l", FieldType.BOOL, ("k",), Horizon(kind, length, calendar))


@pytest.mark.parametrize(
    ("horizon", "day", "due"),
    [
        (label(HorizonKind.DAYS, 3), "2026-11-20", "2026-11-23"),
        (label(HorizonKind.BUSINESS_DAYS, 1, "weekdays"), "2026-11-20", "2026-11-23"),
        (label(HorizonKind.BUSINESS_DAYS, 1, "us-settlement"), "2020-10-09", "2020-10-13"),  # Columbus Day
        (label(HorizonKind.BUSINESS_DAYS, 1, "nyse"), "2020-10-09", "2020-10-12"),
        (label(HorizonKind.BUSINESS_DAYS, 1, "us-settlement"), "2020-11-10", "2020-11-12"),  # Veterans Day
        (label(HorizonKind.BUSINESS_DAYS, 2, "target"), "2026-12-23", "2026-12-28"),
    ],
)
def test_labels_are_due_on_the_calendars_day(horizon: Label, day: str, due: str):
    assert due_days(horizon, np.array([day], "datetime64[D]"))[0] == np.datetime64(due)


def test_what_is_due_when_published_has_no_day():
    assert np.isnat(due_days(label(HorizonKind.PUBLISHED), np.array(["2026-11-20"], "datetime64[D]")))[0]


@given(st.dates(dt.date(1990, 1, 1), dt.date(2040, 1, 1)), st.integers(0, 30))
def test_a_business_horizon_never_ends_before_the_event(day: dt.date, length: int):
    due = due_days(label(HorizonKind.BUSINESS_DAYS, length, "us-settlement"), np.array([day], "datetime64[D]"))
    assert due[0] >= np.datetime64(day)
