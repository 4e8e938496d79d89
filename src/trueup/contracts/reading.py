"""Contracts as YAML text, as plain JSON values, and back.

The YAML form is documented in ``docs/reference/contract.md``. Unknown keys are refused:
a misspelt ``nulable`` must not silently make a field mandatory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from trueup.domain.contract import (
    Contract,
    DecisionRule,
    Field,
    FieldRole,
    FieldType,
    Horizon,
    HorizonKind,
    Label,
    Output,
    OutputKind,
)
from trueup.errors import ContractError, InvalidFile

MAX_BYTES = 1_000_000
MAX_FIELDS = 2_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,54}\Z")
_DECIMAL = re.compile(r"decimal\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)\Z")
_COST = re.compile(r"probability\s*[x*]\s*([a-z][a-z0-9_]{0,54})\Z")
# Columns that every typed view has beside the contract's own fields.
RESERVED = frozenset(
    (
        *("prediction_id", "deployment", "model_version", "role", "channel", "status", "source", "source_key"),
        *("business_key", "event_time", "event_day", "score", "outputs", "class", "decision", "expected_cost"),
        *("due_day", "received_at", "booked_at"),
    )
)


def load_contract(source: str | Path) -> Contract:
    """Reads a contract from a YAML file (a Path, or a string naming a file) or from YAML text.

    Raises ContractError with the place of the fault, InvalidFile when it cannot be read.
    """
    text = source if isinstance(source, str) and "\n" in source else _read(Path(source))
    if len(text.encode()) > MAX_BYTES:
        raise InvalidFile(f"a contract may have at most {MAX_BYTES} bytes")
    try:
        _refuse_aliases(text)
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise InvalidFile("the contract is not valid YAML", next_step="check indentation and quoting") from None
    return parse_contract(raw)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidFile(f"a contract may have at most {MAX_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InvalidFile(f"the contract file {path.name} cannot be read", next_step="check its name") from None


def _refuse_aliases(text: str) -> None:
    """A few hundred bytes of aliases can expand to gigabytes, and no contract needs one."""
    if any(isinstance(token, yaml.AliasToken) for token in _tokens(text)):
        raise ContractError("YAML aliases are not allowed in a contract")


def _tokens(text: str) -> Iterator[yaml.Token]:
    yield from yaml.scan(text, Loader=yaml.SafeLoader)


def parse_contract(raw: Any) -> Contract:
    """A contract from plain values (the YAML form). Raises ContractError."""
    top = _Keys(raw, "contract")
    listed = top.take("fields", dict)
    if not 0 < len(listed) <= MAX_FIELDS:
        raise ContractError(f"contract.fields: 1 to {MAX_FIELDS} fields are needed")
    parsed = tuple(_field(name, body) for name, body in listed.items())
    by_name = {f.name: f for f in parsed}
    contract = Contract(
        name=_identifier(top.take("name", str), "contract.name"),
        version=top.take("version", int),
        fields=parsed,
        output=_output(top.take("output", dict)),
        label=_label(top.take("label", dict, None), by_name),
        decision=_decision(top.take("decision", dict, None)),
        expected_cost=_expected_cost(top.take("expected_cost", str, "")),
        event_time=top.take("event_time", str, ""),
        description=top.take("description", str, ""),
    )
    top.done()
    return checked(contract)


def checked(contract: Contract) -> Contract:
    """The contract itself if its parts fit together. Raises ContractError."""
    by_name = contract.by_name
    if len(by_name) != len(contract.fields):
        raise ContractError("contract.fields: a field is declared twice")
    if contract.version < 1:
        raise ContractError("contract.version: a whole number from 1 is needed")
    if not contract.features:
        raise ContractError("contract.fields: at least one feature is needed")
    for f in contract.keys:
        if f.nullable:
            raise ContractError(f"contract.fields.{f.name}: a key may not be nullable")
    if contract.label is not None:
        for name in contract.label.join_key:
            if name not in by_name or by_name[name].role is not FieldRole.KEY:
                raise ContractError(f"contract.label.join_key: {name} is not a key field")
    cost = contract.expected_cost
    if cost and (cost not in by_name or by_name[cost].type in (FieldType.STRING, FieldType.CATEGORY, FieldType.BOOL)):
        raise ContractError(f"contract.expected_cost: {cost} is not a numeric field")
    when = contract.event_time
    if when and (when not in by_name or by_name[when].type not in (FieldType.DATE, FieldType.TIMESTAMP)):
        raise ContractError(f"contract.event_time: {when} is not a date or timestamp field")
    if when and by_name[when].nullable:
        raise ContractError(f"contract.event_time: {when} may not be nullable")
    return contract


def _field(name: Any, body: Any) -> Field:
    where = f"contract.fields.{name}"
    keys = _Keys({"type": body} if isinstance(body, str) else body, where)
    kind, precision, scale = _type(keys.take("type", str), where)
    role = _enum(FieldRole, keys.take("role", str, "feature"), f"{where}.role")
    categories = keys.take("categories", list, [])
    result = Field(
        name=_identifier(name, where),
        type=kind,
        role=role,
        nullable=keys.take("nullable", bool, False),
        minimum=_bound(keys.take("minimum", object, None), kind, f"{where}.minimum"),
        maximum=_bound(keys.take("maximum", object, None), kind, f"{where}.maximum"),
        categories=tuple(str(c) for c in categories),
        categories_open=keys.take("open", bool, False),
        precision=precision,
        scale=scale,
        allow_nan=keys.take("allow_nan", bool, False),
        allow_infinity=keys.take("allow_infinity", bool, False),
        unit=keys.take("unit", str, ""),
        description=keys.take("description", str, ""),
    )
    keys.done()
    if result.name in RESERVED and result.role is not FieldRole.KEY:
        raise ContractError(f"{where}: the name is reserved for a column of the ledger's views")
    if kind is FieldType.CATEGORY and not categories and not result.categories_open:
        raise ContractError(f"{where}.categories: a closed category needs its values")
    if (result.allow_nan or result.allow_infinity) and kind is not FieldType.FLOAT64:
        raise ContractError(f"{where}: NaN and infinity exist for float64 only")
    return result


def _type(text: str, where: str) -> tuple[FieldType, int | None, int | None]:
    match = _DECIMAL.match(text)
    if match:
        precision, scale = int(match[1]), int(match[2])
        if not 1 <= precision <= 131 or scale > precision:
            raise ContractError(f"{where}.type: decimal(p,s) needs 1 <= p <= 131 and s <= p")
        return FieldType.DECIMAL, precision, scale
    kind = _enum(FieldType, text, f"{where}.type")
    if kind is FieldType.DECIMAL:
        raise ContractError(f"{where}.type: write decimal(p,s), for example decimal(18,2)")
    return kind, None, None


def _bound(value: Any, kind: FieldType, where: str) -> float | int | str | None:
    """A range's end in the field's stored unit: days, microseconds, or decimal text."""
    if value is None:
        return None
    import numpy as np

    try:
        if kind in (FieldType.FLOAT64, FieldType.INT64) and not isinstance(value, bool):
            return float(value) if kind is FieldType.FLOAT64 else int(value)
        if kind is FieldType.DATE:
            return int(np.datetime64(str(value), "D").astype(np.int64))
        if kind is FieldType.TIMESTAMP:
            return int(np.datetime64(str(value).removesuffix("Z").removesuffix("+00:00"), "us").astype(np.int64))
        if kind is FieldType.DECIMAL:
            return str(value)
    except (TypeError, ValueError):
        pass
    raise ContractError(f"{where}: not a bound for {kind}")


def _output(raw: dict[str, Any]) -> Output:
    keys = _Keys(raw, "contract.output")
    output = Output(
        kind=_enum(OutputKind, keys.take("kind", str), "contract.output.kind"),
        name=_identifier(keys.take("name", str, "score"), "contract.output.name"),
        classes=tuple(str(c) for c in keys.take("classes", list, [])),
        description=keys.take("description", str, ""),
    )
    keys.done()
    if output.kind is OutputKind.CLASS and len(output.classes) < 2:
        raise ContractError("contract.output.classes: at least two classes are needed")
    return output


def _label(raw: dict[str, Any] | None, by_name: Mapping[str, Field]) -> Label | None:
    if raw is None:
        return None
    keys = _Keys(raw, "contract.label")
    all_keys = [f.name for f in by_name.values() if f.role is FieldRole.KEY]
    label = Label(
        name=_identifier(keys.take("name", str), "contract.label.name"),
        type=_enum(FieldType, keys.take("type", str), "contract.label.type"),
        join_key=tuple(keys.take("join_key", list, all_keys)),
        horizon=_horizon(keys.take("horizon", object)),
        description=keys.take("description", str, ""),
    )
    keys.done()
    if not label.join_key:
        raise ContractError("contract.label.join_key: a label needs at least one key field")
    return label


def _horizon(raw: Any) -> Horizon:
    if raw == "when published":
        return Horizon(HorizonKind.PUBLISHED)
    keys = _Keys(raw, "contract.label.horizon")
    days = keys.take("days", int, None)
    business = keys.take("business_days", int, None)
    calendar = keys.take("calendar", str, "")
    keys.done()
    if (days is None) == (business is None):
        raise ContractError("contract.label.horizon: give `days`, `business_days` with `calendar`, or 'when published'")
    length = days if days is not None else business
    if not 0 <= length <= 3_650:
        raise ContractError("contract.label.horizon: 0 to 3650 days are allowed")
    if business is not None and not calendar:
        raise ContractError("contract.label.horizon: business_days need a calendar, for example us-settlement")
    return Horizon(HorizonKind.DAYS if days is not None else HorizonKind.BUSINESS_DAYS, length, calendar)


def _decision(raw: dict[str, Any] | None) -> DecisionRule | None:
    if raw is None:
        return None
    keys = _Keys(raw, "contract.decision")
    abstain = keys.take("abstain_between", list, [])
    if abstain and (len(abstain) != 2 or not abstain[0] < abstain[1]):
        raise ContractError("contract.decision.abstain_between: two ascending numbers are needed")
    low, high = (float(abstain[0]), float(abstain[1])) if abstain else (None, None)
    rule = DecisionRule(
        threshold=float(keys.take("threshold", (int, float))),
        at_or_above=keys.take("at_or_above", str, "act"),
        below=keys.take("below", str, "pass"),
        abstain_low=low,
        abstain_high=high,
    )
    keys.done()
    return rule


def _expected_cost(text: str) -> str:
    if not text:
        return ""
    match = _COST.match(text)
    if not match:
        raise ContractError("contract.expected_cost: write `probability x FIELD`")
    return match[1]


def _identifier(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise ContractError(f"{where}: a name is a-z, 0-9 and _, begins with a letter, and has at most 55 characters")
    return value


def _enum(kind: Any, value: str, where: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ContractError(f"{where}: one of {', '.join(kind)} is needed") from None


class _Keys:
    """Takes keys out of a mapping one by one; what is left over at the end is a fault."""

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, dict):
            raise ContractError(f"{where}: a mapping is needed")
        self._left = dict(raw)
        self._where = where

    def take(self, key: str, kind: Any, default: Any = MISSING) -> Any:
        value = self._left.pop(key, default)
        if value is MISSING:
            raise ContractError(f"{self._where}.{key}: is missing")
        if value is default:
            return value
        wrong_bool = isinstance(value, bool) and kind not in (bool, object)
        if not isinstance(value, kind) or wrong_bool:
            names = kind.__name__ if isinstance(kind, type) else "number"
            raise ContractError(f"{self._where}.{key}: a {names} is needed")
        return value

    def done(self) -> None:
        if self._left:
            raise ContractError(f"{self._where}: unknown key {sorted(map(str, self._left))[0]!r}")


def dump_contract(contract: Contract) -> str:
    """The contract as YAML text that ``load_contract`` reads back to an equal contract."""
    return yaml.safe_dump(_document(contract), sort_keys=False, allow_unicode=True, width=100)


def contract_to_json(contract: Contract) -> dict[str, Any]:
    """The contract as plain JSON values, as the ledger stores it."""
    return _document(contract)


def contract_from_json(document: Mapping[str, Any]) -> Contract:
    """The contract back from ``contract_to_json``."""
    return parse_contract(dict(document))


def _document(contract: Contract) -> dict[str, Any]:
    rule, label = contract.decision, contract.label
    document: dict[str, Any] = {"name": contract.name, "version": contract.version}
    document["description"] = contract.description
    document["fields"] = {f.name: _field_document(f) for f in contract.fields}
    document["output"] = _without_defaults(contract.output, kind=str(contract.output.kind))
    if label is not None:
        document["label"] = {
            "name": label.name,
            "type": str(label.type),
            "join_key": list(label.join_key),
            "horizon": _horizon_document(label.horizon),
            "description": label.description,
        }
    if rule is not None:
        document["decision"] = {"threshold": rule.threshold, "at_or_above": rule.at_or_above, "below": rule.below}
        if rule.abstain_low is not None:
            document["decision"]["abstain_between"] = [rule.abstain_low, rule.abstain_high]
    if contract.expected_cost:
        document["expected_cost"] = f"probability x {contract.expected_cost}"
    if contract.event_time:
        document["event_time"] = contract.event_time
    return document


def _field_document(f: Field) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": f"decimal({f.precision},{f.scale})" if f.precision is not None else str(f.type)}
    if f.role is not FieldRole.FEATURE:
        shown["role"] = str(f.role)
    for key in ("nullable", "allow_nan", "allow_infinity"):
        if getattr(f, key):
            shown[key] = True
    for key in ("minimum", "maximum"):
        if getattr(f, key) is not None:
            shown[key] = _bound_document(getattr(f, key), f.type)
    if f.categories:
        shown["categories"] = list(f.categories)
    if f.categories_open:
        shown["open"] = True
    for key in ("unit", "description"):
        if getattr(f, key):
            shown[key] = getattr(f, key)
    return shown


def _bound_document(value: Any, kind: FieldType) -> Any:
    import numpy as np

    if kind is FieldType.DATE:
        return str(np.datetime64(value, "D"))
    if kind is FieldType.TIMESTAMP:
        return f"{np.datetime64(value, 'us')}Z"
    return value


def _horizon_document(horizon: Horizon) -> Any:
    if horizon.kind is HorizonKind.PUBLISHED:
        return "when published"
    if horizon.kind is HorizonKind.DAYS:
        return {"days": horizon.length}
    return {"business_days": horizon.length, "calendar": horizon.calendar}


def _without_defaults(record: Any, **shown: Any) -> dict[str, Any]:
    """The record's fields that differ from their defaults, tuples as lists."""
    for f in fields(record):
        value = getattr(record, f.name)
        if f.name not in shown and value != f.default:
            shown[f.name] = list(value) if isinstance(value, tuple) else value
    return shown
