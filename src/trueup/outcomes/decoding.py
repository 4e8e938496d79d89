"""Outcomes as callers send them: one row an outcome, typed by the contract's label.

A row names the business-key fields, ``event_day``, ``value`` and, optionally,
``observed_at`` (when the fact became known at its source; the moment of recording
otherwise). The same decoder as for instances reads it, so the same rules and the
same field errors apply.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np

from trueup.contracts.identity import business_keys
from trueup.domain.batch import Columns, OutcomeBatch
from trueup.domain.contract import Contract, Field, FieldRole, FieldType, Label, Output, OutputKind, Storage
from trueup.errors import ContractError


def outcome_contract(contract: Contract) -> Contract:
    """What a row of outcomes must look like for this contract. Raises ContractError without a label."""
    label = required_label(contract)
    keys = tuple(contract.by_name[name] for name in contract.business_key)
    taken = {f.name for f in keys} & {"event_day", "value", "observed_at"}
    if taken:
        raise ContractError(f"key fields may not be called {', '.join(sorted(taken))}")
    rest = (
        Field("event_day", FieldType.DATE, FieldRole.CONTEXT),
        Field("value", label.type, FieldRole.CONTEXT),
        Field("observed_at", FieldType.TIMESTAMP, FieldRole.CONTEXT, nullable=True),
    )
    return Contract(f"{contract.name}_outcome", contract.version, keys + rest, Output(OutputKind.VALUE))


def outcome_batch(contract: Contract, rows: Columns, *, source: str, now: datetime) -> OutcomeBatch:
    """Decoded rows of ``outcome_contract`` as the store takes them. ``now`` is UTC."""
    label = required_label(contract)
    observed = rows.column("observed_at").copy()
    observed[rows.nulls("observed_at")] = int(now.timestamp() * 1_000_000)
    is_number = rows.contract.by_name["value"].storage is not Storage.TEXTS
    return OutcomeBatch(
        contract_name=contract.name,
        label=label.name,
        source=source,
        business_keys=business_keys(rows),
        event_days=rows.column("event_day").astype("datetime64[D]"),
        observed_at=observed.astype("datetime64[us]"),
        numbers=rows.column("value").astype(np.float64) if is_number else None,
        texts=None if is_number else rows.column("value"),
    )


def required_label(contract: Contract) -> Label:
    """The contract's label. Raises ContractError when it declares none."""
    if contract.label is None:
        raise ContractError(
            f"contract {contract.name} declares no label, so nothing can be trued up",
            next_step="add a `label` to the contract and deploy it as a new version",
        )
    return contract.label
