"""What a deployment says of how it is measured: against what, over which windows, and what is too much."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum

from trueup.domain.measuring import DriftMetric, Verdict

MOST_SEGMENTS, MOST_BINS = 10, 100


class WindowKind(StrEnum):
    """Days of events that are measured together."""

    DAY = "day"
    WEEK = "week"  # Monday to Sunday
    HALF_MONTH = "half-month"  # 1st to 15th, 16th to the last
    MONTH = "month"


class KnownBy(StrEnum):
    """What makes a fact known at an instant."""

    RECORDED = "recorded"  # the ledger had it by then
    OBSERVED = "observed"  # its source had it by then, for history that is replayed


class Ranking(StrEnum):
    """What the work queue is ordered by, largest first."""

    EXPECTED_COST = "expected_cost"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """What predictions are compared with, frozen when it is complete. Exactly one is given.

    ``training``: columns that somebody hands over (``trueup monitor reference``). ``rows``: the version's first so
    many predictions, by event day. ``days``: those of its first so many event days that hold any. ``first`` and
    ``last``: those of a range of event days, both included.
    """

    training: bool = False
    rows: int | None = None
    days: int | None = None
    first: date | None = None
    last: date | None = None

    def __post_init__(self) -> None:
        between = self.first is not None and self.last is not None
        if (self.first is None) != (self.last is None) or [
            self.training,
            self.rows is not None,
            self.days is not None,
            between,
        ].count(True) != 1:
            raise ValueError("a reference is one of: training, rows, days, or first with last")
        if self.first is not None and self.last is not None and self.first > self.last:
            raise ValueError("a reference's first day is not after its last")
        if any(count is not None and count < 1 for count in (self.rows, self.days)):
            raise ValueError("a reference has at least one row or day")


@dataclass(frozen=True, slots=True)
class Breach:
    """The figure is a breach ``below`` or ``above`` these; what equals one is none."""

    below: float | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        if self.below is None and self.above is None:
            raise ValueError("a breach is below or above a figure")
        if any(bound is not None and not math.isfinite(bound) for bound in (self.below, self.above)):
            raise ValueError("a breach's bound is a finite number")

    def holds(self, value: float) -> bool:
        """Whether the figure is one."""
        return (self.below is not None and value < self.below) or (self.above is not None and value > self.above)

    @property
    def bound(self) -> float:
        """The bound that is shown beside the figure."""
        return self.below if self.below is not None else self.above  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Monitoring:
    """How a deployment is measured.

    ``segments`` are categorical, text or yes/no fields of the contract whose values are measured by themselves, each
    with at least ``smallest_slice`` rows; the reference's ``most_slices`` largest are. ``top_k`` a day is the length
    of the work queue, ordered by ``rank_by`` (None: by expected cost where the contract has one, else by score).
    Drift is called where chance explains it with probability below ``alpha`` after correction *and* the distance is
    at least its floor, of features but those in ``unjudged``: a figure of the whole market, say, has one value a day,
    so that ten days are ten values however many rows there are. ``metrics`` names those that are kept; none: all.
    """

    reference: ReferenceRows = field(default_factory=lambda: ReferenceRows(rows=10_000))
    windows: tuple[WindowKind, ...] = (WindowKind.DAY,)
    bins: int = 10
    segments: tuple[str, ...] = ()
    smallest_slice: int = 200
    most_slices: int = 20
    top_k: int = 100
    rank_by: Ranking | None = None
    maturity_floor: float = 0.95
    alpha: float = 0.01
    floors: dict[str, float] = field(default_factory=dict)
    breaches: dict[str, Breach] = field(default_factory=dict)
    late_after_days: int = 1
    unjudged: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.windows or len(set(self.windows)) != len(self.windows):
            raise ValueError("monitoring has at least one kind of window, each once")
        if not 2 <= self.bins <= MOST_BINS:
            raise ValueError(f"monitoring has 2 to {MOST_BINS} bins")
        if len(self.segments) > MOST_SEGMENTS or len(set(self.segments)) != len(self.segments):
            raise ValueError(f"monitoring has at most {MOST_SEGMENTS} segments, each once")
        if min(self.smallest_slice, self.top_k, self.most_slices) < 1 or self.late_after_days < 0:
            raise ValueError("sizes of slices and of the work queue are at least 1")
        if not (0 < self.maturity_floor <= 1 and 0 < self.alpha < 1):
            raise ValueError("maturity_floor and alpha are shares")
        if set(self.floors) - set(DriftMetric) or any(not (math.isfinite(f) and f >= 0) for f in self.floors.values()):
            raise ValueError(f"floors are numbers of at least 0 for {', '.join(DriftMetric)}")

    def keeps(self, metric: str) -> bool:
        """Whether the deployment wants this metric; the bare name stands for its estimate and its difference too."""
        bare = metric.removeprefix("estimated_").removeprefix("challenger_").removesuffix("_difference")
        return not self.metrics or metric in self.metrics or bare in self.metrics


@dataclass(frozen=True, slots=True)
class Window:
    """Event days from ``first`` to ``last``, both included."""

    kind: WindowKind
    first: date
    last: date


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure of a window, of one version in one role. ``field`` and ``slice`` are '' where they do not apply.

    ``low`` and ``high`` are the confidence interval; of a provisional figure the bounds that missing outcomes leave.
    ``critical`` is what chance alone exceeds with probability alpha; ``floor`` from where on the figure matters.
    """

    model_version_id: int
    role: str
    metric: str
    value: float | None
    n: int
    field: str = ""
    slice: str = ""
    low: float | None = None
    high: float | None = None
    reference_n: int | None = None
    critical: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    floor: float | None = None
    verdict: Verdict | None = None
    maturity: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One measuring of a window with the knowledge of an instant."""

    deployment_id: int
    window: Window
    known_at: datetime
    known_by: KnownBy
    started_at: datetime
    duration_ms: int = 0
    rows_read: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """When the last outcome of an event day became known, and when it was recorded."""

    known_at: datetime
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class MeasurementFilter:
    """What to list: all given conditions must hold. ``at`` lists what was known then, the latest of each figure;
    ``history`` lists all that was ever known."""

    deployment: str
    metric: str | None = None
    field: str | None = None
    slice: str | None = None
    role: str | None = None
    verdict: str | None = None
    window_kind: str | None = None
    first: date | None = None
    last: date | None = None
    at: datetime | None = None
    known_by: KnownBy = KnownBy.RECORDED
    history: bool = False
    limit: int = 1_000
