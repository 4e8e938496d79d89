"""Reports on a real ledger: every shipped file, runs that stay as they were, and the rows behind a figure."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import psycopg
import pytest
from pypdf import PdfReader

import trueup
from databases import create_database
from reported import LAST, NOW, seeded
from trueup.bootstrap import Services, utc_now, wired
from trueup.domain.message import Message
from trueup.domain.report import ReportFormat, ReportRun
from trueup.errors import Conflict, InvalidQuery, LedgerUnavailable, NotFound
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls
from trueup.reports.formats import rendered
from trueup.reports.jobs import jobs, messages
from trueup.reports.postgres import PostgresRuns
from trueup.reports.reading import read_reports
from trueup.reports.running import Reports
from trueup.settings import Reporting

SHIPPED = sorted(read_reports([]))


@pytest.fixture(scope="module")
def ledger(server: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A seeded ledger that all tests of this module read; runs are only ever added."""
    database = create_database(server, template)
    settings = trueup.Settings(data_dir=tmp_path_factory.mktemp("data"))
    with trueup.Trueup(wired(settings, database)) as up:
        seeded(up, database)
        yield up.services


def given(name: str) -> dict[str, object]:
    """Values with which the seeded rows are in the report."""
    first, last = str(LAST - timedelta(days=45)), str(LAST)
    return {"from": first, "day": last} if name == "daily_mi" else {"from": first, "until": "today"}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_report_is_explained_and_has_rows(ledger: Services, name: str):
    report = ledger.reports.report(name)
    ledger.reports.check(report)
    run = ledger.reports.run(name, given(name), by="test")
    empty = {query for query, n in run.row_counts.items() if n == 0}
    assert empty <= {"letters"}  # nothing is asked of a broker here
    assert ledger.reports.show(run.run_id) == run
    page = rendered(run, ReportFormat.HTML).content.decode()
    assert "No chart" not in page
    assert page.count("<svg") >= len(report.look.charts)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_rows_behind_every_line_are_found(ledger: Services, name: str):
    run = ledger.reports.run(name, given(name), by="test")
    for query, behind in run.look.rows.items():
        result = next(r for r in run.results if r.query == query)
        rows = ledger.reports.rows(run.run_id, query, 1)
        assert rows.query == behind.query
        assert rows.rows, query
        counted = {
            "by_day": "predictions",
            "ageing": "items",
            "reliability": "n",
            "refusals": "refusals",
            "against": "items",
        }
        if query in counted:
            assert len(rows.rows) == result.rows[0][result.place(counted[query])]


def test_a_run_shown_again_is_the_same_in_every_format(ledger: Services):
    run = ledger.reports.run("daily_mi", given("daily_mi"), by="test")
    again = ledger.reports.show(run.run_id)
    for format_ in ReportFormat:
        made = rendered(run, format_)
        assert made.content == rendered(again, format_).content
        assert made.content


def test_the_same_moment_gives_the_same_figures_whatever_is_learnt_since(ledger: Services):
    moment = datetime.now(UTC)
    before = ledger.reports.run("daily_mi", given("daily_mi"), by="test", as_known_at=moment)
    row = {"cusip": f"C{LAST:%m%d}000", "event_day": str(LAST), "value": 5e6}
    up = trueup.Trueup(ledger)
    up.outcomes("fails", [row], source="late")
    after = ledger.reports.run("daily_mi", given("daily_mi"), by="test", as_known_at=moment)
    now = ledger.reports.run("daily_mi", given("daily_mi"), by="test")
    assert after.results == before.results
    assert now.results != before.results


def test_as_known_on_a_day_by_what_was_observed(ledger: Services):
    early = ledger.reports.run(
        "daily_mi", {"from": "2026-11-01", "day": str(LAST)}, by="test", known_by="observed",
        as_known_at=datetime(2026, 11, 10, 12, tzinfo=UTC),
    )  # fmt: skip
    by_day = next(r for r in early.results if r.query == "by_day")
    seen = {row[by_day.place("event_day")]: row[by_day.place("maturity")] for row in by_day.rows}
    assert max(seen) == "2026-11-10"
    assert seen["2026-11-08"] == 1.0  # observed on the 9th at 18:00
    assert seen["2026-11-09"] == 0.0


def test_figures_agree_with_arithmetic_outside_of_sql(ledger: Services):
    run = ledger.reports.run("model_performance", given("model_performance"), by="test")
    realised = next(r for r in run.results if r.query == "realised")
    rows = ledger.queries.rows(
        "SELECT score, is_positive FROM truth WHERE role = 'champion' AND outcome_state = 'known'"
    )
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    y, p = [r["is_positive"] for r in rows], [r["score"] for r in rows]
    figures = dict(zip([c.name for c in realised.columns], realised.rows[0], strict=True))
    assert figures["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-9)
    assert figures["brier"] == pytest.approx(brier_score_loss(y, p), abs=1e-9)
    assert figures["log_loss"] == pytest.approx(log_loss(y, p), abs=1e-9)


def test_wilson_bounds_agree_with_scipy(ledger: Services):
    from scipy.stats import binomtest

    run = ledger.reports.run("model_performance", given("model_performance"), by="test")
    bins = next(r for r in run.results if r.query == "reliability")
    for row in bins.rows:
        one = dict(zip([c.name for c in bins.columns], row, strict=True))
        exact = binomtest(round(one["happened"] * one["n"]), one["n"]).proportion_ci(0.95, method="wilson")
        assert one["happened_low"] == pytest.approx(exact.low, abs=1e-4)
        assert one["happened_high"] == pytest.approx(exact.high, abs=1e-4)


def test_bounds_hold_and_say_so(ledger: Services):
    few = Reports(ledger.queries, PostgresRuns(ledger._pools[1]), Reporting(rows=5), utc_now)
    run = few.run("daily_mi", given("daily_mi"), by="test")
    assert run.is_cut
    assert max(run.row_counts.values()) == 5
    small = Reports(ledger.queries, PostgresRuns(ledger._pools[1]), Reporting(result_bytes=2_000), utc_now)
    assert small.run("daily_mi", given("daily_mi"), by="test").is_cut
    assert "first" in rendered(run, ReportFormat.HTML).content.decode()


def test_a_run_that_fails_is_kept_with_its_reason(ledger: Services, tmp_path: Path):
    (tmp_path / "wrong.sql").write_text("/*---\ntitle: Wrong\n---*/\nSELECT no_such_column FROM truth")
    reports = Reports(ledger.queries, PostgresRuns(ledger._pools[1]), Reporting(folders=[tmp_path]), lambda: NOW)
    with pytest.raises(InvalidQuery, match="does not fit the views"):
        reports.run("wrong", {}, by="test")
    (kept,) = reports.runs("wrong")
    assert "does not fit" in kept["error"]
    with pytest.raises(InvalidQuery):
        reports.check(reports.report("wrong"))


def test_what_there_is_not_is_not_found(ledger: Services):
    with pytest.raises(NotFound):
        ledger.reports.run("none", {}, by="test")
    with pytest.raises(NotFound):
        ledger.reports.show(10**18)
    run = ledger.reports.run("usage", given("usage"), by="test")
    with pytest.raises(NotFound):
        ledger.reports.rows(run.run_id, "totals", 1)


def test_rows_are_not_found_by_another_file_than_the_runs(ledger: Services, tmp_path: Path):
    run = ledger.reports.run("daily_mi", given("daily_mi"), by="test")
    shipped = Path(trueup.__file__).parent / "sql" / "reports" / "daily_mi.sql"
    (tmp_path / "daily_mi.sql").write_text(shipped.read_text() + "\n-- another")
    reports = Reports(ledger.queries, PostgresRuns(ledger._pools[1]), Reporting(folders=[tmp_path]), lambda: NOW)
    with pytest.raises(Conflict):
        reports.rows(run.run_id, "by_day", 1)


class _Outbox:
    """Keeps messages in the run's own transaction, as a table of the database."""

    def add(self, messages: Any, within: Any) -> int:
        for message in messages:
            within.execute("INSERT INTO told VALUES (%s, %s)", (message.key, len(message.attachments)))
        return len(messages)


def test_a_due_moment_is_run_and_told_once(ledger: Services, fresh_database: Urls, settings: trueup.Settings):
    with psycopg.connect(fresh_database.owner, autocommit=True) as owner:
        owner.execute("CREATE TABLE public.told (key text PRIMARY KEY, files int)")
        owner.execute("GRANT ALL ON public.told TO trueup_writer")
    told = Reporting(recipients={"daily_mi": ["desk", "boss"]}, schedules={"reconciliation": ""})
    with wired(settings, fresh_database) as services:
        runs = PostgresRuns(services._pools[1], _Outbox())
        reports = Reports(services.queries, runs, told, lambda: NOW)
        (job,) = [job for job in jobs(reports, told) if job.subject == "daily_mi"]
        assert {j.subject for j in jobs(reports, told)} == {"daily_mi", "model_performance"}
        due = datetime(2026, 11, 20, 6, tzinfo=UTC)
        with psycopg.connect(fresh_database.owner, autocommit=True) as owner:
            owner.execute("ALTER TABLE public.told RENAME TO away")
            with pytest.raises(psycopg.errors.UndefinedTable):
                job.run(due)  # what cannot be told is not kept either
            assert owner.execute("SELECT count(*) FROM ledger.report_runs WHERE error IS NULL").fetchone() == (0,)
            owner.execute("ALTER TABLE public.away RENAME TO told")
            assert job.run(due).startswith("run ")
            assert job.run(due) == "was run before"
            assert sorted(owner.execute("SELECT * FROM told").fetchall()) == [
                ("report/daily_mi/2026-11-20T06:00:00+00:00/boss", 5),
                ("report/daily_mi/2026-11-20T06:00:00+00:00/desk", 5),
            ]
            with ThreadPoolExecutor(4) as workers:
                said = list(workers.map(job.run, [due + timedelta(days=1)] * 4))
            assert sum(one.startswith("run ") for one in said) == 1
            assert owner.execute("SELECT count(*) FROM told").fetchone() == (4,)
            ((as_known_at, by),) = owner.execute(
                "SELECT as_known_at, asked_by FROM ledger.report_runs ORDER BY run_id LIMIT 1"
            ).fetchall()
        assert (as_known_at, by) == (due, "clock")


def test_files_of_a_message_are_bounded(ledger: Services):
    run = ledger.reports.run("daily_mi", given("daily_mi"), by="test")
    report = replace(ledger.reports.report("daily_mi"), recipients=("desk",))
    (whole,) = messages(run, report, Reporting(public_url="https://trueup.bank/"))
    assert [a.name.rpartition(".")[2] for a in whole.attachments] == ["pdf", "html", "xlsx", "zip", "json"]
    assert f"https://trueup.bank/v1/report-runs/{run.run_id}.html" in whole.text
    bound = len(whole.attachments[0].content)
    (less,) = messages(run, report, Reporting(attachment_bytes=bound, public_url="https://trueup.bank/"))
    assert [a.media_type for a in less.attachments] == ["application/pdf"]
    (none,) = messages(run, report, Reporting(attachment_bytes=0))
    assert none.attachments == ()
    assert isinstance(none, Message)


def test_the_formats_hold_the_same_figures(ledger: Services):
    run = ledger.reports.run("daily_mi", given("daily_mi"), by="test")
    by_day = next(r for r in run.results if r.query == "by_day")

    document = json.loads(rendered(run, ReportFormat.JSON).content)
    assert [tuple(row) for row in document["queries"]["by_day"]["rows"]] == list(by_day.rows)

    with zipfile.ZipFile(io.BytesIO(rendered(run, ReportFormat.CSV).content)) as files:
        lines = list(csv.reader(io.StringIO(files.read("by_day.csv").decode())))
    assert lines[0] == [column.name for column in by_day.columns]
    assert float(lines[1][by_day.place("event_value")]) == by_day.rows[0][by_day.place("event_value")]

    book = openpyxl.load_workbook(io.BytesIO(rendered(run, ReportFormat.XLSX).content))
    assert book.sheetnames == ["About", *(r.query for r in run.results)]
    place = by_day.place("event_value") + 1
    assert book["by_day"].cell(2, place).value == pytest.approx(by_day.rows[0][place - 1], rel=1e-12)
    assert book["by_day"].cell(2, by_day.place("event_day") + 1).is_date

    text = "".join(page.extract_text() for page in PdfReader(io.BytesIO(rendered(run, ReportFormat.PDF).content)).pages)
    assert "Daily MI" in text
    assert run.file_digest in text.replace("\n", "")


def test_a_ledger_that_is_away_is_said_so(settings: trueup.Settings):
    nowhere = Urls(*["postgresql://127.0.0.1:1/none"] * 3)
    with wired(settings, nowhere) as services, pytest.raises(LedgerUnavailable):
        services.reports.run("usage", {}, by="test")


def test_a_run_equals_itself(ledger: Services):
    run = ledger.reports.run("overrides", given("overrides"), by="test")
    kept: ReportRun = ledger.reports.show(run.run_id)
    assert kept == run
