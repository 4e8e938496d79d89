"""A desk that works off a queue: a log in exactly the form of the incident log, for when there is none.

Groups, categories and so on have habits of their own. In the first weeks two items in three miss their
SLA, and many lie until one day on which all that is left is closed at once; from then on the desk is
better, and one in four misses. What is open when the log ends is not closed in it.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup_examples.exception_sla.files import COLUMNS, NAMES

SLA_DAYS = 9
REOPENED = 0.01  # of what was closed
_FILLED_AFTERWARDS = ("closed_code", "resolved_by", "resolved_at", "closed_at")
_NUMBERED = {"assignment_group": ("Group", 24), "category": ("Category", 15), "subcategory": ("Subcategory", 60),
             "u_symptom": ("Symptom", 80), "location": ("Location", 40), "caller_id": ("Caller", 900),
             "opened_by": ("Opened by ", 30)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Desk:
    """How busy a desk to make. The same seed makes the same log."""

    a_day: int = 90
    days: int = 70  # with openings
    days_after: int = 45  # in which the rest is worked off, as far as it is
    first: datetime = datetime(2024, 1, 1)  # noqa: DTZ001 - the log has no zones
    seed: int = 1

    @property
    def cleared(self) -> int:
        """Minutes from the first opening to the evening on which all that is left is closed at once."""
        return self.days // 3 * 1440 + 1120


def write_log(desk: Desk, folder: Path) -> Path:
    """Writes the log and returns its path; one that exists with its content is left."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _rows(desk)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, (*COLUMNS, *_FILLED_AFTERWARDS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = folder / NAMES[0]
    if not path.exists() or path.read_text(encoding="utf-8") != text.getvalue():
        path.write_text(text.getvalue(), encoding="utf-8")
    return path


def _rows(desk: Desk) -> list[dict[str, Any]]:
    rng = np.random.default_rng(desk.seed)
    n = desk.a_day * desk.days
    opened = np.sort(rng.integers(0, desk.days * 1440, n))  # minutes
    kinds = {name: (rng.random(n) ** 2 * size).astype(int) for name, (_, size) in _NUMBERED.items()}
    habits = {name: rng.normal(0, 0.9 if size < 100 else 0.3, size) for name, (_, size) in _NUMBERED.items()}
    priority = rng.choice([1, 2, 3, 4], n, p=[0.01, 0.02, 0.93, 0.04])
    liability = sum((habits[name][kinds[name]] for name in kinds), np.zeros(n)) / 1.4
    liability += np.array([2.0, 3.0, 0.0, -1.0])[priority - 1]
    early = opened < desk.cleared // 1440 * 1440
    missed = rng.random(n) < 1 / (1 + np.exp(-(liability + np.where(early, 0.9, -1.5))))
    taken = _minutes_to_close(rng, missed, desk.cleared - opened)
    end = (desk.days + desk.days_after) * 1440
    rows: list[dict[str, Any]] = []
    for i in range(n):
        said = {
            "number": f"INC{i + 1:07d}",
            "opened_at": _text(desk.first, opened[i]),
            "contact_type": "Email" if i % 400 == 0 else "Phone",
            "impact": "2 - Medium",
            "urgency": "2 - Medium",
            "priority": f"{priority[i]} - " + ("Critical", "High", "Moderate", "Low")[priority[i] - 1],
            **{name: f"{word} {kinds[name][i]}" for name, (word, _) in _NUMBERED.items()},
            "closed_code": f"code {i % 9}",
            "resolved_by": f"Resolved by {i % 70}",
            "resolved_at": _text(desk.first, opened[i] + taken[i] - min(taken[i], 5 * 1440)),
            "closed_at": _text(desk.first, opened[i] + taken[i]),
        }
        rows += _events(rng, said, desk.first, int(opened[i]), int(taken[i]), bool(missed[i]), end)
    return rows


def _minutes_to_close(
    rng: np.random.Generator, missed: NDArray[np.bool_], until_cleared: NDArray[np.int64]
) -> NDArray[np.int64]:
    """A resolved item is closed five days later; what misses takes at least the SLA's days, some of it months."""
    n = len(missed)
    met = 5 * 1440 + rng.gamma(0.6, 1.2 * 1440, n)
    late = SLA_DAYS * 1440 + rng.lognormal(np.log(5 * 1440), 1.2, n)
    taken = np.where(missed, late, np.minimum(met, SLA_DAYS * 1440 - 1)).astype(np.int64)
    left = missed & (taken > until_cleared) & (until_cleared > 0) & (rng.random(n) < 0.9)
    cleared: NDArray[np.int64] = np.where(left, until_cleared + rng.integers(0, 30, n), taken)
    return cleared


def _events(
    rng: np.random.Generator, said: dict[str, str], first: datetime, opened: int, taken: int, missed: bool, end: int
) -> list[dict[str, Any]]:
    """The item's events until the log ends: opened, worked on, resolved, closed, a few of them twice."""
    group = said["assignment_group"]
    steps = [(2, "New", 0), (taken // 9 + 2, "Active", 0)]
    if rng.random() < 0.4:
        steps.append((taken // 5 + 3, "Awaiting User Info", 1))
    if taken > 5 * 1440:
        steps.append((taken - 5 * 1440 + 1, "Resolved", steps[-1][2]))
    steps.append((taken, "Closed", steps[-1][2]))
    if rng.random() < REOPENED:
        steps += [(taken + 600, "Active", steps[-1][2] + 1), (taken + 2400, "Closed", steps[-1][2] + 1)]
    events = []
    for minutes, state, hand_overs in sorted(steps, key=lambda step: step[0]):
        if opened + minutes > end:
            break
        missed |= minutes > taken  # who has to come back is late after all
        events.append(
            {
                **said,
                "incident_state": state,
                "made_sla": "false" if missed and state == "Closed" else "true",
                "reassignment_count": str(hand_overs),
                "reopen_count": "1" if minutes > taken else "0",
                "assignment_group": "?" if state == "New" and rng.random() < 0.1 else group,
                "sys_updated_at": _text(first, opened + minutes),
            }
        )
    return events


def _text(first: datetime, minutes: int) -> str:
    moment = first + timedelta(minutes=int(minutes))
    return f"{moment.day}/{moment.month}/{moment.year} {moment:%H:%M}"
