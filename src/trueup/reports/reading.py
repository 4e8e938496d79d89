"""A report's file: what its front matter says, checked against its queries. See ``docs/reference/report-files.md``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from trueup.contracts import schedules
from trueup.domain.job import Missed
from trueup.domain.report import Behind, Chart, ChartKind, FigureFormat, Look, ReportFormat, Shown
from trueup.errors import InvalidFile
from trueup.sql.files import NamedQuery, SqlFile, read_folder

SHIPPED = Path(__file__).parent.parent / "sql" / "reports"
ROW = "row_"  # begins the name of a parameter that is a key of the row whose ledger rows are asked for
MAX_CHARTS = 50
_KEYS = {"title", "audience", "description", "schedule", "missed", "charts", "columns", "formats", "recipients",
         "links", "rows", "tiles"}  # fmt: skip
_CHART = {"query", "kind", "x", "y", "series", "facet", "low", "high", "diagonal", "title", "unit"}
_PATH = re.compile(r"/[A-Za-z0-9/_.~{}-]*\Z")
_Kind = TypeVar("_Kind", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Report:
    """A report as its file says it. ``schedule`` is empty where it runs only when asked."""

    file: SqlFile
    look: Look
    schedule: str
    missed: Missed
    formats: tuple[ReportFormat, ...]
    recipients: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name."""
        return self.file.name

    @property
    def queries(self) -> tuple[NamedQuery, ...]:
        """Those that every run answers: all but the ones that find the rows behind a figure."""
        behind = {one.query for one in self.look.rows.values()}
        return tuple(q for q in self.file.queries if q.name not in behind)


def read_reports(folders: Sequence[Path]) -> dict[str, Report]:
    """Shipped reports and those of the folders, by name; a folder's replaces a shipped one. Raises InvalidFile."""
    return {name: report_of(file) for name, file in read_folder([SHIPPED, *folders]).items()}


def report_of(file: SqlFile) -> Report:
    """The report that a file is. Raises InvalidFile."""
    try:
        return _Front(file).report()
    except InvalidFile as error:
        raise InvalidFile(
            f"{file.name}.sql: {error.message}", next_step="docs/reference/report-files.md says what a report may say"
        ) from None


class _Front:
    """Reads front matter, key by key."""

    def __init__(self, file: SqlFile) -> None:
        self._file = file
        self._front = file.front
        self._names = {query.name for query in file.queries}

    def report(self) -> Report:
        if unknown := sorted(set(self._front) - _KEYS):
            raise InvalidFile(f"front matter: {unknown[0]} is no key of a report")
        look = Look(
            title=_text(self._front, "title", required=True),
            audience=_text(self._front, "audience"),
            description=_text(self._front, "description"),
            charts=self._charts(),
            columns={str(name): _shown(name, body) for name, body in _mapping(self._front, "columns").items()},
            tiles=self._queries("tiles"),
            links={str(name): _link(name, path) for name, path in _mapping(self._front, "links").items()},
            rows=self._rows(),
        )
        schedule = _text(self._front, "schedule")
        if schedule:
            schedules.declared(schedule)
            self._check_unattended()
        formats = _texts(self._front, "formats") or tuple(ReportFormat)
        return Report(
            file=self._file,
            look=look,
            schedule=schedule,
            missed=_one_of(Missed, self._front.get("missed", "latest"), "missed"),
            formats=tuple(_one_of(ReportFormat, one, "formats") for one in formats),
            recipients=_texts(self._front, "recipients"),
        )

    def _charts(self) -> tuple[Chart, ...]:
        listed = self._front.get("charts") or []
        if not isinstance(listed, list) or len(listed) > MAX_CHARTS:
            raise InvalidFile(f"charts: a list of at most {MAX_CHARTS}")
        return tuple(self._chart(body, f"charts[{i}]") for i, body in enumerate(listed))

    def _chart(self, body: Any, where: str) -> Chart:
        if not isinstance(body, dict) or set(body) - _CHART:
            raise InvalidFile(f"{where}: only {', '.join(sorted(_CHART))} may be said")
        y = body.get("y")
        y = (y,) if isinstance(y, str) else tuple(y) if isinstance(y, list) else ()
        if not y or not all(isinstance(one, str) for one in y):
            raise InvalidFile(f"{where}: y names one or several columns")
        names = {key: _text(body, key) for key in ("series", "facet", "low", "high", "title", "unit")}
        kind = _one_of(ChartKind, body.get("kind"), f"{where}.kind")
        if len(y) > 1 and (names["series"] or names["low"]):
            raise InvalidFile(f"{where}: several y cannot have series or a band")
        if bool(names["low"]) != bool(names["high"]) or (kind is ChartKind.HEAT and not names["series"]):
            raise InvalidFile(f"{where}: low goes with high, and a heat map needs series, its other axis")
        if not isinstance(body.get("diagonal", False), bool):
            raise InvalidFile(f"{where}: diagonal is true or false")
        return Chart(
            query=self._query(_text(body, "query", required=True), where),
            kind=kind,
            x=_text(body, "x", required=True),
            y=y,
            diagonal=body.get("diagonal", False),
            **names,
        )

    def _rows(self) -> dict[str, Behind]:
        found = {}
        for name, body in _mapping(self._front, "rows").items():
            where = f"rows.{name}"
            self._query(name, where)
            if not isinstance(body, dict) or set(body) - {"query", "keys"}:
                raise InvalidFile(f"{where}: query and keys may be said")
            keys = _texts(body, "keys")
            declared = {p.name: p for p in self._file.parameters}
            for key in keys:
                if ROW + key not in declared or declared[ROW + key].required:
                    raise InvalidFile(f"{where}: parameter {ROW}{key} is to be declared, with required: false")
            found[name] = Behind(self._query(_text(body, "query", required=True), where), keys)
        if set(found) & {one.query for one in found.values()}:
            raise InvalidFile("rows: a query that finds rows has none behind it")
        return found

    def _queries(self, key: str) -> tuple[str, ...]:
        return tuple(self._query(name, key) for name in _texts(self._front, key))

    def _query(self, name: Any, where: str) -> str:
        if name not in self._names:
            raise InvalidFile(f"{where}: the file has no query of that name")
        return str(name)

    def _check_unattended(self) -> None:
        if needed := [p.name for p in self._file.parameters if p.required]:
            raise InvalidFile(f"schedule: parameter {needed[0]} needs a default, since nobody is there to give it")


def _text(body: Mapping[str, Any], key: str, *, required: bool = False) -> str:
    found = body.get(key, "")
    if not isinstance(found, str) or (required and not found):
        raise InvalidFile(f"{key}: a text is needed")
    return found.strip()


def _texts(body: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = body.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidFile(f"{key}: a list of names is needed")
    return tuple(found)


def _mapping(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = body.get(key) or {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise InvalidFile(f"{key}: names and what is said of them are needed")
    return found


def _one_of(kind: type[_Kind], value: Any, where: str) -> _Kind:
    if value not in [str(one) for one in kind]:
        raise InvalidFile(f"{where}: one of {', '.join(kind)} is needed")
    return kind(value)


def _shown(name: str, body: Any) -> Shown:
    where = f"columns.{name}"
    body = {"format": body} if isinstance(body, str) else body
    if not isinstance(body, dict) or set(body) - {"format", "title", "unit"}:
        raise InvalidFile(f"{where}: format, title and unit may be said")
    kind = body.get("format")
    return Shown(
        None if kind is None else _one_of(FigureFormat, kind, where), _text(body, "title"), _text(body, "unit")
    )


def _link(column: str, path: Any) -> str:
    if not isinstance(path, str) or not _PATH.match(path) or path.startswith("//"):
        raise InvalidFile(f"links.{column}: a path of this server is needed, such as /v1/predictions/{{{column}}}")
    if set(re.findall(r"{(.*?)}", path)) != {column}:
        raise InvalidFile(f"links.{column}: the path holds {{{column}}}, and nothing else in braces")
    return path
