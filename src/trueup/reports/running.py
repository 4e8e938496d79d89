"""Running reports, and showing what they had.

A run answers all its queries from one snapshot, for one moment whose knowledge it is bound to, and is kept with all
its figures: shown again it is the same, whatever the ledger learnt since.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from typing import Any

from trueup.domain.message import Message
from trueup.domain.report import Asked, ReportRun, Result
from trueup.errors import Conflict, InvalidQuery, NotFound, TrueupError
from trueup.ports import Clock
from trueup.reports.reading import ROW, Report, read_reports
from trueup.reports.store import RunStore
from trueup.reports.values import columns_of, plain, size_of
from trueup.settings import Reporting
from trueup.sql.files import NamedQuery
from trueup.sql.runner import Answer, PostgresQueries, Snapshot

_RUNS = """
    SELECT run_id, name, title, as_known_at, known_by, asked_by, due_at, started_at, duration_ms, row_counts, is_cut,
           error, parameters, file_digest
    FROM report_runs
    WHERE (%(name)s::text IS NULL OR name = %(name)s)
    ORDER BY run_id DESC LIMIT %(limit)s
"""
Telling = Callable[[ReportRun], tuple[Message, ...]]


class Reports:
    """What can be reported, and what was."""

    def __init__(self, queries: PostgresQueries, runs: RunStore, settings: Reporting, clock: Clock) -> None:
        self._queries = queries
        self._runs = runs
        self._settings = settings
        self._clock = clock

    def all(self) -> dict[str, Report]:
        """Every report by name, as the settings say when it runs and who is told. Raises InvalidFile."""
        return {name: self._set(report) for name, report in read_reports(self._settings.folders).items()}

    def report(self, name: str) -> Report:
        """Raises NotFound, InvalidFile."""
        found = self.all().get(name)
        if found is None:
            raise NotFound("no such report", next_step="`trueup report list` lists what there is")
        return found

    def run(
        self,
        name: str,
        given: Mapping[str, object],
        *,
        by: str,
        as_known_at: datetime | None = None,
        known_by: str = "recorded",
    ) -> ReportRun:
        """Runs a report now and keeps it, also when it fails.

        ``as_known_at``: the moment whose knowledge counts, now unless given. Raises InvalidQuery (a parameter, or a
        query that does not fit or takes too long), NotFound, InvalidFile, LedgerUnavailable.
        """
        return self._kept(self.report(name), given, by, as_known_at or self._clock(), known_by)

    def run_due(self, name: str, due: datetime, telling: Telling) -> ReportRun | None:
        """Runs a report for a moment of its schedule, knowing what was known then; None where that was done before.

        What ``telling`` makes of the run is committed with it.
        """
        if self._runs.is_done(name, due):
            return None
        try:
            return self._kept(self.report(name), {}, "clock", due, "recorded", due, telling)
        except Conflict:  # another worker was faster
            return None

    def show(self, run_id: int) -> ReportRun:
        """A run as it was. Raises NotFound."""
        return self._runs.run(run_id)

    def runs(self, name: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """The latest runs, without their figures."""
        return self._queries.rows(_RUNS, {"name": name, "limit": limit})

    def rows(self, run_id: int, query: str, row: int) -> Result:
        """The ledger rows behind row ``row`` (from 1) of a query of a run, as known at the run's moment.

        Raises NotFound, InvalidQuery, Conflict where the report's file is another one by now.
        """
        run = self.show(run_id)
        result = next((one for one in run.results if one.query == query), None)
        behind = run.look.rows.get(query)
        if result is None or behind is None or not 1 <= row <= len(result.rows):
            raise NotFound("no rows are declared behind that row", next_step="see `rows` in the report's front matter")
        report = self.report(run.asked.name)
        if report.file.digest != run.file_digest:
            raise Conflict(
                "the report's file has changed since the run", next_step="run it again with the same parameters"
            )
        keys = {ROW + key: result.rows[row - 1][result.place(key)] for key in behind.keys}
        bound = report.file.bind(
            {**run.asked.parameters, **keys}, now=run.asked.as_known_at, known_by=run.asked.known_by
        )
        with self._queries.snapshot(timeout_s=self._settings.timeout_s) as snapshot:
            return self._result(snapshot, report.file.query(behind.query), bound, self._settings.result_bytes)

    def check(self, report: Report) -> None:
        """Asks the database how it would run each query. Raises InvalidQuery, InvalidFile."""
        sample = {p.name: _SAMPLES[p.type] for p in report.file.parameters if p.required}
        bound = report.file.bind(sample, now=self._clock())
        for query in report.file.queries:
            try:
                self._queries.explain(query.text, bound)
            except InvalidQuery as error:
                raise InvalidQuery(f"query {query.name}: {error.message}", next_step=error.next_step) from None

    def _set(self, report: Report) -> Report:
        name, settings = report.name, self._settings
        return replace(
            report,
            schedule=settings.schedules.get(name, report.schedule),
            recipients=tuple(settings.recipients.get(name, report.recipients)),
        )

    def _kept(
        self,
        report: Report,
        given: Mapping[str, object],
        by: str,
        as_known_at: datetime,
        known_by: str,
        due_at: datetime | None = None,
        telling: Telling | None = None,
    ) -> ReportRun:
        bound = report.file.bind(given, now=as_known_at, known_by=known_by)
        values = {name: plain(value) for name, value in bound.items() if name not in ("now", "known_by")}
        asked = Asked(report.name, values, bound["now"], known_by, by, due_at)  # type: ignore[arg-type]
        begun, started_at = time.monotonic(), self._clock()
        run = ReportRun(self._runs.next_id(), asked, report.look, report.file.digest, started_at, 0)
        try:
            results = self._results(report, bound)
        except TrueupError as error:
            self._runs.add(replace(run, duration_ms=_ms(begun), error=error.message))
            raise
        run = replace(run, duration_ms=_ms(begun), results=results)
        if not self._runs.add(run, telling(run) if telling is not None else ()):
            raise Conflict("the report was run for that moment already", next_step="`trueup report list --runs`")
        return run

    def _results(self, report: Report, bound: Mapping[str, object]) -> tuple[Result, ...]:
        left, found = self._settings.result_bytes, []
        with self._queries.snapshot(timeout_s=self._settings.timeout_s) as snapshot:
            for query in report.queries:
                result = self._result(snapshot, query, bound, left)
                left -= sum(size_of(row) for row in result.rows)
                found.append(result)
        return tuple(found)

    def _result(self, snapshot: Snapshot, query: NamedQuery, bound: Mapping[str, object], most_bytes: int) -> Result:
        try:
            answer = snapshot.answer(query.text, bound, max_rows=self._settings.rows)
        except InvalidQuery as error:
            raise InvalidQuery(f"query {query.name}: {error.message}", next_step=error.next_step) from None
        columns = columns_of(answer.columns, answer.rows)
        if len({column.name for column in columns}) != len(columns):
            raise InvalidQuery(f"query {query.name}: two columns have one name")
        rows, is_cut = _within(answer, most_bytes)
        return Result(query.name, query.title, hashlib.sha256(query.text.encode()).hexdigest(), columns, rows, is_cut)


def end_of(day: date) -> datetime:
    """The last instant of a UTC day: what was known on that day was known by then."""
    return datetime.combine(day, time_of_day.max, UTC)


def _within(answer: Answer, most_bytes: int) -> tuple[tuple[tuple[Any, ...], ...], bool]:
    """The first rows as plain values, as many as fit."""
    rows: list[tuple[Any, ...]] = []
    for row in answer.rows:
        cells = tuple(plain(cell) for cell in row)
        most_bytes -= size_of(cells)
        if most_bytes < 0:
            return tuple(rows), True
        rows.append(cells)
    return tuple(rows), answer.is_cut


def _ms(begun: float) -> int:
    return int((time.monotonic() - begun) * 1000)


_SAMPLES: dict[str, object] = {
    "text": "x",
    "integer": 1,
    "number": 1.0,
    "boolean": True,
    "date": "today",
    "timestamp": "now",
}
