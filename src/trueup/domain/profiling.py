"""The frozen reference of one model version, and what is counted with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from trueup.domain.batch import Ints
from trueup.domain.measuring import Profile

SCORE = "score"  # the name under which answers are profiled beside the features
ROWS = ""  # the field of counts of rows themselves


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """Profiles by (field, slice); the slice of all rows is ''. A slice has the bins of its field, and its own counts.

    ``origin`` says in words what it was made of; ``first`` and ``last`` are its event days, None where it is of none.
    """

    profiles: Mapping[tuple[str, str], Profile]
    origin: str
    first: date | None = None
    last: date | None = None

    @property
    def fields(self) -> dict[str, Profile]:
        """The profile of every field over all rows."""
        return {name: profile for (name, slice_), profile in self.profiles.items() if not slice_}

    @property
    def slices(self) -> tuple[str, ...]:
        """Names of slices, ``segment=value``, without that of all rows."""
        return tuple(sorted({slice_ for _, slice_ in self.profiles if slice_}))


@dataclass(slots=True, eq=False)
class Counted:
    """What was counted of one field: rows in each bin (bins,), and the extremes; of ``ROWS`` ``counts`` is empty.

    ``out_of_range``, ``unseen`` and ``missing`` rows are among ``n``; ``late`` is of ``ROWS`` alone.
    """

    counts: Ints
    n: int = 0
    missing: int = 0
    out_of_range: int = 0
    unseen: int = 0
    late: int = 0
    lowest: float = field(default=float("inf"))
    highest: float = field(default=float("-inf"))

    def add(self, other: Counted) -> None:
        """The rows of both together."""
        self.counts = self.counts + other.counts
        for name in ("n", "missing", "out_of_range", "unseen", "late"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)

    @classmethod
    def of(cls, profile: Profile, counts: Ints, lowest: float = np.inf, highest: float = -np.inf) -> Counted:
        """Counts (bins,) of a profile's bins, and what follows from them."""
        return cls(
            counts,
            int(counts.sum()),
            profile.missing(counts),
            profile.outside(counts),
            profile.unseen(counts),
            lowest=lowest,
            highest=highest,
        )

    @property
    def is_constant(self) -> bool:
        """Whether all rows that have a value have the same one."""
        present = self.n - self.missing
        return present > 1 and (self.lowest == self.highest or (int(np.count_nonzero(self.counts[1:])) == 1
                                and self.lowest > self.highest))  # fmt: skip


@dataclass(frozen=True, slots=True)
class CountKey:
    """Of what a count is."""

    event_day: date
    role: str
    field: str
    slice: str
