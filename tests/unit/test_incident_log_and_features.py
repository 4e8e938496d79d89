"""The incident log is read completely; features know nothing of the future."""

from __future__ import annotations

import csv
import io
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.errors import InvalidFile
from trueup_examples.exception_sla.desk import Desk, write_log
from trueup_examples.exception_sla.features import WEIGHT, History
from trueup_examples.exception_sla.files import COLUMNS, EventLog, read_log
from trueup_examples.exception_sla.train import contract, examples

FILLED_AFTERWARDS = ("closed_code", "resolved_by", "resolved_at", "closed_at")
GOOD = {
    "number": "INC0000045", "incident_state": "New", "reassignment_count": "0", "reopen_count": "0",
    "made_sla": "true", "caller_id": "Caller 2403", "opened_by": "Opened by  8", "opened_at": "29/2/2016 01:16",
    "sys_updated_at": "29/2/2016 01:23", "contact_type": "Phone", "location": "Location 143",
    "category": "Category 55", "subcategory": "Subcategory 170", "u_symptom": "Symptom 72", "impact": "2 - Medium",
    "urgency": "2 - Medium", "priority": "3 - Moderate", "assignment_group": "Group 56", "closed_code": "code 5",
    "resolved_by": "Resolved by 149", "resolved_at": "29/2/2016 11:29", "closed_at": "5/3/2016 12:00",
}  # fmt: skip


def text_of(*rows: dict[str, str]) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(GOOD), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def log_of(folder: Path, *rows: dict[str, str]) -> EventLog:
    (folder / "incident_event_log.csv").write_text(text_of(*rows), encoding="utf-8")
    return read_log(folder)


class TestReading:
    @pytest.mark.parametrize("form", ["incident_event_log.csv", "incident_event_log.csv.xz"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_every_form_of_the_file(self, tmp_path: Path, form: str, mark: str):
        data = (mark + text_of(GOOD)).encode()
        (tmp_path / form).write_bytes(lzma.compress(data) if form.endswith(".xz") else data)
        log = read_log(tmp_path)
        assert (log.number[0], log.opened_at[0], log.moment[0]) == (
            "INC0000045",
            np.datetime64("2016-02-29T01:16"),
            np.datetime64("2016-02-29T01:23"),
        )
        assert not log.dirty

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"number": "INC45"}, "incident number"),
            ({"number": "?"}, "incident number"),
            ({"opened_at": "?"}, "opened_at"),
            ({"opened_at": "30/2/2016 01:16"}, "opened_at"),
            ({"opened_at": "2016-02-29 01:16"}, "opened_at"),
            ({"opened_at": "29/2/2016 24:16"}, "opened_at"),
            ({"sys_updated_at": ""}, "sys_updated_at"),
            ({"sys_updated_at": "29/13/2016 01:23"}, "sys_updated_at"),
            ({"made_sla": "?"}, "made_sla"),
            ({"made_sla": "yes"}, "made_sla"),
            ({"priority": "?"}, "priority"),
            ({"priority": "9 - Whenever"}, "priority"),
            ({"impact": ""}, "impact"),
            ({"reassignment_count": "-1"}, "reassignment_count"),
            ({"reopen_count": "1.5"}, "reopen_count"),
            ({"reopen_count": "\u0661"}, "reopen_count"),
            ({"incident_state": "?"}, "incident_state"),
            ({"opened_at": "1/3/2016 01:16"}, "another opening of the same incident"),
            ({}, "repeated row"),
        ],
    )
    def test_a_dirty_row_is_counted_under_its_reason_and_left_out(
        self, tmp_path: Path, change: dict[str, str], reason: str
    ):
        log = log_of(tmp_path, GOOD, {**GOOD, **change})
        assert len(log) == 1
        assert log.dirty == {reason: 1}

    @pytest.mark.parametrize("line", ["INC0000046,New", "," * len(GOOD)])
    def test_a_row_with_too_few_or_too_many_columns(self, tmp_path: Path, line: str):
        (tmp_path / "incident_event_log.csv").write_text(text_of(GOOD) + line + "\n", encoding="utf-8")
        assert read_log(tmp_path).dirty == {"number of columns": 1}

    @pytest.mark.parametrize("written", ["Opened by  8", "Opened by 8", " 8", "Opened by\u00a08"])
    def test_a_name_is_the_same_with_its_word_and_without(self, tmp_path: Path, written: str):
        assert log_of(tmp_path, {**GOOD, "opened_by": written}).texts["opened_by"][0] == "Opened by 8"

    @pytest.mark.parametrize("written", ["?", " ? ", ""])
    def test_a_question_mark_is_missing_and_no_fault(self, tmp_path: Path, written: str):
        log = log_of(tmp_path, {**GOOD, "assignment_group": written})
        assert log.texts["assignment_group"][0] is None
        assert not log.dirty

    def test_an_event_is_never_known_before_the_opening_nor_before_the_one_ahead(self, tmp_path: Path):
        log = log_of(
            tmp_path,
            {**GOOD, "sys_updated_at": "28/2/2016 23:00"},
            {**GOOD, "incident_state": "Active", "sys_updated_at": "1/3/2016 08:00"},
            {**GOOD, "incident_state": "Active", "sys_updated_at": "29/2/2016 08:00"},
        )
        assert [str(m) for m in log.moment] == ["2016-02-29T01:16", "2016-03-01T08:00", "2016-03-01T08:00"]
        assert log.place.tolist() == [0, 1, 2]

    def test_incidents_come_in_the_order_of_opening(self, tmp_path: Path):
        later = {**GOOD, "number": "INC0000001", "opened_at": "29/2/2016 01:17"}
        assert log_of(tmp_path, later, GOOD, later | {"incident_state": "Active"}).number.tolist() == [
            "INC0000045",
            "INC0000001",
            "INC0000001",
        ]

    @pytest.mark.parametrize(
        "content", [b"", b"nothing", b"number,opened_at\n", b"\xfd7zXZ\x00broken", b"\xff\xfe\x00"]
    )
    def test_what_is_no_such_file_is_a_clear_error(self, tmp_path: Path, content: bytes):
        for name in ("incident_event_log.csv.xz", "incident_event_log.csv"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(InvalidFile):
                read_log(tmp_path)

    def test_a_folder_without_a_log_is_a_clear_error(self, tmp_path: Path):
        with pytest.raises(InvalidFile, match="no incident log"):
            read_log(tmp_path)


class TestRecords:
    """A group's record is the mean excess of missed over all that was closed on the same day."""

    def closing(self, number: int, group: str, day: int, missed: bool) -> list[dict[str, str]]:
        opened = {**GOOD, "number": f"INC{number:07d}", "assignment_group": group, "opened_at": "1/3/2016 09:00"}
        return [
            opened | {"sys_updated_at": "1/3/2016 09:01"},
            opened
            | {
                "incident_state": "Closed",
                "made_sla": "false" if missed else "true",
                "sys_updated_at": f"{day}/3/2016 17:00",
            },
        ]

    def new(self, number: int, group: str, when: str) -> dict[str, str]:
        return {
            **GOOD,
            "number": f"INC{number:07d}",
            "assignment_group": group,
            "opened_at": when,
            "sys_updated_at": when,
        }

    def record(self, folder: Path, group: str, when: str) -> float:
        closed = (
            self.closing(1, "Group 1", 5, missed=True)
            + self.closing(2, "Group 1", 5, missed=True)
            + self.closing(3, "Group 2", 5, missed=False)
            + self.closing(4, "Group 2", 5, missed=False)
            + self.closing(5, "Group 2", 6, missed=True)
        )
        log = log_of(folder, *closed, self.new(9, group, when))
        (row,) = np.flatnonzero(log.number == "INC0000009")
        return float(History(log).features(np.array([row]))["group_record"][0])

    def test_nothing_is_known_before_anything_is_closed(self, tmp_path: Path):
        assert self.record(tmp_path, "Group 1", "4/3/2016 10:00") == 0

    def test_what_is_closed_today_counts_from_tomorrow(self, tmp_path: Path):
        assert self.record(tmp_path, "Group 1", "5/3/2016 23:59") == 0
        assert self.record(tmp_path, "Group 1", "6/3/2016 00:00") == pytest.approx(2 * 0.5 / (2 + WEIGHT))

    def test_missed_like_all_others_of_its_day_is_no_excess(self, tmp_path: Path):
        assert self.record(tmp_path, "Group 2", "6/3/2016 08:00") == pytest.approx(-2 * 0.5 / (2 + WEIGHT))
        assert self.record(tmp_path, "Group 2", "7/3/2016 08:00") == pytest.approx(-2 * 0.5 / (3 + WEIGHT))

    def test_a_group_never_seen_has_the_record_of_all(self, tmp_path: Path):
        assert self.record(tmp_path, "Group 7", "7/3/2016 08:00") == 0
        assert self.record(tmp_path, "?", "7/3/2016 08:00") == 0


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    write_log(Desk(a_day=12, days=40, seed=9), folder)
    return folder


@pytest.fixture(scope="module")
def history(desk: Path) -> History:
    return History(read_log(desk))


class TestPointInTime:
    def test_the_first_closing_counts_where_an_incident_is_opened_again(self, tmp_path: Path):
        again = [
            {**GOOD, "incident_state": state, "made_sla": made, "sys_updated_at": f"{day}/3/2016 09:00"}
            for state, made, day in (("New", "true", 1), ("Closed", "true", 4), ("Closed", "false", 9))
        ]
        history = History(log_of(tmp_path, *again))
        assert str(history.closed_at[0]) == "2016-03-04T09:00"
        assert not history.missed[0]

    @given(st.data())
    def test_later_events_never_change_features(self, history: History, data: st.DataObject):
        log = history.log
        at = log.moment[data.draw(st.integers(0, len(log) - 1))] + data.draw(st.integers(-1, 1))
        then = log.until(at)
        before = History(then).features(np.arange(len(then)))
        after = history.features(np.flatnonzero(log.moment <= at))
        for name, column in before.items():
            assert np.array_equal(column, after[name]), name

    def test_what_was_filled_in_afterwards_is_not_read(self, desk: Path, tmp_path: Path):
        with (desk / "incident_event_log.csv").open(encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        blank = [{**row, **dict.fromkeys(FILLED_AFTERWARDS, "?")} for row in rows]
        known, unknown = History(read_log(desk)), History(log_of(tmp_path, *blank))
        every = np.arange(len(rows))
        for name, column in known.features(every).items():
            assert np.array_equal(column, unknown.features(every)[name]), name
        assert not set(FILLED_AFTERWARDS) & set(COLUMNS)

    def test_a_ticket_alone_has_the_features_it_has_among_all(self, history: History):
        rows = history.log.first
        together = history.features(rows)
        for place in range(0, len(rows), 37):
            for name, column in history.features(rows[place : place + 1]).items():
                assert column[0] == together[name][place], name

    def test_training_sees_only_what_was_closed_before(self, history: History):
        until = np.datetime64("2024-01-22", "m")
        for every_event in (False, True):
            rows = examples(history, until, every_event=every_event)
            assert len(rows)
            assert (history.closed_at[history.incident[rows]] < until).all()
            assert (history.log.moment[rows] < until).all()
        assert not (history.log.texts["incident_state"][rows] == "Closed").any()
        assert (history.log.moment[rows] <= history.closed_at[history.incident[rows]]).all()


def test_features_are_those_of_the_contract(history: History):
    columns = history.features(np.arange(len(history.log)))
    assert set(columns) == {f.name for f in contract().fields}
    for f in contract().features:
        assert np.isfinite(columns[f.name]).all()
        assert f.minimum is None or (columns[f.name] >= f.minimum).all()
        assert f.maximum is None or (columns[f.name] <= f.maximum).all()


def test_the_generator_writes_a_clean_log_and_the_same_one_again(desk: Path, history: History, tmp_path: Path):
    assert not history.log.dirty
    path = write_log(Desk(a_day=12, days=40, seed=9), tmp_path)
    assert path.read_bytes() == (desk / path.name).read_bytes()


def test_the_generated_desk_misses_less_later_and_leaves_some_open(history: History):
    opened = history.log.opened_at[history.log.first]
    early = opened < opened.min() + np.timedelta64(14, "D")
    missed = history.missed & history.closed
    assert missed[early].mean() > 0.5 > 0.35 > missed[~early].mean()
    assert 0 < (~history.closed).sum() < 20
    assert not history.missed[~history.closed].any()
