"""Counting rows into the bins of their reference, a block at a time."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.domain.batch import Floats
from trueup.domain.profiling import ROWS, Counted, CountKey, References
from trueup.monitoring.binning import counts
from trueup.monitoring.copied import Rows
from trueup.monitoring.selecting import ROLES, Selection

_EPOCH = date(1970, 1, 1)
_NOTHING = np.zeros(0, np.int64)


class Tally:
    """What was counted so far, by event day, role, field and slice."""

    def __init__(self, references: References, selection: Selection) -> None:
        self._profiles, self._selection = references.fields, selection
        self.counted: dict[CountKey, Counted] = {}
        self.rows = 0

    def add(self, rows: Rows) -> None:
        """Counts a block of rows."""
        self.rows += len(rows)
        floats = np.ascontiguousarray(rows.floats.T)  # a field's values side by side
        group = rows.columns["day"].astype(np.int64) * len(ROLES) + rows.columns["role"]
        first, last = group.min(), group.max()
        if first == last:
            self._add_day(int(first), rows.columns, floats)
            return
        for number in np.unique(group).tolist():
            among = np.flatnonzero(group == number)
            self._add_day(number, {name: c[among] for name, c in rows.columns.items()}, floats[:, among])

    def _add_day(self, number: int, columns: dict[str, NDArray[Any]], floats: Floats) -> None:
        day, role = _EPOCH + timedelta(days=number // len(ROLES)), ROLES[number % len(ROLES)]
        self._add_slice(day, role, "", columns, floats)
        for segment, slices in self._selection.segments:
            codes = columns[f"slice of {segment}"]
            for code in np.unique(codes).tolist():
                if code:
                    among = np.flatnonzero(codes == code)
                    part = {name: c[among] for name, c in columns.items()}
                    self._add_slice(day, role, slices[code - 1], part, floats[:, among])

    def _add_slice(self, day: date, role: str, slice_: str, columns: dict[str, NDArray[Any]], floats: Floats) -> None:
        n, late = len(columns["day"]), int(columns["late"].sum())
        self._add(CountKey(day, role, ROWS, slice_), Counted(_NOTHING, n, late=late))
        for name in self._selection.categories:
            profile = self._profiles[name]
            held = np.bincount(columns[name], minlength=len(profile.names)).astype(np.int64)
            self._add(CountKey(day, role, name, slice_), Counted.of(profile, held))
        values = [(name, columns[name]) for name in self._selection.numeric]
        for name, column in [*values, *((name, floats[place]) for name, place in self._selection.floats)]:
            profile = self._profiles[name]
            lowest, highest = float(np.fmin.reduce(column)), float(np.fmax.reduce(column))
            found = Counted.of(profile, counts(profile, column))
            if lowest == lowest:  # not all missing
                found.lowest, found.highest = lowest, highest
            self._add(CountKey(day, role, name, slice_), found)

    def _add(self, key: CountKey, counted: Counted) -> None:
        known = self.counted.get(key)
        if known is None:
            self.counted[key] = counted
        else:
            known.add(counted)
