"""What is measured of predictions: profiles of fields, distances between them, estimates and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Floats, Ints


class ProfileKind(StrEnum):
    """How a field's values are binned."""

    NUMERIC = "numeric"
    CATEGORY = "category"


class DriftMetric(StrEnum):
    """A distance between the reference's counts and a window's."""

    PSI = "psi"
    JS_DISTANCE = "js_distance"
    CHI_SQUARE = "chi_square"
    L_INFINITY = "l_infinity"
    KS = "ks"  # of ordered bins
    WASSERSTEIN = "wasserstein"  # of ordered bins


ORDERED = frozenset({DriftMetric.KS, DriftMetric.WASSERSTEIN})  # what only a numeric profile has


class Verdict(StrEnum):
    """What a measurement says."""

    OK = "ok"
    DRIFT = "drift"  # real, and large enough to look at
    BREACH = "breach"  # real, and large enough to act on; of a performance: beyond its floor
    PROVISIONAL = "provisional"  # too few labels are in: the figure will move
    INSUFFICIENT = "insufficient"  # too few rows to say anything


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """One field's bins, frozen from a reference, and how many of its rows fell into each.

    The bins of a numeric field are, in order: ``missing``, ``below``, one for each interval between ``edges``, and
    ``above``. Interval i is [edges[i], edges[i + 1]). What is below lies beneath the reference's minimum, or is that
    minimum if just one row of the reference has it; and so with ``above``. A value that is tied often, or one of a
    few distinct ones, has an interval of its own, [value, next double).

    The bins of a category are: ``missing``, one for each of the most frequent categories, ``other`` (less frequent),
    ``rare`` (so rare that a reference taken again would have others in their place) and ``unseen`` (none of
    ``categories``).

    PSI, JS distance, chi-square and L-infinity are taken of *groups* of bins, about ten: ``groups`` holds each
    bin's. KS and Wasserstein are taken of the bins themselves, without ``missing``.

    Counts of the same profile add up: those of two windows together are the sum of both.
    """

    kind: ProfileKind
    names: tuple[str, ...]  # of the bins (bins,)
    counts: Ints  # (bins,) rows of the reference
    groups: Ints  # (bins,) the group of each bin, from 0
    group_names: tuple[str, ...]
    edges: Floats  # (intervals + 1,), empty for a category
    categories: tuple[str, ...] = ()  # all that are known, most frequent first
    places: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # (categories,) the bin of each
    mean: float = 0.0  # of the reference's finite values, 0 for a category
    deviation: float = 0.0  # their standard deviation, of the population
    low: float = 0.0  # the range in which values are held for Wasserstein: without the outermost half percent of
    high: float = 0.0  # the reference on either side, so that its own wild values count for little too
    scale: float = 0.0  # standard deviation of the reference's values held so

    @property
    def n(self) -> int:
        """Rows of the reference."""
        return int(self.counts.sum())

    @property
    def distinct(self) -> bool:
        """Whether each value of the reference has a bin of its own, so that a value between two of them is unseen."""
        return self.kind is ProfileKind.CATEGORY or "unseen" in self.group_names

    def grouped(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Counts (..., bins) summed by group (..., groups)."""
        belongs = self.groups[:, None] == np.arange(len(self.group_names))
        summed: NDArray[Any] = counts @ belongs.astype(counts.dtype)
        return summed

    def ordered(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Counts (..., bins) of a numeric field without its missing values (..., bins - 1), lowest bin first."""
        return counts[..., 1:]

    @property
    def held_edges(self) -> Floats:
        """The edges (intervals + 1,) as they are for Wasserstein: those outside ``low`` and ``high`` lie on these."""
        return np.clip(self.edges, self.low, self.high)

    def missing(self, counts: Ints) -> int:
        """How many of the rows counted have no value."""
        return int(counts[0])

    def outside(self, counts: Ints) -> int:
        """How many of the rows counted are below or above; 0 for a category."""
        return int(counts[1] + counts[-1]) if self.kind is ProfileKind.NUMERIC else 0

    def unseen(self, counts: Ints) -> int:
        """How many of the rows counted have a value that the reference has not, though it lies within its range."""
        if self.kind is ProfileKind.CATEGORY:
            return int(counts[-1])
        return int(counts[self.groups == self.group_names.index("unseen")].sum()) if self.distinct else 0

    def constant(self, counts: Ints) -> bool:
        """Whether all rows counted lie in one bin."""
        return bool(np.count_nonzero(counts) == 1)

    def document(self) -> dict[str, Any]:
        """The profile as plain values that JSON keeps exactly; ``Profile.read`` is its inverse."""
        return {
            "kind": self.kind.value,
            "names": list(self.names),
            "counts": self.counts.tolist(),
            "groups": self.groups.tolist(),
            "group_names": list(self.group_names),
            "edges": self.edges.tolist(),
            "categories": list(self.categories),
            "places": self.places.tolist(),
            "mean": self.mean,
            "deviation": self.deviation,
            "low": self.low,
            "high": self.high,
            "scale": self.scale,
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Profile:
        """The profile that ``document()`` told of."""
        return cls(
            kind=ProfileKind(document["kind"]),
            names=tuple(document["names"]),
            counts=np.array(document["counts"], np.int64),
            groups=np.array(document["groups"], np.int64),
            group_names=tuple(document["group_names"]),
            edges=np.array(document["edges"], np.float64),
            categories=tuple(document["categories"]),
            places=np.array(document["places"], np.int64),
            mean=float(document["mean"]),
            deviation=float(document["deviation"]),
            low=float(document["low"]),
            high=float(document["high"]),
            scale=float(document["scale"]),
        )


@dataclass(frozen=True, slots=True)
class DriftScore:
    """A distance between a window and its reference, and what chance alone would make of it.

    ``critical`` is what the distance exceeds with probability alpha where nothing has changed, ``p_value`` how
    probable a distance as large is then. ``effect`` is what does not grow with the rows: Cramér's V for chi-square,
    otherwise the value itself; it matters from ``floor`` on, and much from ``severe`` on. A distance that cannot be
    taken (no rows on one side) is None, with everything that follows from it.
    """

    metric: DriftMetric
    value: float | None
    effect: float | None
    critical: float | None
    p_value: float | None
    floor: float
    n: int  # rows of the window that count
    reference_n: int
    severe: float | None = None
    subject: str = ""  # the field, or ``score``


@dataclass(frozen=True, slots=True)
class Floor:
    """From which effect on a distance matters (drift), and from which on much (breach)."""

    effect: float
    severe: float | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A distance with its verdict: ``q_value`` is its p-value after correction for all that were judged together."""

    score: DriftScore
    q_value: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its confidence interval and how many rows it rests on. None: it cannot be had from these rows."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Better(StrEnum):
    """Which of two versions a comparison favours."""

    CHALLENGER = "challenger"
    CHAMPION = "champion"
    UNDECIDED = "undecided"  # the interval holds both


@dataclass(frozen=True, slots=True)
class Difference:
    """Challenger's figure less the champion's on the same rows, with its interval and how probable one as large is
    where both are equally good.
    """

    metric: str
    value: float | None
    low: float | None
    high: float | None
    p_value: float | None
    n: int
    better: Better
