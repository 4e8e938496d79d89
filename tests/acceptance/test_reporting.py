"""Steps of reporting.feature, on a seeded ledger."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader
from pytest_bdd import given, parsers, scenarios, then, when

import trueup
from reported import LAST, seeded
from trueup.domain.report import ReportFormat, ReportRun, Result
from trueup.errors import InvalidFile
from trueup.ledger.urls import Urls
from trueup.reports.formats import rendered
from trueup.reports.reading import report_of
from trueup.reports.running import end_of
from trueup.sql.files import read_sql_file

scenarios("reporting.feature")

PERIOD = {"from": "2026-10-01", "day": str(LAST)}


class Desk:
    """What the scenario's people hold on to."""

    def __init__(self, up: trueup.Trueup) -> None:
        self.up = up
        self.reports = up.services.reports
        self.run: ReportRun
        self.found: Any = None

    def by_day(self) -> list[dict[str, Any]]:
        result = next(one for one in self.run.results if one.query == "by_day")
        return [dict(zip([c.name for c in result.columns], row, strict=True)) for row in result.rows]


@given("a desk whose ledger holds 40 days of settlement predictions and their outcomes", target_fixture="desk")
def _desk(up: trueup.Trueup, fresh_database: Urls) -> Desk:
    seeded(up, fresh_database, per_day=20)
    return Desk(up)


@given("the morning report was run")
def _was_run(desk: Desk) -> None:
    desk.run = desk.reports.run("daily_mi", PERIOD, by="desk")


@when("an outcome of a past day comes late")
def _late(desk: Desk) -> None:
    desk.up.outcomes("fails", [{"cusip": f"C{LAST:%m%d}001", "event_day": str(LAST), "value": 9e6}], source="late")


@then("the morning report of then shows the same figures as then")
def _same(desk: Desk) -> None:
    assert desk.reports.show(desk.run.run_id) == desk.run
    again = desk.reports.run("daily_mi", PERIOD, by="desk", as_known_at=desk.run.asked.as_known_at)
    assert again.results == desk.run.results


@then("a new morning report shows other figures")
def _other(desk: Desk) -> None:
    assert desk.reports.run("daily_mi", PERIOD, by="desk").results != desk.run.results


@when(parsers.parse("the morning report is run as observed on {day}"))
def _observed(desk: Desk, day: str) -> None:
    at = end_of(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).date())
    desk.run = desk.reports.run("daily_mi", PERIOD, by="desk", as_known_at=at, known_by="observed")


@then(parsers.parse("no day after {day} is in it"))
def _none_after(desk: Desk, day: str) -> None:
    assert max(row["event_day"] for row in desk.by_day()) == day


@then(parsers.parse("the outcomes of {day} are all in"))
def _mature(desk: Desk, day: str) -> None:
    assert [row["maturity"] for row in desk.by_day() if row["event_day"] == day] == [1.0]


@then(parsers.parse("the outcomes of {day} are not in yet"))
def _immature(desk: Desk, day: str) -> None:
    assert [row["maturity"] for row in desk.by_day() if row["event_day"] == day] != [1.0]


@when("the head of desk asks for the rows behind its first day")
def _behind(desk: Desk) -> None:
    desk.found = desk.reports.rows(desk.run.run_id, "by_day", 1)


@then("as many trades are listed as the day counts")
def _as_many(desk: Desk) -> None:
    rows: Result = desk.found
    first = desk.by_day()[0]
    assert len(rows.rows) == first["predictions"] == 20
    assert {row[rows.place("event_day")] for row in rows.rows} == {first["event_day"]}


@when("the model performance pack is made as a page and as a document")
def _pack(desk: Desk) -> None:
    desk.run = desk.reports.run("model_performance", {"from": "2026-10-01", "until": "today"}, by="validator")
    desk.found = {kind: rendered(desk.run, kind).content for kind in (ReportFormat.HTML, ReportFormat.PDF)}


@then("the page fetches nothing and runs no script")
def _alone(desk: Desk) -> None:
    page = desk.found[ReportFormat.HTML].decode()
    assert "<svg" in page
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|\son\w+=", page)


@then("the document says for which figures it stands, by the digest of their queries")
def _digests(desk: Desk) -> None:
    text = "".join(page.extract_text() for page in PdfReader(io.BytesIO(desk.found[ReportFormat.PDF])).pages)
    assert all(result.digest in text.replace("\n", "") for result in desk.run.results)


@when("an analyst offers a report that deletes predictions")
def _deletes(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "mine.sql"
    path.write_text("/*---\ntitle: Mine\n---*/\nWITH gone AS (DELETE FROM predictions RETURNING *) SELECT * FROM gone")
    with pytest.raises(InvalidFile) as raised:
        report_of(read_sql_file(path))
    desk.found = raised.value


@then("it is refused, and the line is named")
def _refused(desk: Desk) -> None:
    assert desk.found.message.startswith("mine.sql: line 4: ")
