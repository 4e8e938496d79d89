"""Which model versions answer under one name, and how."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from trueup.domain.contract import Contract
from trueup.domain.monitoring import Monitoring
from trueup.domain.stream import Stream


class Runtime(StrEnum):
    """What executes a model version."""

    ONNX = "onnx"
    XGBOOST = "xgboost"
    LIGHTGBM = "lightgbm"
    SKLEARN = "sklearn"  # skops file
    PICKLE = "pickle"  # only by allowed digest
    PYFUNC = "pyfunc"  # any MLflow flavour
    PYTHON = "python"  # a plain function, `module:attribute`


class Mode(StrEnum):
    """When a caller is answered."""

    DURABLE = "durable"  # after the ledger committed
    SPOOLED = "spooled"  # after a local fsync


class ReplayGrade(StrEnum):
    """How equal a replayed score must be."""

    BITWISE = "bitwise"
    TOLERANCE = "tolerance"
    RECORD_ONLY = "record-only"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file (or folder) that one runtime can load. ``digest`` is SHA-256 hex of its bytes."""

    runtime: Runtime
    uri: str
    digest: str


@dataclass(frozen=True, slots=True)
class Parity:
    """Largest difference between two runtimes of one model on ``rows`` rows, and their speed.

    ``switch_at`` is the batch size from which ``other`` is the faster one (0: never).
    """

    reference: Runtime
    other: Runtime
    rows: int
    max_difference: float
    switch_at: int


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable version of a model. The first artifact is the reference for parity."""

    name: str
    version: str
    artifacts: tuple[Artifact, ...]
    contract: Contract
    libraries: tuple[tuple[str, str], ...] = ()  # (library, version) at training
    parity: tuple[Parity, ...] = ()
    model_version_id: int | None = None
    contract_id: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 hex over what makes a version that version: its contract and its artifacts' digests."""
        parts = [self.contract.digest, *(f"{a.runtime}:{a.digest}" for a in self.artifacts)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Fallback:
    """The rule that answers when the model or a required feature is missing.

    ``field`` names the feature the rule reads; the answer is ``low`` where it is null or
    below ``threshold``, else ``high`` (persistence: "failed yesterday, fails tomorrow").
    """

    field: str
    threshold: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Untreated:
    """The slice of items that is left alone, so that it stays visible what happens when nothing is done.

    An item is in it by a hash of its business key under ``salt``: at random, for whoever asks about the item and
    however often, and found again by anyone who knows both. Another salt draws another slice.
    """

    share: float  # of all items, in (0, 0.5]
    salt: str

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise ValueError("the untreated share lies above 0 and is at most 0.5")
        if not 1 <= len(self.salt.encode()) <= 64:
            raise ValueError("the salt of the untreated slice has 1 to 64 bytes")


@dataclass(frozen=True, slots=True)
class Serving:
    """How a deployment answers; every bound of the scoring path that is the deployment's own."""

    mode: Mode = Mode.DURABLE
    replay_grade: ReplayGrade = ReplayGrade.BITWISE
    tolerance: float = 0.0
    threads: int = 1  # of each model runtime
    reason_codes: int = 5  # contributions kept a row; 0 for none
    required: tuple[str, ...] = ()  # nullable features without which the fallback answers
    fallback: Fallback | None = None
    allowed_pickles: tuple[str, ...] = ()  # SHA-256 hex digests
    stream: Stream | None = None  # the topic it answers, beside every other door
    outcomes: Stream | None = None  # the topic its outcomes arrive on
    monitoring: Monitoring | None = None  # how it is measured; None: it is not
    untreated: Untreated | None = None  # the slice of items that is left alone

    def __post_init__(self) -> None:
        if self.stream is not None and self.outcomes is not None and self.stream.topic == self.outcomes.topic:
            raise ValueError("instances and outcomes arrive on topics of their own")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A name that answers. One revision of it; revisions are only ever added."""

    name: str
    champion: ModelVersion
    challengers: tuple[ModelVersion, ...] = ()
    shadows: tuple[ModelVersion, ...] = ()
    serving: Serving = field(default_factory=Serving)
    revision: int = 1
    deployment_id: int | None = None
    deployed_at: datetime | None = None
    deployed_by: str = ""

    def says_the_same_as(self, other: Deployment) -> bool:
        """Whether both name the same versions in the same roles and serve them alike."""
        mine, theirs = (
            (d.champion.model_version_id, *([v.model_version_id for v in vs] for vs in (d.challengers, d.shadows)))
            for d in (self, other)
        )
        return mine == theirs and self.serving == other.serving
