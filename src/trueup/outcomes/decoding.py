"""Outcomes as callers send them, typed by the contract's labels.

A row names the business-key fields, ``event_day`` and what happened: ``value``, which is the primary label's unless the
door or the row names another ``label``, or, where the contract has several labels, some or all by their own names.
``observed_at`` is when the fact became known at its source (the moment of recording otherwise). ``state`` says
``retracted`` or ``censored`` where there is no value, of one label or of all. The same decoder as for instances reads
it, so the same rules and the same field errors apply, and ``fitting`` leaves out rows that contradict themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.contracts.identity import business_keys
from trueup.domain.batch import Bools, Columns, Decoded, OutcomeBatch, OutcomeState
from trueup.domain.contract import (
    Contract,
    Field,
    FieldError,
    FieldRole,
    FieldType,
    Label,
    Output,
    OutputKind,
    Storage,
)
from trueup.errors import ContractError, NotFound

_LAST_US = 253_402_300_799_999_999  # of the year 9999
_ROW = ("event_day", "value", "observed_at", "state")


def outcome_contract(contract: Contract, label: str | None = None) -> Contract:
    """What a row of outcomes must look like for this contract, all of it about ``label`` where one is named.

    Raises ContractError without a label, NotFound where there is none of that name.
    """
    about = named_label(contract, label)
    keys = tuple(contract.by_name[name] for name in about.join_key)
    others = () if label is not None else _by_name(contract)
    rest = [
        Field("event_day", FieldType.DATE, FieldRole.CONTEXT),
        _value("value", about),
        Field("observed_at", FieldType.TIMESTAMP, FieldRole.CONTEXT, nullable=True),
        _choice("state", tuple(map(str, OutcomeState))),
    ]
    if others:
        rest += [_choice("label", tuple(one.name for one in others)), *(_value(one.name, one) for one in others)]
    taken = {f.name for f in keys} & {f.name for f in rest}
    if taken:
        raise ContractError(f"key fields may not be called {', '.join(sorted(taken))}")
    return Contract(f"{contract.name}_outcome", contract.version, keys + tuple(rest), Output(OutputKind.VALUE))


def fitting(decoded: Decoded, contract: Contract, label: str | None = None) -> Decoded:
    """Without rows that contradict themselves or say nothing; of each it is said what is expected."""
    rows = decoded.columns
    observed, gone = rows.column("observed_at"), ~_known(rows)
    given = ~rows.nulls("value")
    bad = [
        (~rows.nulls("observed_at") & ((observed < 0) | (observed > _LAST_US)), "observed_at", "range",
         "a moment from 1970 to 9999"),
    ]  # fmt: skip
    others = () if label is not None else _by_name(contract)
    if others:
        named = ~rows.nulls("label")
        own = np.column_stack([~rows.nulls(one.name) for one in others])
        alike = [one.name for one in others if one.type is others[0].type]
        fits = np.isin(rows.column("label")[named].astype(str), alike)
        unlike = np.zeros(len(rows), bool)
        unlike[named] = ~fits
        bad += [
            (given & unlike, "value", "type", "the label's value in the column of its own name"),
            (
                named & own.any(axis=1),
                "label",
                "unexpected",
                "labels by their names, or one label and its value",
            ),
            (given & own[:, 0], "value", "unexpected", "the primary label's value once"),
        ]
        given = given | own.any(axis=1)
    bad += [
        (gone & given, "value", "unexpected", "no value of what is retracted or censored"),
        (~gone & ~given, "value", "null", "a value, or a state of retracted or censored"),
    ]
    return without(decoded, bad)


def stated(decoded: Decoded, state: OutcomeState | None) -> Decoded:
    """With ``state`` for the rows that name none, where the door names one for all."""
    rows = decoded.columns
    if state is None or not len(rows):
        return decoded
    texts = rows.texts.copy()
    texts[rows.nulls("state"), rows.contract.slots["state"][1]] = str(state)
    return replace(decoded, columns=replace(rows, texts=texts))


def outcome_batches(
    contract: Contract,
    rows: Columns,
    *,
    source: str,
    now: datetime | NDArray[np.datetime64],
    label: str | None = None,
) -> list[OutcomeBatch]:
    """Rows of ``outcome_contract`` that are ``fitting``, as the store takes them: a batch a label.

    ``now`` is the moment of what does not say one: one for all in UTC, or datetime64[us] (n,).
    """
    about = named_label(contract, label)
    unsaid = rows.nulls("observed_at")
    observed = rows.column("observed_at").astype("datetime64[us]")
    moments = np.datetime64(_naive(now), "us") if isinstance(now, datetime) else now.astype("datetime64[us]")
    whole = OutcomeBatch(
        contract_name=contract.name,
        label=about.name,
        source=source,
        business_keys=business_keys(rows),
        event_days=rows.column("event_day").astype("datetime64[D]"),
        observed_at=np.where(unsaid, moments, observed),
        said=~unsaid if unsaid.any() else None,
    )
    others = () if label is not None else _by_name(contract)
    if not others:
        batches = [_of_label(whole, about, rows, "value", np.ones(len(rows), bool))]
    else:
        batches = [batch for one in others for batch in _of_several(whole, one, about, rows)]
    return [batch for batch in batches if len(batch)]


def named_label(contract: Contract, label: str | None) -> Label:
    """The label of that name, the primary one for None. Raises ContractError where the contract declares none."""
    if contract.label is None:
        raise ContractError(
            f"contract {contract.name} declares no label, so nothing can be trued up",
            next_step="add a `label` to the contract and deploy it as a new version",
        )
    if label is None:
        return contract.label
    for one in contract.labels:
        if one.name == label:
            return one
    raise NotFound("the contract has no such label", next_step="`trueup contract show` lists its labels")


def _by_name(contract: Contract) -> tuple[Label, ...]:
    """The labels that a row may name, where there are several: those that are about the same items."""
    if len(contract.labels) < 2:
        return ()
    return tuple(one for one in contract.labels if one.join_key == contract.labels[0].join_key)


def _value(name: str, label: Label) -> Field:
    is_open = label.type is FieldType.CATEGORY
    return Field(name, label.type, FieldRole.CONTEXT, nullable=True, categories_open=is_open)


def _choice(name: str, values: tuple[str, ...]) -> Field:
    return Field(name, FieldType.CATEGORY, FieldRole.CONTEXT, nullable=True, categories=values)


def _known(rows: Columns) -> Bools:
    """Mask (n,) of the rows that say what happened."""
    states = rows.column("state")
    return np.fromiter((s is None or s == "known" for s in states), bool, len(rows))


def without(decoded: Decoded, bad: Sequence[tuple[Bools, str, str, str]]) -> Decoded:
    """Without the rows of each mask, of which field, code and what was expected are told; one fault a row."""
    wrong = np.zeros(len(decoded.rows), bool)
    errors: list[FieldError] = []
    for mask, field, code, expected in bad:
        fresh = mask & ~wrong  # one fault a row
        errors += [FieldError(row, field, code, expected) for row in decoded.rows[fresh].tolist()]
        wrong |= mask
    if not errors:
        return decoded
    return Decoded(
        decoded.columns.take(~wrong),
        decoded.rows[~wrong],
        decoded.received,
        (*decoded.errors, *errors),
        decoded.errors_total + len(errors),
    )


def _of_several(whole: OutcomeBatch, label: Label, primary: Label, rows: Columns) -> list[OutcomeBatch]:
    """What the rows say of one of several labels: in the column of its name, or as the row's ``value``."""
    named = rows.column("label")
    unnamed = rows.nulls("label")
    mine = named == label.name
    addressed = mine | unnamed if label.name == primary.name else mine
    gone = ~_known(rows)
    by_value = addressed & ~rows.nulls("value")
    by_name = ~rows.nulls(label.name) | (gone & (mine | unnamed))
    return [
        *([_of_label(whole, label, rows, "value", by_value)] if by_value.any() else []),
        *([_of_label(whole, label, rows, label.name, by_name)] if by_name.any() else []),
    ]


def _of_label(whole: OutcomeBatch, label: Label, rows: Columns, column: str, mask: Bools) -> OutcomeBatch:
    """The masked rows with the values of ``column``."""
    if not mask.all():
        rows = rows.take(mask)
        whole = replace(
            whole,
            business_keys=[key for key, is_mine in zip(whole.business_keys, mask.tolist(), strict=True) if is_mine],
            event_days=whole.event_days[mask],
            observed_at=whole.observed_at[mask],
            said=None if whole.said is None else whole.said[mask],
        )
    is_number = rows.contract.by_name[column].storage is not Storage.TEXTS
    known = _known(rows)
    states = None if known.all() else np.where(known, "known", rows.column("state"))
    return replace(
        whole,
        label=label.name,
        numbers=_numbers(rows, column) if is_number else None,
        texts=None if is_number else rows.column(column),
        states=states,
    )


def _numbers(rows: Columns, column: str) -> NDArray[Any]:
    values = rows.column(column).astype(np.float64)
    values[rows.nulls(column)] = np.nan
    return values


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
