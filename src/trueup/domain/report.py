"""Reports: what they show, how it is drawn, and one run of them with its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class ReportFormat(StrEnum):
    """What a run can be made into."""

    HTML = "html"
    PDF = "pdf"
    XLSX = "xlsx"
    CSV = "csv"
    JSON = "json"


class ChartKind(StrEnum):
    """How a chart draws its rows."""

    LINE = "line"
    AREA = "area"
    BAR = "bar"
    STACKED = "stacked"
    SCATTER = "scatter"
    HEAT = "heat"


class FigureFormat(StrEnum):
    """How a column's figures are written."""

    SHARE = "share"  # 0.125 is 12.5 %
    MONEY = "money"
    INTEGER = "integer"
    NUMBER = "number"


class CellKind(StrEnum):
    """What a column's cells are, once they are plain JSON values. Days and moments are ISO texts, moments in UTC."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture of a query's rows.

    ``y`` are columns of figures; or ``series`` is the column whose values tell lines apart, with one ``y``. Of a heat
    map ``series`` is the other axis. ``low`` and ``high`` bound a band around the one ``y``. ``facet`` is a column
    for whose values the chart is repeated, small. ``diagonal``: with a line on which x and y are equal.
    """

    query: str
    kind: ChartKind
    x: str
    y: tuple[str, ...]
    series: str = ""
    facet: str = ""
    low: str = ""
    high: str = ""
    diagonal: bool = False
    title: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """How a column is shown: its format (None: as its kind says), its heading and unit."""

    format: FigureFormat | None = None
    title: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Behind:
    """The ledger rows behind a row of figures: the query that finds them, and the columns that it is given."""

    query: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """All that a report says of how it is shown."""

    title: str
    audience: str = ""
    description: str = ""
    charts: tuple[Chart, ...] = ()
    columns: Mapping[str, Shown] = field(default_factory=dict)
    tiles: tuple[str, ...] = ()  # queries whose figures stand large, not in a table
    links: Mapping[str, str] = field(default_factory=dict)  # column -> path with {column}
    rows: Mapping[str, Behind] = field(default_factory=dict)  # query -> the rows behind its rows


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result."""

    name: str
    kind: CellKind


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of one query as plain JSON values. ``is_cut``: there were more than may be kept."""

    query: str
    title: str
    digest: str  # SHA-256 (hex) of the query's text
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    is_cut: bool = False

    def place(self, column: str) -> int:
        """Where a column stands. Raises KeyError."""
        for i, one in enumerate(self.columns):
            if one.name == column:
                return i
        raise KeyError(column)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run answers: which report, for which values, knowing what, and who asked.

    ``due_at`` is the moment of its schedule, None where somebody asked.
    """

    name: str
    parameters: Mapping[str, Any]  # plain JSON values
    as_known_at: datetime
    known_by: str
    by: str
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReportRun:
    """One run of a report, with all that is needed to show it again. ``error``: it has no results, for this reason."""

    run_id: int
    asked: Asked
    look: Look
    file_digest: str
    started_at: datetime
    duration_ms: int
    results: tuple[Result, ...] = ()
    error: str = ""

    @property
    def row_counts(self) -> dict[str, int]:
        """Rows of each query."""
        return {result.query: len(result.rows) for result in self.results}

    @property
    def is_cut(self) -> bool:
        """Whether a query had more rows than are kept."""
        return any(result.is_cut for result in self.results)
