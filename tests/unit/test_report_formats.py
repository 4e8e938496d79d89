"""What a run is made into: values, figures in words, charts, and files that do no harm."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID
from xml.etree import ElementTree

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.domain.report import (
    Asked,
    CellKind,
    Chart,
    ChartKind,
    Column,
    FigureFormat,
    Look,
    ReportFormat,
    ReportRun,
    Result,
    Shown,
)
from trueup.errors import InvalidQuery
from trueup.reports.charts.drawing import pictures
from trueup.reports.charts.scales import linear, moments, seconds_of
from trueup.reports.formats import rendered
from trueup.reports.formats.html import policy
from trueup.reports.values import columns_of, plain
from trueup.reports.writing import figure, short, writer

NOW = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
EVIL = [
    "=1+1",
    "+1",
    "-1+2",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "=cmd|'/c calc'!A0",
    "<script>alert(1)</script>",
    "'a",
    "{{ 7 * 7 }}",
]


def result(rows: list[tuple[Any, ...]], names: tuple[str, ...] = ("x", "y"), query: str = "main") -> Result:
    cells = tuple(tuple(plain(cell) for cell in row) for row in rows)
    return Result(query, "", "0" * 64, columns_of(names, rows), cells)


def run_of(*results: Result, look: Look | None = None) -> ReportRun:
    asked = Asked("name", {"k": 5, "day": None}, NOW, "recorded", "user:ada")
    return ReportRun(7, asked, look or Look("Title"), "f" * 64, NOW, 12, results)


class TestValues:
    @pytest.mark.parametrize(
        ("cell", "value"),
        [
            (Decimal("12"), 12),
            (Decimal("12.50"), 12.5),
            (Decimal("1E+3"), 1000),
            (Decimal("NaN"), None),
            (float("inf"), None),
            (date(2026, 1, 2), "2026-01-02"),
            (NOW, "2026-11-20T06:30:00Z"),
            (timedelta(minutes=1.5), 90.0),
            (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            ([1, None], "[1, null]"),
            (b"\x01\xff", "01ff"),
            ("x" * 10_001, "x" * 10_000 + "…"),
            (True, True),
        ],
    )
    def test_plain(self, cell: Any, value: Any):
        assert plain(cell) == value
        assert type(plain(cell)) is type(value)

    def test_a_kind_holds_for_the_whole_column(self):
        rows = [
            (1, 1, True, date(2026, 1, 1), NOW, None),
            (2, 1.5, None, None, NOW, None),
            (3, Decimal("2"), False, "x", NOW, None),
        ]
        kinds = [column.kind for column in columns_of("abcdef", rows)]
        assert kinds == [
            CellKind.INTEGER,
            CellKind.NUMBER,
            CellKind.BOOLEAN,
            CellKind.TEXT,
            CellKind.TIMESTAMP,
            CellKind.TEXT,
        ]

    @given(
        st.lists(st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.decimals(), st.dates(), st.binary()))
    )
    def test_whatever_the_database_gives_is_json(self, cells: list[Any]):
        assert json.loads(json.dumps([plain(cell) for cell in cells], allow_nan=False)) == [plain(c) for c in cells]


class TestWriting:
    def test_figures(self):
        assert figure(1234567.5, 1) == "1\u202f234\u202f567.5"
        assert figure(-1234, 0) == "\u22121\u202f234"
        assert figure(-0.04, 1) == "0.0"
        assert figure(0.1234, 1, is_share=True) == "12.3\u202f%"
        assert short(1_234_567, None) == "1.235\u202fm"
        assert short(999_999, None) == "1\u202fm"
        assert short(-0.25, FigureFormat.SHARE) == "\u221225\u202f%"

    def test_a_column_has_one_number_of_decimals(self):
        cells = [0.5, 12.25, None]
        write = writer(Column("x", CellKind.NUMBER), Shown(), cells)
        assert [write(cell) for cell in cells] == ["0.50", "12.25", "–"]

    @given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 6))
    def test_a_figure_reads_back(self, value: float, decimals: int):
        text = figure(value, decimals).replace("\u202f", "").replace("\u2212", "-")
        assert float(text) == pytest.approx(value, abs=0.51 * 10.0**-decimals, rel=1e-9)


class TestScales:
    @given(
        st.lists(st.floats(-1e12, 1e12).filter(lambda v: v == 0 or abs(v) > 1e-9), min_size=1, max_size=20),
        st.booleans(),
    )
    def test_ticks_are_round_and_hold_all_values(self, values: list[float], zero: bool):
        scale = linear(values, 0.0, 100.0, str, zero=zero)
        slack = 1e-6 * max(1e-9, scale.high - scale.low)
        assert scale.low <= min(values) + slack
        assert scale.high >= max(values) - slack
        assert 2 <= len(scale.ticks) <= 8
        assert not zero or scale.low <= 0 <= scale.high
        places = [scale(tick.value) for tick in scale.ticks]
        assert places == sorted(places)

    @given(st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)), st.timedeltas(timedelta(0), timedelta(days=9_000)))
    def test_moments_have_a_few_ticks_within(self, first: datetime, length: timedelta):
        low = seconds_of(first.isoformat())
        scale = moments([low, low + length.total_seconds()], 0.0, 700.0)
        assert len(scale.ticks) <= 10
        assert all(scale.low <= tick.value <= scale.high for tick in scale.ticks)


def drawn(kind: ChartKind, rows: list[tuple[Any, ...]], names: tuple[str, ...] = ("x", "y"), **more: Any) -> list[str]:
    found = pictures(Chart("main", kind, "x", ("y",), **more), result(rows, names), {}, "c")
    for one in found:
        ElementTree.fromstring(one.svg)
    return [one.svg for one in found]


class TestCharts:
    DAYS: ClassVar = [
        (date(2026, 11, 1) + timedelta(days=i), float(i * i), "a" if i % 2 else "b", i - 1.0, i + 1.0) for i in range(9)
    ]
    NAMES = ("x", "y", "s", "l", "h")

    @pytest.mark.parametrize("kind", list(ChartKind))
    def test_every_kind_draws_and_says_what_it_shows(self, kind: ChartKind):
        (svg,) = drawn(kind, self.DAYS, self.NAMES, series="s", title="Squares")
        assert 'role="img"' in svg
        assert '<title id="c-0-t">Squares</title>' in svg
        assert re.search(r"<desc id=\"c-0-d\">.*largest 64", svg)

    def test_bars_stand_from_zero_to_their_value(self):
        (svg,) = drawn(ChartKind.BAR, [("a", 10), ("b", 20), ("c", -10)])
        bars = list(ElementTree.fromstring(svg).iter("rect"))
        heights = [float(bar.get("height", "0")) for bar in bars]
        assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
        assert heights[2] == pytest.approx(heights[0], abs=0.2)
        assert float(bars[2].get("y", "0")) == pytest.approx(float(bars[0].get("y", "0")) + heights[0], abs=0.2)

    def test_stacks_lie_on_one_another(self):
        (svg,) = drawn(ChartKind.STACKED, [("a", 1, "p"), ("a", 3, "q")], ("x", "y", "s"), series="s")
        low, high = [r for r in ElementTree.fromstring(svg).iter("rect") if r.find("title") is not None]
        assert float(high.get("y", "")) + float(high.get("height", "")) == pytest.approx(
            float(low.get("y", "")), abs=0.2
        )

    def test_a_line_breaks_where_nothing_is_known(self):
        (svg,) = drawn(ChartKind.LINE, [(1, 1.0), (2, 2.0), (3, None), (4, 1.0), (5, 2.0)])
        (path,) = [p.get("d", "") for p in ElementTree.fromstring(svg).iter("path")]
        assert path.count("M") == 2

    def test_facets_are_pictures_of_their_own(self):
        assert len(drawn(ChartKind.LINE, self.DAYS, self.NAMES, facet="s")) == 2

    def test_what_cannot_be_drawn_is_said(self):
        assert drawn(ChartKind.LINE, []) == []
        with pytest.raises(InvalidQuery, match="no column"):
            drawn(ChartKind.LINE, [(1, 2)], ("x", "z"))
        with pytest.raises(InvalidQuery, match="no figures"):
            drawn(ChartKind.LINE, [(1, "two")])

    def test_many_series_are_bounded_and_the_rest_is_said(self):
        (svg,) = drawn(ChartKind.LINE, [(i % 3, i, f"s{i // 3}") for i in range(90)], ("x", "y", "s"), series="s")
        assert "and 18 more" in svg

    @given(
        st.sampled_from(list(ChartKind)),
        st.lists(
            st.tuples(
                st.one_of(st.integers(-5, 5), st.none()),
                st.one_of(st.none(), st.floats(-1e9, 1e9), st.floats()),
                st.text(max_size=5),
            ),
            max_size=30,
        ),
    )
    def test_whatever_the_rows_a_picture_is_whole(self, kind: ChartKind, rows: list[tuple[Any, ...]]):
        """Well-formed, and no mark without a place."""
        for svg in drawn(kind, rows, ("x", "y", "s"), series="s"):
            assert "nan" not in svg.lower().replace("dominant", "")
            assert not re.search(r'="-?inf', svg)


class TestFiles:
    @pytest.mark.parametrize("text", EVIL)
    def test_no_text_becomes_a_formula_or_markup(self, text: str):
        made = run_of(result([(text, 1)]), look=Look(text, text, text, columns={"x": Shown(title=text)}))
        book = openpyxl.load_workbook(io.BytesIO(rendered(made, ReportFormat.XLSX).content))
        cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row]
        assert all(cell.data_type != "f" for cell in cells)
        assert all(cell.hyperlink is None for cell in cells)
        lines = list(csv.reader(io.StringIO(rendered(made, ReportFormat.CSV).content.decode(), newline="")))
        assert not lines[1][0].startswith(("=", "+", "-", "@", "\t", "\r"))
        page = rendered(made, ReportFormat.HTML).content.decode()
        assert "<script" not in page
        assert json.loads(rendered(made, ReportFormat.JSON).content)["queries"]["main"]["rows"][0][0] == text

    def test_figures_stay_figures(self):
        made = run_of(result([(-5, 2.5), (10**17, 0.1)]))
        lines = list(csv.reader(io.StringIO(rendered(made, ReportFormat.CSV).content.decode())))
        assert lines[1] == ["-5", "2.5"]
        sheet = openpyxl.load_workbook(io.BytesIO(rendered(made, ReportFormat.XLSX).content))["main"]
        assert sheet["A2"].value == -5
        assert sheet["A3"].value == str(10**17)  # which Excel's sixteen digits would round

    def test_several_queries_are_a_zip_and_sheets_of_their_own(self):
        long = "a" * 40
        made = run_of(result([(1, 2)], query=long), result([(3, 4)], query=long + "b"), result([(5, 6)], query="about"))
        csvs = rendered(made, ReportFormat.CSV)
        assert csvs.name.endswith(".csv.zip")
        assert len(zipfile.ZipFile(io.BytesIO(csvs.content)).namelist()) == 3
        names = openpyxl.load_workbook(io.BytesIO(rendered(made, ReportFormat.XLSX).content)).sheetnames
        assert len({name.lower() for name in names}) == 4

    def test_a_page_without_rows_and_one_with_too_many(self):
        assert "No rows." in rendered(run_of(result([])), ReportFormat.HTML).content.decode()
        page = rendered(run_of(result([(i, i) for i in range(500)])), ReportFormat.HTML).content.decode()
        assert "200 more of 500 rows" in page

    def test_links_lead_to_this_server_alone(self):
        rows = [("a/b?c=1#d", 1)]
        look = Look("T", links={"x": "/v1/things/{x}"})
        page = rendered(run_of(result(rows), look=look), ReportFormat.HTML, "https://trueup.bank/").content.decode()
        assert 'href="https://trueup.bank/v1/things/a%2Fb%3Fc%3D1%23d"' in page

    def test_the_policy_names_the_style(self):
        assert re.search(r"style-src 'sha256-[A-Za-z0-9+/=]{44}'", policy())

    def test_every_format_is_the_same_bytes_again(self):
        made = run_of(result([(date(2026, 1, 1), math.pi)]))
        for format_ in ReportFormat:
            assert rendered(made, format_).content == rendered(made, format_).content
