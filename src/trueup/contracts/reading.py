"""Contracts as YAML text, as plain JSON values, and back.

The YAML form is documented in ``docs/reference/contract.md``. Unknown keys are refused:
a misspelt ``nulable`` must not silently make a field mandatory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from trueup.contracts.keys import Keys, identifier, one_of
from trueup.contracts.labels import check_labels, label_document, read_labels
from trueup.domain.contract import (
    Contract,
    DecisionRule,
    Field,
    FieldRole,
    FieldType,
    Output,
    OutputKind,
)
from trueup.errors import ContractError, InvalidFile

MAX_BYTES = 1_000_000
MAX_FIELDS = 2_000
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
    top = Keys(raw, "contract")
    listed = top.take("fields", dict)
    if not 0 < len(listed) <= MAX_FIELDS:
        raise ContractError(f"contract.fields: 1 to {MAX_FIELDS} fields are needed")
    parsed = tuple(_field(name, body) for name, body in listed.items())
    by_name = {f.name: f for f in parsed}
    contract = Contract(
        name=identifier(top.take("name", str), "contract.name"),
        version=top.take("version", int),
        fields=parsed,
        output=_output(top.take("output", dict)),
        labels=read_labels(top, by_name),
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
    check_labels(contract)
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
    keys = Keys({"type": body} if isinstance(body, str) else body, where)
    kind, precision, scale = _type(keys.take("type", str), where)
    role = one_of(FieldRole, keys.take("role", str, "feature"), f"{where}.role")
    categories = keys.take("categories", list, [])
    result = Field(
        name=identifier(name, where),
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
    kind = one_of(FieldType, text, f"{where}.type")
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
    keys = Keys(raw, "contract.output")
    output = Output(
        kind=one_of(OutputKind, keys.take("kind", str), "contract.output.kind"),
        name=identifier(keys.take("name", str, "score"), "contract.output.name"),
        classes=tuple(str(c) for c in keys.take("classes", list, [])),
        description=keys.take("description", str, ""),
    )
    keys.done()
    if output.kind is OutputKind.CLASS and len(output.classes) < 2:
        raise ContractError("contract.output.classes: at least two classes are needed")
    return output


def _decision(raw: dict[str, Any] | None) -> DecisionRule | None:
    if raw is None:
        return None
    keys = Keys(raw, "contract.decision")
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
    rule = contract.decision
    document: dict[str, Any] = {"name": contract.name, "version": contract.version}
    document["description"] = contract.description
    document["fields"] = {f.name: _field_document(f) for f in contract.fields}
    document["output"] = _without_defaults(contract.output, kind=str(contract.output.kind))
    if len(contract.labels) == 1:
        document["label"] = label_document(contract.labels[0])
    elif contract.labels:
        document["labels"] = [label_document(label) for label in contract.labels]
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


def _without_defaults(record: Any, **shown: Any) -> dict[str, Any]:
    """The record's fields that differ from their defaults, tuples as lists."""
    for f in fields(record):
        value = getattr(record, f.name)
        if f.name not in shown and value != f.default:
            shown[f.name] = list(value) if isinstance(value, tuple) else value
    return shown
