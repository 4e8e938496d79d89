"""The event log of an incident queue: `incident_event_log.csv`, also `.xz`.

One row an event of an incident: its state after the change. Dates are `d/m/Y H:M` without a
zone, taken as UTC; `?` is missing. The columns `resolved_at`, `resolved_by`, `closed_at` and
`closed_code` stand on every event of an incident, also on its first: they were filled in
afterwards, and are not read at all; nor is `knowledge`, which says how it was resolved. That
an incident is closed is known from its event `Closed`.

A dirty row is counted under its reason and left out; nothing is dropped silently.
"""

from __future__ import annotations

import csv
import io
import lzma
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trueup.errors import InvalidFile

MAX_BYTES = 512 * 2**20  # of the file, unpacked
NAMES = ("incident_event_log.csv", "incident_event_log.csv.xz")
CLOSED = "Closed"

# Text columns and the word before their numbers; some copies of the log have lost it.
TEXTS = {
    "incident_state": "",
    "caller_id": "Caller",
    "opened_by": "Opened by",
    "contact_type": "",
    "location": "Location",
    "category": "Category",
    "subcategory": "Subcategory",
    "u_symptom": "Symptom",
    "assignment_group": "Group",
}
RANKS = ("impact", "urgency", "priority")  # "2 - Medium" is 2; 1 is the most pressing
COUNTS = ("reassignment_count", "reopen_count")
FLAGS = ("made_sla",)
DATES = ("opened_at", "sys_updated_at")
COLUMNS = ("number", *TEXTS, *RANKS, *COUNTS, *FLAGS, *DATES)
_NUMBER = re.compile(r"INC\d{7}\Z")
_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d{2})\Z")

Moments = NDArray[np.datetime64]  # in minutes, UTC


@dataclass(frozen=True)
class EventLog:
    """Events as arrays (n,), incident by incident in the order of opening.

    ``place`` counts an incident's events from 0. ``moment`` is when an event was known: never
    before the opening, never before the event ahead of it. ``texts`` holds None where missing.
    """

    number: NDArray[np.object_]
    place: NDArray[np.int64]
    opened_at: Moments
    moment: Moments
    texts: dict[str, NDArray[np.object_]]
    numbers: dict[str, NDArray[np.int64]]
    dirty: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.number)

    @property
    def first(self) -> NDArray[np.intp]:
        """Rows of the opening event of each incident."""
        return np.flatnonzero(self.place == 0)

    def until(self, moment: np.datetime64) -> EventLog:
        """The log as it was at ``moment``: events known later are not in it."""
        kept = self.moment <= moment
        return EventLog(
            self.number[kept],
            self.place[kept],
            self.opened_at[kept],
            self.moment[kept],
            {name: column[kept] for name, column in self.texts.items()},
            {name: column[kept] for name, column in self.numbers.items()},
        )


def read_log(folder: Path) -> EventLog:
    """The folder's log. Raises InvalidFile when there is none or it cannot be read."""
    path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if path is None:
        raise InvalidFile("the folder holds no incident log", next_step=f"name a folder with {' or '.join(NAMES)}")
    lines = csv.DictReader(io.StringIO(_unpacked(path), newline=""))
    if not set(COLUMNS) <= set(lines.fieldnames or ()):
        raise InvalidFile(f"{path.name} has not the columns of an incident log")
    rows = _Rows()
    try:
        for line in lines:
            rows.add(line)
    except csv.Error:
        raise InvalidFile(f"{path.name} is not a CSV file", next_step=f"look at line {lines.line_num}") from None
    return rows.log()


def _unpacked(path: Path) -> str:
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as packed:
            data = packed.read(MAX_BYTES + 1)
    except (OSError, lzma.LZMAError, EOFError):
        raise InvalidFile(f"{path.name} cannot be unpacked") from None
    if len(data) > MAX_BYTES:
        raise InvalidFile(f"{path.name} is larger than {MAX_BYTES} bytes unpacked")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidFile(f"{path.name} is not UTF-8 text") from None


@dataclass(frozen=True, slots=True)
class _Event:
    number: str
    opened_at: datetime
    updated_at: datetime
    texts: tuple[str | None, ...]
    numbers: tuple[int, ...]


class _Rows:
    """Collects checked rows by incident."""

    def __init__(self) -> None:
        self.incidents: dict[str, list[_Event]] = {}
        self.dirty: Counter[str] = Counter()
        self._seen: set[int] = set()
        self._dates: dict[str, datetime | None] = {}
        self._names: dict[tuple[str, str], str | None] = {}

    def add(self, line: dict[str, str | None]) -> None:
        fault = self._fault(line)
        if fault is None:
            event = self._event({name: str(line[name]) for name in COLUMNS})
            fault = event if isinstance(event, str) else self._keep(event, hash(tuple(line.values())))
        if fault:
            self.dirty[fault] += 1

    def _fault(self, line: dict[str, str | None]) -> str | None:
        if None in line or any(line[name] is None for name in COLUMNS):
            return "number of columns"
        return None if _NUMBER.match(str(line["number"])) else "incident number"

    def _event(self, line: dict[str, str]) -> _Event | str:
        """The row's event, or the name of the column that is wrong."""
        dates = {name: self._date(line[name]) for name in DATES}
        numbers = {
            **{name: _rank(line[name]) for name in RANKS},
            **{name: _count(line[name]) for name in COUNTS},
            **{name: {"true": 1, "false": 0}.get(line[name].strip().lower()) for name in FLAGS},
        }
        wrong = next((name for name, value in (dates | numbers).items() if value is None), None)
        if wrong is not None:
            return wrong
        opened, updated = dates["opened_at"], dates["sys_updated_at"]
        assert opened is not None
        assert updated is not None
        texts = tuple(self._name(name, line[name]) for name in TEXTS)
        if texts[0] is None:
            return "incident_state"
        return _Event(line["number"], opened, updated, texts, tuple(n for n in numbers.values() if n is not None))

    def _keep(self, event: _Event, whole_row: int) -> str | None:
        known = self.incidents.setdefault(event.number, [])
        if whole_row in self._seen:
            return "repeated row"
        self._seen.add(whole_row)
        if known and event.opened_at != known[0].opened_at:
            return "another opening of the same incident"
        known.append(event)
        return None

    def _date(self, text: str) -> datetime | None:
        if text not in self._dates:
            self._dates[text] = _date(text)
        return self._dates[text]

    def _name(self, column: str, text: str) -> str | None:
        if (column, text) not in self._names:
            self._names[column, text] = _name(TEXTS[column], text)
        return self._names[column, text]

    def log(self) -> EventLog:
        """Incidents in the order of opening; within one, its events in the order of the file."""
        listed = sorted(self.incidents.values(), key=lambda events: (events[0].opened_at, events[0].number))
        events = [event for incident in listed for event in incident]
        texts = list(zip(*(e.texts for e in events), strict=True)) or [()] * len(TEXTS)
        numbers = list(zip(*(e.numbers for e in events), strict=True)) or [()] * len((*RANKS, *COUNTS, *FLAGS))
        return EventLog(
            np.array([e.number for e in events], object),
            np.array([place for incident in listed for place in range(len(incident))], np.int64),
            np.array([e.opened_at for e in events], "datetime64[m]"),
            np.array([moment for incident in listed for moment in _known(incident)], "datetime64[m]"),
            {name: np.array(column, object) for name, column in zip(TEXTS, texts, strict=True)},
            {n: np.array(column, np.int64) for n, column in zip((*RANKS, *COUNTS, *FLAGS), numbers, strict=True)},
            self.dirty,
        )


def _known(incident: list[_Event]) -> Iterator[datetime]:
    """When each event was known: some updates bear a time before the opening or before the one ahead."""
    newest = incident[0].opened_at
    for event in incident:
        newest = max(newest, event.updated_at)
        yield newest


def _date(text: str) -> datetime | None:
    match = _DATE.match(text.strip())
    if match is None:
        return None
    day, month, year, hour, minute = map(int, match.groups())
    try:
        return datetime(year, month, day, hour, minute)  # noqa: DTZ001 - numpy's moments have no zones: all are UTC
    except ValueError:
        return None


def _name(prefix: str, text: str) -> str | None:
    """`Opened by  8`, `Opened by 8` and `8` are one; `?` is missing."""
    words = " ".join(text.split())
    if words in ("?", ""):
        return None
    return f"{prefix} {words}" if prefix and words.isdigit() else words


def _rank(text: str) -> int | None:
    first = text.strip()[:1]
    return int(first) if first in ("1", "2", "3", "4") else None


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None
