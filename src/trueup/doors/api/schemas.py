"""What travels over HTTP. Requests are read by msgspec, so that instances reach the contract's
decoder as the bytes that were sent; the pydantic models describe them in the OpenAPI document."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from trueup.domain.batch import Channel, OutcomeState, Role, Status
from trueup.domain.deployment import Runtime
from trueup.domain.measuring import Verdict
from trueup.domain.monitoring import KnownBy, WindowKind

Key = Annotated[str, msgspec.Meta(min_length=1)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$")]
Version = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$")]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class ScoreRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One instance or many; which, the fields tell."""

    instance: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    key: Key | None = None
    event_time: Moment | None = None
    instances: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    keys: list[Key] | None = None
    event_times: list[Moment] | None = None
    reasons: bool = False


class OutcomesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Real outcomes under one contract name."""

    contract: Name
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    outcomes: msgspec.Raw
    label: Name | None = None
    state: OutcomeState | None = None
    all_or_none: bool = True


class ActionGiven(msgspec.Struct, forbid_unknown_fields=True):
    """What was done about one item."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    action: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    business_key: Annotated[str, msgspec.Meta(max_length=2_000)] | None = None
    event_day: date | None = None
    prediction_id: UUID | None = None
    reason: Annotated[str, msgspec.Meta(max_length=2_000)] = ""
    actor: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    acted_at: Moment | None = None
    is_treatment: bool = True


class ActionsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What was done about items of one deployment."""

    deployment: Name
    actions: list[ActionGiven]


class ArtifactReference(msgspec.Struct, forbid_unknown_fields=True):
    """A model that the server's store holds already."""

    runtime: Runtime
    digest: Digest


class DeployRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A version and the part it plays. ``contract`` is YAML text or the same as an object."""

    name: Name
    version: Version
    contract: str | dict[str, Any]
    artifacts: Annotated[list[ArtifactReference], msgspec.Meta(min_length=1, max_length=5)]
    role: Role = Role.CHAMPION
    serving: dict[str, Any] | None = None
    libraries: Annotated[dict[str, str], msgspec.Meta(max_length=100)] = {}


class _Documented(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FieldFault(_Documented):
    """Why one field is refused."""

    row: int = Field(description="zero-based place of the instance in the request")
    field: str
    code: str = Field(description="missing, unexpected, null, type, range, category, nan, infinity, precision, ...")
    expected: str


class ErrorBody(_Documented):
    """What went wrong and what to do about it."""

    code: str
    message: str
    next_step: str
    fields: list[FieldFault] | None = None


class ErrorAnswer(_Documented):
    """The shape of every error."""

    error: ErrorBody


class Reason(_Documented):
    """One feature's contribution to the score, in the model's margin unit (log-odds for a probability)."""

    field: str
    contribution: float


class Answer(_Documented):
    """One prediction, as the ledger holds it."""

    prediction_id: str
    status: str = Field(description="scored, abstained or fallback")
    score: float | None
    class_: str | None = Field(None, alias="class")
    outputs: list[float | None] | None = None
    decision: str | None
    expected_cost: float | None
    repeated: bool = Field(description="the identity was answered before; this is its first answer")
    reasons: list[Reason] | None = Field(None, description="with `reasons: true`, for a first answer")


class RowAnswer(Answer):
    """An answer and the row it belongs to."""

    row: int


class RowRefused(_Documented):
    """Why one row got no answer."""

    row: int
    key: str
    reason: str = Field(description="contract, failed, conflict, ...")
    detail: str
    fields: list[FieldFault]


class BatchAnswer(_Documented):
    """Answers in the order of the rows; refused rows are listed apart. received = answered + refused."""

    deployment: str
    received: int
    answered: int
    results: list[RowAnswer]
    refused: list[RowRefused]


class OutcomeRefused(_Documented):
    """Why one row was not recorded."""

    row: int
    fields: list[FieldFault]


class OutcomesAnswer(_Documented):
    """What recording did. received = first + revised + unchanged + refused, of a contract with one label."""

    first: int = Field(description="the first that was said of an outcome")
    revised: int = Field(description="changed what is held to be true")
    unchanged: int = Field(description="said before, or older than what is known")
    refused: list[OutcomeRefused] = Field([], description="with `all_or_none: false`, in the order of the rows")


class ActionsAnswer(_Documented):
    """What recording actions did."""

    added: int
    repeated: int


class Health(_Documented):
    """Whether the server works."""

    status: str
    checks: dict[str, bool] = {}
    deployments: dict[str, int] = Field({}, description="of this process: loaded, behind their newest revision, failed")


class ModelInMemory(_Documented):
    """One model of one deployment; ``memory_bytes`` estimates what it takes: by how much the process grew."""

    deployment: str
    revision: int
    role: Role
    model: str
    version: str
    loaded: bool
    memory_bytes: int
    loaded_at: datetime | None


class Worker(_Documented):
    """One process of the server."""

    worker: int
    pid: int
    started_at: datetime
    uptime_s: float
    rss_bytes: int
    ready: bool
    deployments: dict[str, int]
    models: list[ModelInMemory]


class ServerAnswer(_Documented):
    """All processes behind this port."""

    workers: list[Worker]


class ContractName(_Documented):
    """Which contract a version keeps."""

    name: str
    version: int
    digest: str = Field(description="SHA-256 (hex) of its meaning")


class Artifact(_Documented):
    """One file of a model."""

    runtime: str
    digest: str = Field(description="SHA-256 (hex)")


class Parity(_Documented):
    """How far two runtimes of one model differ."""

    reference: str
    other: str
    rows: int
    max_difference: float | None
    switch_at: int = Field(description="batch size from which `other` answers; 0: never")


class DeployedVersion(_Documented):
    """A version of a model."""

    name: str
    version: str
    contract: ContractName
    artifacts: list[Artifact]
    parity: list[Parity]
    libraries: dict[str, str]


class DeploymentAnswer(_Documented):
    """What answers under a name now."""

    name: str
    revision: int
    champion: DeployedVersion
    challengers: list[DeployedVersion]
    shadows: list[DeployedVersion]
    serving: dict[str, Any] = Field(description="see the reference of `trueup deploy --serving`")
    deployed_at: datetime | None
    deployed_by: str


class LoadFailure(_Documented):
    """Why a process could not load the newest revision, and when it tries again."""

    revision: int
    message: str
    attempts: int
    retry_in_s: float


class DeploymentState(DeploymentAnswer):
    """What answers under a name now, and how far the process that was asked is with it."""

    serving_revision: int | None = Field(description="the revision it answers with; null: none is loaded")
    load_failure: LoadFailure | None


class DeploymentsAnswer(_Documented):
    """Every deployment that the caller may read."""

    deployments: list[DeploymentAnswer]


class ContractAnswer(_Documented):
    """A contract as plain JSON values."""

    digest: str = Field(description="SHA-256 (hex) of its meaning")
    contract: dict[str, Any]


class PredictionSummary(_Documented):
    """One line of a listing."""

    prediction_id: str
    event_time: datetime
    deployment: str
    model_version: str
    role: Role
    status: Status
    business_key: str | None
    score: float | None
    class_: str | None = Field(alias="class")
    decision: str | None
    expected_cost: float | None
    booked_at: datetime


class PredictionsAnswer(_Documented):
    """Newest events first."""

    predictions: list[PredictionSummary]


class Steps(_Documented):
    """Microseconds of each step."""

    parse: int
    validate_: int = Field(alias="validate")
    queue: int
    model: int
    book: int = Field(description="from the last step to the commit's start at the database, by two hosts' clocks")


class PredictionAnswer(PredictionSummary):
    """Everything about one prediction."""

    channel: Channel
    source: str
    source_key: str
    event_day: date
    outputs: list[float | None] | None
    due_day: date | None = Field(description="when the outcome is due; null: when published")
    received_at: datetime
    contract: str
    contract_version: int
    contract_digest: str
    batch_id: int
    content_digest: str
    steps_us: Steps
    fields: dict[str, Any] = Field(description="the instance, by the contract's names")
    reasons: list[Reason]
    outcome: float | str | None = Field(description="what really happened; null as long as nobody said")
    outcome_known_at: datetime | None
    outcome_revision: int | None


class ReportParameter(_Documented):
    """A value that a report takes."""

    name: str
    type: str
    required: bool
    default: str | None
    description: str


class ReportAnswer(_Documented):
    """A report that can be run."""

    name: str
    title: str
    audience: str
    description: str
    parameters: list[ReportParameter]
    queries: list[str]
    schedule: str
    formats: list[str]
    digest: str


class ReportsAnswer(_Documented):
    """All reports."""

    reports: list[ReportAnswer]


class ReportColumn(_Documented):
    """A column of figures."""

    name: str
    kind: str


class ReportRowsAnswer(_Documented):
    """Rows of one query, a list of values each, in the order of its columns."""

    title: str
    digest: str
    columns: list[ReportColumn]
    rows: list[list[Any]]
    is_cut: bool


class ReportRunAnswer(_Documented):
    """A run of a report: of what, knowing what, for whom; ``queries`` are its figures."""

    run_id: int
    name: str
    title: str
    audience: str
    description: str
    parameters: dict[str, Any]
    as_known_at: datetime
    known_by: str
    asked_by: str
    due_at: datetime | None
    started_at: datetime
    duration_ms: int
    file_digest: str
    row_counts: dict[str, int]
    is_cut: bool
    error: str | None
    queries: dict[str, ReportRowsAnswer] | None = None


class ReportRunLine(_Documented):
    """A run in a list."""

    run_id: int
    name: str
    title: str
    as_known_at: datetime
    known_by: str
    asked_by: str
    due_at: datetime | None
    started_at: datetime
    duration_ms: int
    row_counts: dict[str, int]
    is_cut: bool
    error: str | None
    parameters: dict[str, Any]
    file_digest: str


class ReportRunsAnswer(_Documented):
    """Runs, the latest first."""

    runs: list[ReportRunLine]


class Measurement(_Documented):
    """One figure of a window of event days."""

    measurement_id: int
    deployment: str
    model_version: str
    role: Role
    metric: str
    field: str = Field(description="a feature, or `score`; empty where it does not apply")
    slice: str = Field(description="FIELD=VALUE; empty for all rows")
    window_kind: WindowKind
    window_first: date
    window_last: date
    known_at: datetime = Field(description="the instant whose knowledge the figure is made of")
    known_by: KnownBy
    value: float | None
    low: float | None = Field(description="with high the interval, or of a provisional figure its bounds")
    high: float | None
    n: int
    reference_n: int | None
    critical: float | None = Field(description="what chance alone exceeds with probability alpha")
    p_value: float | None
    q_value: float | None = Field(description="the p-value corrected for all that were judged together")
    floor: float | None = Field(description="from where on the figure matters")
    verdict: Verdict | None
    maturity: float | None = Field(description="share of the outcomes due that are known")
    assumes: str | None = Field(description="what an estimate rests on, which outcomes to come may contradict")
    computed_at: datetime
    run_id: int


class MeasurementsAnswer(_Documented):
    """Latest windows first."""

    measurements: list[Measurement]
