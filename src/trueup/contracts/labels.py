"""The labels of a contract: reading them, checking that they fit, and which of their values are the event.

A contract has ``label: {...}`` or ``labels: [{...}, ...]``; of several the first is the primary one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.contracts.horizon import CALENDARS
from trueup.contracts.keys import Keys, identifier, one_of
from trueup.domain.contract import (
    Comparison,
    Contract,
    Field,
    FieldRole,
    FieldType,
    Horizon,
    HorizonKind,
    Label,
    Positive,
)
from trueup.errors import ContractError

MOST_LABELS = 20
MOST_DAYS = 3_650
# Columns that a row of outcomes has beside the key fields and the labels' own names.
RESERVED = frozenset(("event_day", "value", "observed_at", "state", "label"))
_NUMBERS = (FieldType.FLOAT64, FieldType.INT64)
_TEXTS = (FieldType.STRING, FieldType.CATEGORY)


def is_positive(label: Label, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask (n,) of the values (n,) that are the event: float64, or object of str for a text label.

    What is not known (NaN, None) is no event. Raises ContractError where the label tells of none.
    """
    event = label.event
    if event is None:
        raise ContractError(
            f"label {label.name} does not say which of its values are the event",
            next_step="give it `positive`, for example {above: 100000}, in a new version of the contract",
        )
    if event.how is Comparison.EQUALS:
        return np.asarray(values == event.bound, bool)
    compare = {
        Comparison.ABOVE: np.greater,
        Comparison.AT_LEAST: np.greater_equal,
        Comparison.BELOW: np.less,
        Comparison.AT_MOST: np.less_equal,
    }[event.how]
    found: NDArray[np.bool_] = compare(np.asarray(values, np.float64), event.bound)  # NaN compares false
    return found


def read_labels(top: Keys, by_name: Mapping[str, Field]) -> tuple[Label, ...]:
    """The labels of a contract's plain values. Raises ContractError."""
    one = top.take("label", dict, None)
    several = top.take("labels", list, None)
    if one is not None and several is not None:
        raise ContractError("contract.labels: give `label` or `labels`, not both")
    if several is None:
        return () if one is None else (_label(one, by_name, None, "contract.label"),)
    if not 1 <= len(several) <= MOST_LABELS:
        raise ContractError(f"contract.labels: 1 to {MOST_LABELS} labels are needed")
    labels: list[Label] = []
    for place, raw in enumerate(several):
        labels.append(_label(raw, by_name, labels[0] if labels else None, f"contract.labels[{place}]"))
    return tuple(labels)


def check_labels(contract: Contract) -> None:
    """Raises ContractError where labels do not fit the contract or each other."""
    names = [label.name for label in contract.labels]
    if len(set(names)) != len(names):
        raise ContractError("contract.labels: a label is declared twice")
    for label in contract.labels:
        for name in label.join_key:
            if name not in contract.by_name or contract.by_name[name].role is not FieldRole.KEY:
                raise ContractError(f"contract.label.join_key: {name} is not a key field")
    for label in contract.labels[1:]:
        _check_beside(contract, label)


def _check_beside(contract: Contract, label: Label) -> None:
    """What a label needs that is not the primary one: its item and its due day are found in the database."""
    where = f"contract.labels.{label.name}"
    if contract.labels[0].name in RESERVED or label.name in RESERVED:
        raise ContractError(f"{where}: the name is reserved for a column of outcome rows")
    if label.name in contract.by_name and contract.by_name[label.name].role is FieldRole.KEY:
        raise ContractError(f"{where}: the name is taken by a key field")
    if label.join_key != contract.labels[0].join_key:
        for name in label.join_key:
            if contract.by_name[name].type in (FieldType.FLOAT64, FieldType.TIMESTAMP):
                raise ContractError(f"{where}.join_key: {name} is a {contract.by_name[name].type}")
    if label.horizon.calendar and label.horizon.calendar not in CALENDARS:
        raise ContractError(f"{where}.horizon.calendar: one of {', '.join(CALENDARS)} is needed")


def _label(raw: Any, by_name: Mapping[str, Field], primary: Label | None, where: str) -> Label:
    keys = Keys(raw, where)
    all_keys = [f.name for f in by_name.values() if f.role is FieldRole.KEY]
    kind = one_of(FieldType, keys.take("type", str), f"{where}.type")
    label = Label(
        name=identifier(keys.take("name", str), f"{where}.name"),
        type=kind,
        join_key=tuple(keys.take("join_key", list, all_keys if primary is None else list(primary.join_key))),
        horizon=_horizon(keys.take("horizon", object), where),
        description=keys.take("description", str, ""),
        positive=_positive(keys.take("positive", dict, None), kind, f"{where}.positive"),
        never_after=keys.take("never_after", int, None),
    )
    keys.done()
    if not label.join_key:
        raise ContractError(f"{where}.join_key: a label needs at least one key field")
    if label.never_after is not None and not 0 <= label.never_after <= MOST_DAYS:
        raise ContractError(f"{where}.never_after: 0 to {MOST_DAYS} days are allowed")
    return label


def _positive(raw: dict[str, Any] | None, kind: FieldType, where: str) -> Positive | None:
    if raw is None:
        return None
    if len(raw) != 1:
        raise ContractError(f"{where}: one comparison is needed, for example {{above: 100000}}")
    (name, bound), *_ = raw.items()
    how = one_of(Comparison, name, where)
    is_number = isinstance(bound, (int, float)) and not isinstance(bound, bool) and np.isfinite(bound)
    if kind in _NUMBERS and is_number:
        return Positive(how, float(bound))
    if how is Comparison.EQUALS and kind is FieldType.BOOL and isinstance(bound, bool):
        return Positive(how, float(bound))
    if how is Comparison.EQUALS and kind in _TEXTS and isinstance(bound, str):
        return Positive(how, bound)
    raise ContractError(f"{where}: no comparison for a {kind}; numbers are compared, texts and bools equal")


def _horizon(raw: Any, where: str) -> Horizon:
    if raw == "when published":
        return Horizon(HorizonKind.PUBLISHED)
    keys = Keys(raw, f"{where}.horizon")
    days = keys.take("days", int, None)
    business = keys.take("business_days", int, None)
    calendar = keys.take("calendar", str, "")
    keys.done()
    if (days is None) == (business is None):
        raise ContractError(f"{where}.horizon: give `days`, `business_days` with `calendar`, or 'when published'")
    length = days if days is not None else business
    if not 0 <= length <= MOST_DAYS:
        raise ContractError(f"{where}.horizon: 0 to {MOST_DAYS} days are allowed")
    if business is not None and not calendar:
        raise ContractError(f"{where}.horizon: business_days need a calendar, for example us-settlement")
    return Horizon(HorizonKind.DAYS if days is not None else HorizonKind.BUSINESS_DAYS, length, calendar)


def label_document(label: Label) -> dict[str, Any]:
    """The label as plain JSON values; what it does not use is left out."""
    document: dict[str, Any] = {
        "name": label.name,
        "type": str(label.type),
        "join_key": list(label.join_key),
        "horizon": _horizon_document(label.horizon),
        "description": label.description,
    }
    if label.positive is not None:
        bound = bool(label.positive.bound) if label.type is FieldType.BOOL else label.positive.bound
        document["positive"] = {str(label.positive.how): bound}
    if label.never_after is not None:
        document["never_after"] = label.never_after
    return document


def _horizon_document(horizon: Horizon) -> Any:
    if horizon.kind is HorizonKind.PUBLISHED:
        return "when published"
    if horizon.kind is HorizonKind.DAYS:
        return {"days": horizon.length}
    return {"business_days": horizon.length, "calendar": horizon.calendar}
