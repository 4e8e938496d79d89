"""What a model is promised and what it promises: fields, outputs, label, decision.

Everything here is a frozen value. Reading YAML, comparing and decoding are the
work of :mod:`trueup.contracts`; this file only says what a contract *is*.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any


class FieldType(StrEnum):
    """Type of one field. The comment gives the unit in which it is stored."""

    FLOAT64 = "float64"
    INT64 = "int64"
    BOOL = "bool"  # 0 or 1
    STRING = "string"
    CATEGORY = "category"
    DATE = "date"  # days since 1970-01-01
    TIMESTAMP = "timestamp"  # microseconds since 1970-01-01T00:00Z
    DECIMAL = "decimal"  # canonical text, exactly `scale` digits after the point


NUMBERS = (FieldType.FLOAT64, FieldType.INT64, FieldType.DECIMAL)


class Storage(StrEnum):
    """Which of the three blocks of a batch (and arrays of the ledger) holds a field."""

    FLOATS = "floats"
    INTS = "ints"
    TEXTS = "texts"


STORAGE_OF: dict[FieldType, Storage] = {
    FieldType.FLOAT64: Storage.FLOATS,
    FieldType.INT64: Storage.INTS,
    FieldType.BOOL: Storage.INTS,
    FieldType.DATE: Storage.INTS,
    FieldType.TIMESTAMP: Storage.INTS,
    FieldType.STRING: Storage.TEXTS,
    FieldType.CATEGORY: Storage.TEXTS,
    FieldType.DECIMAL: Storage.TEXTS,
}


class FieldRole(StrEnum):
    """What a field is for."""

    FEATURE = "feature"  # given to the model
    KEY = "key"  # part of the business key
    CONTEXT = "context"  # stored and shown, never given to the model


class OutputKind(StrEnum):
    """What the model's answer means."""

    PROBABILITY = "probability"
    CLASS = "class"
    VALUE = "value"
    VECTOR = "vector"


class HorizonKind(StrEnum):
    """When the label of a prediction is due."""

    DAYS = "days"
    BUSINESS_DAYS = "business days"
    PUBLISHED = "when published"


@dataclass(frozen=True, slots=True)
class Field:
    """One named, typed value of an instance.

    ``minimum`` and ``maximum`` are inclusive and in the field's own unit (a date's
    range is given in ISO form in YAML and kept here in days). ``categories`` closed
    means any other value is refused; open (``categories_open``) means the list only
    documents what is known. ``allow_nan`` and ``allow_infinity`` are for float64 alone.
    """

    name: str
    type: FieldType
    role: FieldRole = FieldRole.FEATURE
    nullable: bool = False
    minimum: float | int | str | None = None
    maximum: float | int | str | None = None
    categories: tuple[str, ...] = ()
    categories_open: bool = False
    precision: int | None = None  # decimal(p, s): digits in all
    scale: int | None = None  # decimal(p, s): digits after the point
    allow_nan: bool = False
    allow_infinity: bool = False
    unit: str = ""
    description: str = ""

    @property
    def storage(self) -> Storage:
        """The block that holds this field."""
        return STORAGE_OF[self.type]


@dataclass(frozen=True, slots=True)
class Horizon:
    """How long after the event day the label is due. ``length`` in days of the kind."""

    kind: HorizonKind
    length: int = 0
    calendar: str = ""


class Comparison(StrEnum):
    """How a label's value is compared with a bound."""

    ABOVE = "above"
    AT_LEAST = "at_least"
    BELOW = "below"
    AT_MOST = "at_most"
    EQUALS = "equals"


@dataclass(frozen=True, slots=True)
class Positive:
    """Which values of a label are the event that a probability is about: ``value <how> bound``.

    ``bound`` is a number for a label that is one (0 or 1 for a bool), else a text.
    """

    how: Comparison
    bound: float | str


@dataclass(frozen=True, slots=True)
class Label:
    """One real outcome that a prediction is trued up with.

    ``join_key`` names the key fields whose values form the business key. ``positive`` says which values are the
    event; a bool label needs none. An outcome that has not come ``never_after`` days after it was due is taken as
    one that never will; None: it is waited for without end.
    """

    name: str
    type: FieldType
    join_key: tuple[str, ...]
    horizon: Horizon
    description: str = ""
    positive: Positive | None = None
    never_after: int | None = None

    @property
    def event(self) -> Positive | None:
        """The event its values tell of; None for a label that tells of none, such as an amount."""
        if self.positive is None and self.type is FieldType.BOOL:
            return Positive(Comparison.EQUALS, 1.0)
        return self.positive


@dataclass(frozen=True, slots=True)
class Output:
    """What the model answers. ``classes`` in the model's own order (class, vector)."""

    kind: OutputKind
    name: str = "score"
    classes: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """``score >= threshold`` decides ``at_or_above``, else ``below``.

    Scores inside ``[abstain_low, abstain_high)`` are abstained: stored, not decided.
    """

    threshold: float
    at_or_above: str = "act"
    below: str = "pass"
    abstain_low: float | None = None
    abstain_high: float | None = None


@dataclass(frozen=True)
class Contract:
    """The typed promise between callers, a model and the ledger.

    ``expected_cost`` is the name of the numeric field that the probability is
    multiplied by ("probability x amount"), in that field's unit; empty for none.
    The first of ``labels`` is the primary one: it says what a business item is and when a prediction is due.
    ``event_time`` names the date or timestamp field that says when the event happened
    (a date means midnight UTC); empty means the caller or the server's clock says it.
    """

    name: str
    version: int
    fields: tuple[Field, ...]
    output: Output
    labels: tuple[Label, ...] = ()
    decision: DecisionRule | None = None
    expected_cost: str = ""
    event_time: str = ""
    description: str = ""

    @property
    def label(self) -> Label | None:
        """The primary label; None where nothing can be trued up."""
        return self.labels[0] if self.labels else None

    @cached_property
    def features(self) -> tuple[Field, ...]:
        """The model's inputs, in the order in which it takes them."""
        return tuple(f for f in self.fields if f.role is FieldRole.FEATURE)

    @cached_property
    def keys(self) -> tuple[Field, ...]:
        """The business-key fields, in contract order."""
        return tuple(f for f in self.fields if f.role is FieldRole.KEY)

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """Fields by name."""
        return {f.name: f for f in self.fields}

    @cached_property
    def slots(self) -> dict[str, tuple[Storage, int]]:
        """Where each field is stored: its block and its zero-based place in it."""
        seen = dict.fromkeys(Storage, 0)
        places: dict[str, tuple[Storage, int]] = {}
        for f in self.fields:
            places[f.name] = (f.storage, seen[f.storage])
            seen[f.storage] += 1
        return places

    @cached_property
    def widths(self) -> dict[Storage, int]:
        """Number of fields in each block."""
        return {s: sum(f.storage is s for f in self.fields) for s in Storage}

    @cached_property
    def by_field_name(self) -> dict[Storage, list[int]]:
        """The places of each block's fields, in the order of their names."""
        order: dict[Storage, list[int]] = {s: [] for s in Storage}
        for name in sorted(self.slots):
            storage, place = self.slots[name]
            order[storage].append(place)
        return order

    @cached_property
    def features_are_floats(self) -> bool:
        """Whether the model's inputs are the block of floats as it is stored."""
        floats = self.widths[Storage.FLOATS]
        return len(self.features) == floats and all(f.storage is Storage.FLOATS for f in self.features)

    @property
    def business_key(self) -> tuple[str, ...]:
        """Fields whose values identify the business item: the label's join key, else all keys."""
        if self.label is not None and self.label.join_key:
            return self.label.join_key
        return tuple(f.name for f in self.keys)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of the contract's meaning.

        Descriptions and units are documentation and are left out: correcting a
        spelling must not invalidate an approval.
        """
        canonical = json.dumps(self.meaning(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def meaning(self) -> dict[str, Any]:
        """The parts of the contract that bind, as plain JSON values.

        What a contract does not use has no part in it, so that what was digested before still has its digest.
        """
        plain: dict[str, Any] = _plain(self)
        labels = [{k: v for k, v in label.items() if v is not None} for label in plain.pop("labels")]
        plain["label"] = labels[0] if labels else None
        if labels[1:]:
            plain["further_labels"] = labels[1:]
        return plain


_DOCUMENTATION = frozenset({"description", "unit"})


def _plain(value: Any) -> Any:
    """Dataclasses to dicts of JSON values, without documentation and without defaults' absence."""
    if hasattr(value, "__dataclass_fields__"):
        return {k: _plain(getattr(value, k)) for k in value.__dataclass_fields__ if k not in _DOCUMENTATION}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


@dataclass(frozen=True, slots=True)
class ContractChange:
    """One difference between two contracts. ``breaking`` for callers or stored rows."""

    path: str
    breaking: bool
    reason: str


@dataclass(frozen=True, slots=True)
class FieldError:
    """Why one field of one instance is refused; never carries the value itself.

    ``code`` is one of missing, unexpected, null, type, range, category, nan, infinity,
    precision, scale, length. ``row`` is zero-based.
    """

    row: int
    field: str
    code: str
    expected: str


@dataclass(frozen=True, slots=True)
class FieldErrors:
    """All errors found, bounded by the settings; ``total`` counts those beyond the bound too."""

    errors: tuple[FieldError, ...] = field(default=())
    total: int = 0
