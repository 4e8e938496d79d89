"""Instances, answers and outcomes of one batch, as arrays.

numpy is the one library the ground knows (docs/adr/0003): a batch *is* arrays, and
every room passes these records on without converting them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.contract import Contract, FieldError, FieldType, Storage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Objects = NDArray[np.object_]


class Channel(StrEnum):
    """The door a prediction came through."""

    REST = "rest"
    GRPC = "grpc"
    KAFKA = "kafka"
    BATCH = "batch"
    PYTHON = "python"


class Role(StrEnum):
    """What part a model version plays in a deployment."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    SHADOW = "shadow"


class Status(StrEnum):
    """How an answer came about. What got no answer is a refusal, not a status."""

    SCORED = "scored"
    ABSTAINED = "abstained"  # scored, but inside the abstention zone: no decision
    FALLBACK = "fallback"  # the declared rule answered instead of the model


class RefusalReason(StrEnum):
    """Why an instance got no answer."""

    CONTRACT = "contract"  # rejected by the contract
    FAILED = "failed"  # the model failed and no fallback is declared
    TIMED_OUT = "timed_out"
    OVERLOADED = "overloaded"
    REQUEST = "request"  # refused together with its request
    CONFLICT = "conflict"  # same identity, other content
    UNDECODABLE = "undecodable"  # not in the format, or not of the schema, that the stream declares
    TOO_LARGE = "too_large"  # beyond a bound of the settings


class Booked(IntEnum):
    """What booking did with one row."""

    NEW = 0
    REPEATED = 1  # the row was there already; its first answer is returned
    CONFLICT = 2  # the identity is taken by other content; nothing is returned
    WITHHELD = 3  # a row of the same group is a conflict; not booked, nothing is returned


UNBOOKED = {
    Booked.CONFLICT: (RefusalReason.CONFLICT, "the identity holds other content"),
    Booked.WITHHELD: (RefusalReason.REQUEST, "another instance of the request is a conflict"),
}
"""Why a row that was not booked got no answer."""


@dataclass(frozen=True, slots=True)
class Columns:
    """n instances decoded under a contract, in three blocks (see ``Contract.slots``).

    ``floats`` is float64 (n, F) with NaN where null; ``ints`` int64 (n, I) with 0 where
    null; ``texts`` object (n, T) of str, None where null. ``float_nulls`` and
    ``int_nulls`` are bool masks of the same shapes, or None where nothing is null.
    """

    contract: Contract
    floats: Floats
    ints: Ints
    texts: Objects
    float_nulls: Bools | None = None
    int_nulls: Bools | None = None

    def __len__(self) -> int:
        return int(self.floats.shape[0])

    def take(self, rows: slice | NDArray[np.intp] | Bools) -> Columns:
        """The named rows, in the order given."""
        return Columns(
            self.contract,
            self.floats[rows],
            self.ints[rows],
            self.texts[rows],
            None if self.float_nulls is None else self.float_nulls[rows],
            None if self.int_nulls is None else self.int_nulls[rows],
        )

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """The rows of all parts, which share one contract, in the order given."""
        if len(parts) == 1:
            return parts[0]
        masks: list[Bools | None] = []
        for name, block in (("float_nulls", "floats"), ("int_nulls", "ints")):
            held = [getattr(part, name) for part in parts]
            if all(mask is None for mask in held):
                masks.append(None)
                continue
            whole = zip(held, parts, strict=True)
            masks.append(
                np.concatenate([np.zeros(getattr(p, block).shape, bool) if m is None else m for m, p in whole])
            )
        floats, ints, texts = (np.concatenate([getattr(p, b) for p in parts]) for b in ("floats", "ints", "texts"))
        return cls(parts[0].contract, floats, ints, texts, *masks)

    def nulls(self, name: str) -> Bools:
        """Mask (n,) of the rows in which the field is null."""
        block, place = self.contract.slots[name]
        if block is Storage.TEXTS:
            return np.fromiter((v is None for v in self.texts[:, place]), dtype=bool, count=len(self))
        mask = self.float_nulls if block is Storage.FLOATS else self.int_nulls
        return np.zeros(len(self), dtype=bool) if mask is None else mask[:, place]

    def column(self, name: str) -> NDArray[Any]:
        """The field's stored values (n,): float64, int64 or object of str."""
        block, place = self.contract.slots[name]
        array: NDArray[Any] = {Storage.FLOATS: self.floats, Storage.INTS: self.ints, Storage.TEXTS: self.texts}[block]
        return array[:, place]

    def numeric(self, name: str) -> Floats:
        """The field as float64 (n,), NaN where null.

        Closed categories become their zero-based place in the contract's list (an
        unlisted value of an open category becomes NaN); decimals become the nearest
        double, for the model only: the stored value stays exact.
        """
        f = self.contract.by_name[name]
        values = self.column(name)
        if f.storage is Storage.FLOATS:
            return np.asarray(values, dtype=np.float64)
        if f.storage is Storage.INTS:
            numbers = values.astype(np.float64)
            numbers[self.nulls(name)] = np.nan
            return numbers
        if f.type is FieldType.CATEGORY:
            code = {c: float(i) for i, c in enumerate(f.categories)}
            return np.fromiter((code.get(v, np.nan) for v in values), dtype=np.float64, count=len(self))
        if f.type is FieldType.DECIMAL:
            return np.fromiter((np.nan if v is None else float(v) for v in values), dtype=np.float64, count=len(self))
        raise TypeError(f"field {name} is text and has no numeric form")

    def matrix(self) -> Floats:
        """Feature matrix (n, features) as float64, C-contiguous, in contract order."""
        if self.contract.features_are_floats:
            return np.ascontiguousarray(self.floats)
        features = self.contract.features
        out = np.empty((len(self), len(features)), dtype=np.float64)
        for place, f in enumerate(features):
            out[:, place] = self.numeric(f.name)
        return out


@dataclass(frozen=True, slots=True)
class Decoded:
    """Decoding's result: the good instances, where they stood, and what was wrong with the rest.

    ``rows`` (m,) holds the original zero-based position of each good instance among the
    ``received`` ones. A row that has any error is not among them.
    """

    columns: Columns
    rows: NDArray[np.intp]
    received: int
    errors: tuple[FieldError, ...] = ()
    errors_total: int = 0


@dataclass(frozen=True, slots=True)
class Reasons:
    """Largest contributions of features to each score.

    ``fields`` int16 (n, k) are zero-based places in ``Contract.features``, largest
    absolute contribution first; ``values`` float32 (n, k) in the model's margin unit
    (log-odds for a probability). ``present`` (n,) marks the rows that have them.
    """

    fields: NDArray[np.int16]
    values: NDArray[np.float32]
    present: Bools


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to n instances by one model version.

    ``score`` float64 (n,), NaN for none (a fallback always has one); ``outputs`` float64
    (n, k) for vectors and class probabilities; ``classes`` object (n,) of str;
    ``decision`` object (n,) of str or None; ``expected_cost`` float64 (n,), NaN for none.
    ``status`` object (n,) of :class:`Status`.
    """

    status: Objects
    score: Floats
    outputs: Floats | None = None
    classes: Objects | None = None
    decision: Objects | None = None
    expected_cost: Floats | None = None
    reasons: Reasons | None = None

    def __len__(self) -> int:
        return int(self.score.shape[0])

    def take(self, rows: slice | NDArray[np.intp]) -> Answers:
        """The named rows, in the order given."""
        reasons = self.reasons
        return Answers(
            self.status[rows],
            self.score[rows],
            None if self.outputs is None else self.outputs[rows],
            None if self.classes is None else self.classes[rows],
            None if self.decision is None else self.decision[rows],
            None if self.expected_cost is None else self.expected_cost[rows],
            None if reasons is None else Reasons(reasons.fields[rows], reasons.values[rows], reasons.present[rows]),
        )

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """The rows of all parts, which answer under one contract. Reasons are left out where a part has none."""

        def whole(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if any(v is None for v in values) else np.concatenate(values)

        explained = [part.reasons for part in parts if part.reasons is not None]
        reasons = None
        if len(explained) == len(parts):
            reasons = Reasons(
                *(np.concatenate([getattr(r, n) for r in explained]) for n in ("fields", "values", "present"))
            )
        return cls(
            status=whole("status"),
            score=whole("score"),
            outputs=whole("outputs"),
            classes=whole("classes"),
            decision=whole("decision"),
            expected_cost=whole("expected_cost"),
            reasons=reasons,
        )


REQUEST_SOURCE = "request"  # rows whose identity is their caller's idempotency key
UNKEYED_SOURCE = "unkeyed"  # rows that nobody can repeat: their keys are drawn here
EVENT_SOURCE = "event:"  # begins the name of a source whose rows' identity is their event's own id


def claims_each_key(source: str) -> bool:
    """Whether a key of the source stands for one event, whatever moment its repetition names."""
    return source == REQUEST_SOURCE or source.startswith(EVENT_SOURCE)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a batch of instances came from; with a row's key, its identity.

    ``name`` is stable across retries: ``batch:<dataset>``, ``request``, ``kafka:<cluster>/<topic>`` or
    ``event:<cluster>/<topic>``. ``keys`` (one a row, at most 200 characters): row number, idempotency key,
    ``<partition>/<offset>`` (and ``/<place>`` in a record of several) or the event's own id.
    """

    channel: Channel
    name: str
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class Scored:
    """Answers of one model version in one role, ready to be booked."""

    role: Role
    model_version_id: int
    answers: Answers


@dataclass(frozen=True, slots=True)
class Booking:
    """All rows of all versions for one batch of instances: the unit of one commit.

    ``event_time`` datetime64[us] (n,) UTC. ``digests`` are 16 bytes a row over the
    instance's content.
    ``due_day`` datetime64[D] (n,), NaT for "when published"; ``received_at``
    datetime64[us] (n,) UTC; ``steps_us`` int32 (n, 4) are microseconds spent so far in
    (parse, validate, queue, model). ``groups`` int64 (n,), where given, names rows that are
    booked together or not at all: one conflict among them withholds the others. ``claims``: the event
    times are only proposed; where a key was claimed before, its first one counts, and ``due_day`` follows.
    """

    deployment_id: int
    contract_id: int
    source: Source
    columns: Columns
    digests: Sequence[bytes]
    business_keys: Sequence[str]
    event_time: NDArray[np.datetime64]
    due_day: NDArray[np.datetime64]
    received_at: NDArray[np.datetime64]
    scored: Sequence[Scored]
    steps_us: NDArray[np.int32]
    groups: Ints | None = None
    claims: bool = False

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What booking one :class:`Booking` did.

    ``ids`` (n, 16) uint8 and ``booked`` int8 (n,) of :class:`Booked` are the champion's;
    ``answers`` are the champion's as the ledger holds them (first answers for repeats).
    ``batch_id`` is None where nothing new was booked.
    """

    batch_id: int | None
    ids: NDArray[np.uint8]
    booked: NDArray[np.int8]
    answers: Answers
    book_us: int = 0

    @property
    def new(self) -> int:
        """Number of instances booked for the first time."""
        return int((self.booked == Booked.NEW).sum())


@dataclass(frozen=True, slots=True)
class Refusal:
    """One instance that got no answer. Holds no content, only its digest."""

    key: str
    reason: RefusalReason
    detail: str  # codes and field names only
    content_digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refusals of one batch, booked in one commit."""

    deployment_id: int
    source: Source
    event_time: datetime
    received_at: datetime
    rows: Sequence[Refusal]


class OutcomeState(StrEnum):
    """What is said of an outcome."""

    KNOWN = "known"
    RETRACTED = "retracted"  # the source takes back what it said
    CENSORED = "censored"  # the item left observation: no outcome will come


@dataclass(frozen=True, slots=True)
class OutcomeBatch:
    """Real outcomes for one label of one contract name, in no order.

    ``business_keys`` and ``event_days`` (datetime64[D]) (n,) address predictions; exactly
    one of ``numbers`` (float64) and ``texts`` (object of str) holds the values, NaN or None where
    ``states`` (object (n,) of OutcomeState; None: all known) says that there is none.
    ``observed_at`` datetime64[us] (n,): when the fact became known at the source. Where ``said`` (n,) is
    False nobody said so, and it is the moment of recording (None: all were said).
    """

    contract_name: str
    label: str
    source: str
    business_keys: Sequence[str]
    event_days: NDArray[np.datetime64]
    observed_at: NDArray[np.datetime64]
    numbers: Floats | None = None
    texts: Objects | None = None
    states: Objects | None = None
    said: Bools | None = None

    def __len__(self) -> int:
        return len(self.business_keys)


@dataclass(frozen=True, slots=True)
class OutcomeReceipt:
    """What recording did, in rows: the first of an outcome nobody spoke of before, one that changed what is held to be
    true, and all others: known before, or older than what is known."""

    first: int
    revised: int
    unchanged: int

    def __add__(self, other: OutcomeReceipt) -> OutcomeReceipt:
        return OutcomeReceipt(self.first + other.first, self.revised + other.revised, self.unchanged + other.unchanged)


NOTHING_RECORDED = OutcomeReceipt(0, 0, 0)
