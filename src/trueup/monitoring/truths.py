"""Predictions of a window with their outcomes, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from trueup.domain.batch import Bools, Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """n predictions of one version and role.

    ``days`` int64 since 1970; ``scores``, ``costs`` (expected cost) and ``outcomes`` float64, NaN where there is none.
    ``events`` is 1 where the outcome is the event that the probability is about, 0 where it is not, NaN where that is
    not known. ``due`` says that the outcome is due, ``closed`` that none will come (censored, or never). ``keys``
    int64 break ties. ``slices`` are masks by name. ``share`` is the part of the window's rows that these are.
    ``features`` float64 (n, f), NaN where null, are those that were asked for.
    """

    days: Ints
    scores: Floats
    costs: Floats
    outcomes: Floats
    events: Floats
    due: Bools
    closed: Bools
    keys: Ints
    slices: Mapping[str, Bools]
    share: float = 1.0
    features: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def __len__(self) -> int:
        return len(self.days)

    @property
    def known(self) -> Bools:
        """Rows whose outcome is known."""
        return ~np.isnan(self.outcomes) | ~np.isnan(self.events)

    @property
    def expected(self) -> Bools:
        """Rows whose outcome is known, or due and to be expected."""
        return self.known | (self.due & ~self.closed)

    @property
    def maturity(self) -> float | None:
        """Rows due whose outcome is known, over rows due whose outcome is to be expected; None where none is."""
        due = self.due & (self.known | ~self.closed)
        return float((due & self.known).sum() / due.sum()) if due.any() else None

    def where(self, mask: Bools) -> Truth:
        """The rows of the mask (n,)."""
        names = ("days", "scores", "costs", "outcomes", "events", "due", "closed", "keys")
        slices = {name: held[mask] for name, held in self.slices.items()}
        features = self.features[mask] if len(self.features) else self.features
        return replace(self, **{name: getattr(self, name)[mask] for name in names}, slices=slices, features=features)
