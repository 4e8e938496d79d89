"""Reports as files: what their front matter may say, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trueup.domain.job import Missed
from trueup.domain.report import Behind, ChartKind, FigureFormat, ReportFormat
from trueup.errors import InvalidFile
from trueup.reports.reading import Report, read_reports, report_of
from trueup.sql.files import read_sql_file

FILE = """/*---
title: Fails
audience: the desk
schedule: "0 6 * * *"
missed: all
parameters:
  k: {type: integer, default: 5}
  row_day: {type: date, required: false}
charts:
  - {query: days, kind: bar, x: day, y: n}
formats: [html, pdf]
recipients: [desk]
columns: {share: share, cost: {format: money, unit: USD}}
links: {key: "/v1/things/{key}"}
rows: {days: {query: behind, keys: [day]}}
tiles: [short]
---*/
-- query: short
SELECT %(k)s AS k
-- query: days  Day by day
SELECT event_day AS day, count(*) AS n FROM truth GROUP BY event_day
-- query: behind
SELECT * FROM truth WHERE event_day = %(row_day)s
"""


def of(text: str) -> Report:
    return report_of(read_sql_file(text, "fails"))


def test_a_report_is_what_its_file_says():
    report = of(FILE)
    assert (report.name, report.look.title, report.schedule, report.missed) == (
        "fails",
        "Fails",
        "0 6 * * *",
        Missed.ALL,
    )
    assert [query.name for query in report.queries] == ["short", "days"]
    assert report.look.rows == {"days": Behind("behind", ("day",))}
    assert report.look.charts[0].kind is ChartKind.BAR
    assert report.formats == (ReportFormat.HTML, ReportFormat.PDF)
    assert report.look.columns["cost"].format is FigureFormat.MONEY
    assert report.recipients == ("desk",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title: Fails", "titel: Fails", "titel"),
        ("title: Fails", "audience2: x", "audience2"),
        ("missed: all", "missed: some", "missed"),
        ("kind: bar", "kind: pie", "kind"),
        ("kind: bar", "kind: heat", "heat map"),
        ("query: days, kind", "query: other, kind", "no query"),
        ("y: n}", "y: [n, m], series: s}", "several y"),
        ("y: n}", "y: n, low: l}", "low goes with high"),
        ("y: n}", "y: n, colour: red}", "only"),
        ("y: n}", "y: n, diagonal: 1}", "diagonal"),
        ("formats: [html, pdf]", "formats: [docx]", "formats"),
        ("recipients: [desk]", "recipients: desk", "list of names"),
        ("share: share", "share: percent", "columns.share"),
        ("unit: USD}", "units: USD}", "columns.cost"),
        ("/v1/things/{key}", "https://elsewhere/{key}", "path of this server"),
        ("/v1/things/{key}", "//elsewhere/{key}", "path of this server"),
        ("/v1/things/{key}", "/v1/things/{other}", "holds {key}"),
        ("keys: [day]", "keys: [month]", "row_month"),
        ("query: behind, keys", "query: gone, keys", "no query"),
        ("tiles: [short]", "tiles: [long]", "no query"),
        ("default: 5", "required: true", "needs a default"),
        ("charts:\n", "charts: {}\nunused:\n", "unused"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(old: str, new: str, said: str):
    assert old in FILE
    with pytest.raises(InvalidFile, match=r"^fails\.sql: ") as raised:
        of(FILE.replace(old, new))
    assert said in raised.value.message


def test_rows_behind_rows_are_refused():
    with pytest.raises(InvalidFile, match="none behind it"):
        of(FILE.replace("keys: [day]}}", "keys: [day]}, behind: {query: short, keys: []}}"))


def test_a_folders_report_replaces_a_shipped_one(tmp_path: Path):
    (tmp_path / "daily_mi.sql").write_text("/*---\ntitle: Ours\n---*/\nSELECT 1 AS one")
    found = read_reports([tmp_path])
    assert found["daily_mi"].look.title == "Ours"
    assert {"model_performance", "reconciliation", "overrides", "usage", "drift_summary"} < set(found)


def test_shipped_reports_read_nothing_but_views_and_the_bound_moment():
    for report in read_reports([]).values():
        for query in report.file.queries:
            assert query.relations, query.name
            assert "%(now)s" in query.text or "stream_reconciliation" in query.text, (report.name, query.name)
        assert replace(report, schedule="").file.parameters
