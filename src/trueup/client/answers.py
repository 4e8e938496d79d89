"""What the server answers, as frozen records. Fields that a later server adds are passed over.

Numbers are exact: int64 is int, and a decimal field's value is its text, as the contract writes it.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, rename={"class_": "class"}):
    """Root of the records."""


class Reason(Record, frozen=True, kw_only=True):
    """One feature's contribution to the score, in the model's margin unit (log-odds for a probability)."""

    field: str
    contribution: float


class Answer(Record, frozen=True, kw_only=True):
    """One prediction, booked. ``repeated``: its key was answered before, and this is that first answer."""

    prediction_id: str
    status: str
    score: float | None = None
    class_: str | None = None
    outputs: tuple[float | None, ...] | None = None
    decision: str | None = None
    expected_cost: float | None = None
    repeated: bool = False
    reasons: tuple[Reason, ...] | None = None


class RowAnswer(Answer, frozen=True, kw_only=True):
    """The answer to one of many instances; ``row`` is its zero-based place."""

    row: int


class FieldFault(Record, frozen=True, kw_only=True):
    """Why one field of one instance is refused."""

    row: int
    field: str
    code: str
    expected: str


class RowRefused(Record, frozen=True, kw_only=True):
    """Why one of many instances got no answer."""

    row: int
    key: str
    reason: str
    detail: str = ""
    fields: tuple[FieldFault, ...] = ()


class Answers(Record, frozen=True, kw_only=True):
    """Of many instances: what was answered, in the order of the rows, and what was refused."""

    deployment: str
    received: int
    answered: int
    results: tuple[RowAnswer, ...]
    refused: tuple[RowRefused, ...]


class PredictionSummary(Record, frozen=True, kw_only=True):
    """One line of a listing of predictions."""

    prediction_id: str
    deployment: str
    event_time: datetime
    status: str
    model_version: str | None = None
    role: str | None = None
    business_key: str | None = None
    score: float | None = None
    class_: str | None = None
    decision: str | None = None
    expected_cost: float | None = None
    booked_at: datetime | None = None


class Prediction(PredictionSummary, frozen=True, kw_only=True):
    """Everything about one prediction. ``fields``: plain JSON values by name; ``steps_us``: microseconds a step.

    ``outcome`` is what really happened, None as long as nobody said.
    """

    event_day: date
    fields: dict[str, Any]
    reasons: tuple[Reason, ...] = ()
    outputs: tuple[float | None, ...] | None = None
    channel: str | None = None
    source: str | None = None
    source_key: str | None = None
    due_day: date | None = None
    received_at: datetime | None = None
    contract: str | None = None
    contract_version: int | None = None
    contract_digest: str | None = None
    content_digest: str | None = None
    batch_id: int | None = None
    steps_us: dict[str, int | None] = {}
    outcome: float | str | None = None
    outcome_known_at: datetime | None = None
    outcome_revision: int | None = None


class ContractName(Record, frozen=True, kw_only=True):
    """Which contract a version keeps."""

    name: str
    version: int
    digest: str


class Artifact(Record, frozen=True, kw_only=True):
    """One file of a model."""

    runtime: str
    digest: str


class Version(Record, frozen=True, kw_only=True):
    """A version of a model."""

    name: str
    version: str
    contract: ContractName
    artifacts: tuple[Artifact, ...] = ()
    libraries: dict[str, str] = {}


class Deployment(Record, frozen=True, kw_only=True):
    """What answers under a name now. ``serving``: how, as ``trueup deploy --serving`` takes it."""

    name: str
    revision: int
    champion: Version
    challengers: tuple[Version, ...] = ()
    shadows: tuple[Version, ...] = ()
    serving: dict[str, Any] = {}
    deployed_at: datetime | None = None
    deployed_by: str | None = None


class LoadFailure(Record, frozen=True, kw_only=True):
    """Why a process could not load the newest revision, and when it tries again."""

    revision: int
    message: str
    attempts: int = 0
    retry_in_s: float = 0.0


class DeploymentState(Deployment, frozen=True, kw_only=True):
    """A deployment, and how far the process that was asked is with it.

    ``serving_revision`` is what it answers with, None where none is loaded; ``load_failure`` why not the newest.
    """

    serving_revision: int | None = None
    load_failure: LoadFailure | None = None


class Contract(Record, frozen=True, kw_only=True):
    """A contract as plain JSON values, and the SHA-256 (hex) of its meaning."""

    digest: str
    contract: dict[str, Any]


class OutcomeRefused(Record, frozen=True, kw_only=True):
    """Why one of many outcomes was not recorded."""

    row: int
    fields: tuple[FieldFault, ...] = ()


class OutcomesReceipt(Record, frozen=True, kw_only=True):
    """What recording outcomes did; ``refused`` only where what fits was to be recorded."""

    first: int
    revised: int
    unchanged: int
    refused: tuple[OutcomeRefused, ...] = ()


class ActionsReceipt(Record, frozen=True, kw_only=True):
    """What recording actions did."""

    added: int
    repeated: int


class Health(Record, frozen=True, kw_only=True):
    """How the server is: live, ready, not ready, draining, or unreachable.

    ``checks``: what it depends on; ``deployments``: how many are loaded, behind their newest revision, failed.
    """

    status: str
    checks: dict[str, bool] = {}
    deployments: dict[str, int] = {}

    @property
    def good(self) -> bool:
        """Whether it can be asked."""
        return self.status in ("live", "ready")
