"""Features from what was known at a moment: one function for training, replay and live scoring.

An event is described by its own row and by the record of its group, category and so on: how
their incidents that were closed before today turned out. Nothing later is looked at, and the
columns that were filled in afterwards are not even read (``files``).

A record is an *excess*: each closed incident counts as missed (1 or 0) less the share of missed
among all that were closed on the same day. The plain share would say more about when than about
whom: a day on which a month's backlog is closed at once paints every group alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup_examples.exception_sla.files import CLOSED, EventLog, Moments

WEIGHT = 20.0  # closings: so much counts "like all others" against a group's own record
RECORDS = {
    "group": "assignment_group",
    "category": "category",
    "subcategory": "subcategory",
    "symptom": "u_symptom",
    "location": "location",
    "caller": "caller_id",
    "opener": "opened_by",
}
_SPAN = 2**32  # minutes, more than any log is long
_MILLIONTHS = 1_000_000  # whole numbers, so that a sum does not depend on what stands beside it

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


class History:
    """A log, and what of it was known at any moment.

    An incident is closed by its first event `Closed`, even where it is touched again later. Of each
    incident, in the order of opening: ``closed`` and ``missed`` bool (m,), ``closed_at`` datetime64[m]
    (m,), NaT while open. Of each event: ``incident`` int64 (n,), the place of its incident, and
    ``is_closing`` bool (n,).
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        first = log.first
        self.incident = np.cumsum(log.place == 0) - 1
        self.is_closing: NDArray[np.bool_] = log.texts["incident_state"] == CLOSED
        closings = np.flatnonzero(self.is_closing)
        which, earliest = np.unique(self.incident[closings], return_index=True)
        self.closed = np.zeros(len(first), bool)
        self.closed[which] = True
        self.closed_at: Moments = np.full(len(first), np.datetime64("NaT"), "datetime64[m]")
        self.closed_at[which] = log.moment[closings[earliest]]
        self.missed = np.zeros(len(first), bool)
        self.missed[which] = log.numbers["made_sla"][closings[earliest]] == 0
        self._codes = {name: _codes(log.texts[column]) for name, column in RECORDS.items()}
        ended = self.closed_at[self.closed]
        excess = _excess(ended, self.missed[self.closed])
        self._records = {name: _Record(codes[first][self.closed], ended, excess) for name, codes in self._codes.items()}

    def features(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        """Columns for the contract, one row for each of the log's events in ``rows``."""
        log = self.log
        today = log.moment[rows].astype("datetime64[D]").astype("datetime64[m]")
        return {
            "incident": log.number[rows],
            "opened_at": log.opened_at[rows].astype("datetime64[us]"),
            "known_at": log.moment[rows].astype("datetime64[us]"),
            "event_number": log.place[rows],
            "priority": np.array([f"P{rank}" for rank in log.numbers["priority"][rows].tolist()], object),
            "assignment_group": _named(log.texts["assignment_group"][rows]),
            "category": _named(log.texts["category"][rows]),
            **self._own(rows),
            **{
                f"{name}_record": record.before(self._codes[name][rows], today)
                for name, record in self._records.items()
            },
        }

    def _own(self, rows: NDArray[np.intp]) -> dict[str, Floats]:
        """What the event itself says."""
        log = self.log
        state, minutes = log.texts["incident_state"][rows], log.moment[rows].astype(np.int64)
        found = {
            **{f"{name}_rank": log.numbers[name][rows] for name in ("impact", "urgency", "priority")},
            "is_resolved": state == "Resolved",
            "is_awaiting": np.array([str(s).startswith("Awaiting") for s in state], bool),
            "by_email": log.texts["contact_type"][rows] == "Email",
            "hour": minutes // 60 % 24,
            "weekday": (minutes // 1440 + 3) % 7,
            "age_hours": (log.moment[rows] - log.opened_at[rows]).astype(np.int64) / 60,
            "reassignments": log.numbers["reassignment_count"][rows],
            "reopenings": log.numbers["reopen_count"][rows],
        }
        return {name: np.asarray(column, np.float64) for name, column in found.items()}


class _Record:
    """Mean excess of what each code had closed before a day, drawn to 0 where that is little."""

    def __init__(self, codes: Whole, ended: Moments, excess: Whole) -> None:
        minutes = ended.astype(np.int64)
        order = np.lexsort((minutes, codes))
        self._keys = codes[order] * _SPAN + minutes[order]
        self._sums = np.concatenate([[0], np.cumsum(excess[order])])

    def before(self, codes: Whole, moments: Moments) -> Floats:
        """Excess (n,) between -1 and 1 of the code's closings strictly before the moment."""
        first = np.searchsorted(self._keys, codes * _SPAN, "left")
        last = np.searchsorted(self._keys, codes * _SPAN + moments.astype(np.int64), "left")
        excess = (self._sums[last] - self._sums[first]) / _MILLIONTHS
        mean: Floats = excess / (last - first + WEIGHT)
        return mean


def _excess(ended: Moments, missed: NDArray[np.bool_]) -> Whole:
    """Missed less the share of missed of the same day of closing, in millionths (m,)."""
    _, day = np.unique(ended.astype("datetime64[D]"), return_inverse=True)
    share = np.bincount(day, missed) / np.maximum(np.bincount(day), 1)
    return np.rint((missed - share[day]) * _MILLIONTHS).astype(np.int64)


def _codes(texts: NDArray[np.object_]) -> Whole:
    """Equal texts have equal numbers; what is missing is a text of its own."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)


def _named(texts: NDArray[np.object_]) -> NDArray[np.object_]:
    return np.array(["none" if text is None else text for text in texts], object)
