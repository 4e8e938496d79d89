"""The exception queue as a whole: on a generated desk, and on the real log where its folder is given.

``TRUEUP_TEST_INCIDENT_LOG`` names a folder with the log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

import trueup
from databases import create_database
from trueup.alerts.fixtures import read_fixture, run_story
from trueup.alerts.reading import RuleFile, read_rules
from trueup.alerts.states import Bounds
from trueup.bootstrap import wired
from trueup.errors import InvalidInput
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.monitoring.performance import ece
from trueup_examples.exception_sla.demo import main
from trueup_examples.exception_sla.desk import Desk, write_log
from trueup_examples.exception_sla.features import History
from trueup_examples.exception_sla.figures import figures
from trueup_examples.exception_sla.files import read_log
from trueup_examples.exception_sla.replay import EVENTS, OPENINGS, Replay

GENERATED = "generated"
RULES = Path(str(files("trueup_examples.exception_sla") / "sql" / "alerts"))
REAL = os.environ.get("TRUEUP_TEST_INCIDENT_LOG")
HORIZON = timedelta(days=30)
TRUTH = """
    SELECT date_trunc('week', t.event_day::timestamp)::date::text AS week, t.prediction_id::text AS id,
           t.business_key, t.event_day, t.event_time, t.score, t.outcome, t.outcome_observed_at AS observed_at
    FROM truth t WHERE t.deployment = %(deployment)s
"""
COUNTS = """
    SELECT (SELECT count(*) FROM predictions) AS predictions, (SELECT count(*) FROM outcome_history) AS outcomes,
           (SELECT count(*) FROM model_versions) AS versions, (SELECT count(*) FROM measurements) AS measurements,
           (SELECT count(*) FROM refusals) AS refusals
"""


@dataclass(frozen=True)
class Replayed:
    up: trueup.Trueup
    folder: Path
    history: History
    trained_until: date

    @property
    def last_day(self) -> date:
        """The last ticket is due: the replay ends."""
        opened: date = self.history.log.opened_at.max().astype("datetime64[D]").item()
        return opened + HORIZON

    def truth(self, deployment: str = OPENINGS) -> list[dict[str, Any]]:
        return self.up.query(TRUTH, deployment=deployment).rows()


@pytest.fixture(scope="module", params=[GENERATED, *([REAL] if REAL else [])])
def replayed(
    request: pytest.FixtureRequest, server: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replayed]:
    folder = tmp_path_factory.mktemp("queue")
    log = Path(request.param)
    if request.param == GENERATED:
        log = folder / "log"
        write_log(Desk(a_day=60, days=63, seed=4), log)
    with trueup.Trueup(wired(trueup.Settings(data_dir=folder / "data"), create_database(server, template))) as up:
        replay(up, log)
        (row,) = up.query("SELECT champion FROM deployments WHERE name = %(name)s", name=OPENINGS)
        yield Replayed(up, log, History(read_log(log)), date.fromisoformat(row["champion"].partition("-")[2]))


def replay(up: trueup.Trueup, log: Path, *, every_event: bool = False, until: date | None = None) -> None:
    Replay(up, log, until, lambda *_: None, lambda _: None, every_event=every_event).run()


def bind_of(rule: RuleFile) -> Any:
    """How a story binds the rule's parameters."""
    return lambda at, given: rule.file.bind(given, now=at)


def known(rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of what has an outcome."""
    mine = [r for r in rows if r["outcome"] is not None]
    return np.array([r["score"] for r in mine]), np.array([r["outcome"] > 0 for r in mine])


class TestTheReplay:
    def test_every_ticket_opened_after_the_training_is_booked_once_with_its_opening(self, replayed: Replayed):
        log = replayed.history.log
        first = log.first
        later = [
            (number, moment)
            for number, moment in zip(log.number[first], log.opened_at[first].tolist(), strict=True)
            if moment.date() > replayed.trained_until
        ]
        rows = replayed.truth()
        assert sorted((r["business_key"], r["event_time"].replace(tzinfo=None)) for r in rows) == sorted(later)
        assert replayed.up.query(COUNTS).rows()[0]["refusals"] == 0

    def test_a_rerun_books_nothing_new(self, replayed: Replayed):
        before = replayed.up.query(COUNTS).rows()
        replay(replayed.up, replayed.folder)
        assert replayed.up.query(COUNTS).rows() == before

    def test_an_outcome_was_known_when_the_incident_was_closed(self, replayed: Replayed):
        said = closings(replayed)
        for row in replayed.truth():
            if row["business_key"] not in said:
                assert row["outcome"] is None  # censored: open at the end
            else:
                when, missed = said[row["business_key"]]
                assert row["observed_at"].replace(tzinfo=None) == when
                assert bool(row["outcome"]) == missed

    def test_what_is_closed_again_is_revised(self, replayed: Replayed):
        (row,) = replayed.up.query(
            "SELECT count(*) FILTER (WHERE revision > 1) AS revised, count(DISTINCT business_key) AS incidents"
            " FROM outcome_history WHERE label = 'missed_sla'"
        )
        assert 0 < row["revised"] < 0.03 * row["incidents"]

    def test_both_labels_are_said_together(self, replayed: Replayed):
        (row,) = replayed.up.query(
            "SELECT count(*) FILTER (WHERE label = 'missed_sla') AS missed,"
            " count(*) FILTER (WHERE label = 'days_to_close') AS days,"
            " max(observed_at - event_day::timestamp AT TIME ZONE 'UTC' - value_number * interval '1 day')"
            "     FILTER (WHERE label = 'days_to_close') AS off"
            " FROM outcome_history"
        )
        assert row["missed"] == row["days"]
        assert row["off"] < timedelta(days=1)  # the event day is the day of the opening, not its minute

    def test_some_are_open_at_the_end_and_outcomes_come_late_and_out_of_order(self, replayed: Replayed):
        rows = replayed.truth()
        of_known = sorted((r for r in rows if r["outcome"] is not None), key=lambda r: r["observed_at"])
        opened = [r["event_time"] for r in of_known]
        assert 0 < len(rows) - len(of_known) < len(rows) / 20
        assert opened != sorted(opened)
        delays = [(r["observed_at"] - r["event_time"]) / timedelta(days=1) for r in of_known]
        assert 4 < np.median(delays) < 9
        assert max(delays) > 20

    def test_features_in_the_ledger_are_those_of_the_moment(self, replayed: Replayed):
        log = replayed.history.log
        for row in replayed.truth()[::500]:
            (place,) = np.flatnonzero((log.number == row["business_key"]) & (log.place == 0))
            then = log.until(log.moment[place])
            (there,) = np.flatnonzero((then.number == row["business_key"]) & (then.place == 0))
            live = History(then).features(np.array([there]))
            booked = replayed.up.prediction(row["id"])["fields"]
            for name, column in live.items():
                if column.dtype == np.float64:
                    assert booked[name] == column[0], name


def closings(replayed: Replayed) -> dict[str, tuple[datetime, bool]]:
    """What was said last, until the end, of each closed incident, and when."""
    log = replayed.history.log
    said: dict[str, tuple[datetime, bool]] = {}
    for row in np.flatnonzero(log.texts["incident_state"] == "Closed").tolist():
        when, missed = log.moment[row].item(), bool(log.numbers["made_sla"][row] == 0)
        if when.date() <= replayed.last_day:
            said[log.number[row]] = (when, missed)
    return said


class TestWhatItShows:
    def test_calibration_falls_while_the_ranking_keeps(self, replayed: Replayed):
        weeks = [w for w in figures(replayed.up)["weeks"] if w["rows"] > 300]
        assert len(weeks) >= 4
        for week in weeks:
            assert week["predicted"] - week["base_rate"] > 0.05
            assert week["ece"] > 0.15
            assert week["auc"] > 0.55
            assert week["top_precision"] > week["base_rate"]

    def test_what_is_known_first_flatters(self, replayed: Replayed):
        weeks = {w["week"]: w for w in figures(replayed.up)["weeks"]}
        by_week: dict[str, list[dict[str, Any]]] = {}
        for row in figures(replayed.up)["knowledge"]:
            by_week.setdefault(row["week"], []).append(row)
        for week, rows in by_week.items():
            assert [r["maturity"] for r in rows] == sorted(r["maturity"] for r in rows)
            if weeks[week]["rows"] > 300:
                assert rows[0]["base_rate"] < 0.5 * weeks[week]["base_rate"]
                assert rows[0]["ece"] > rows[-1]["ece"]

    def test_what_scores_alone_promise_is_not_what_comes(self, replayed: Replayed):
        weeks = {w["week"]: w for w in figures(replayed.up)["weeks"]}
        rows = figures(replayed.up)["foreseen"]
        assert {r["week"] for r in rows} == set(weeks)
        for row in rows:
            assert row["realised"] == pytest.approx(weeks[row["week"]][row["figure"]], abs=1e-9)
            if weeks[row["week"]]["rows"] > 300:
                assert row["low"] <= row["estimated"] <= row["high"]
                if row["figure"] != "auc":
                    assert not row["as_foreseen"]
        base = [r for r in rows if r["figure"] == "base_rate" and r["recalibrated"] is not None and r["rows"] > 300]
        assert all(r["realised"] < r["recalibrated"] + 0.1 < r["estimated"] + 0.1 for r in base)


class TestFigures:
    """The report's SQL agrees with scikit-learn and with plain sorting."""

    def test_each_weeks_statistics(self, replayed: Replayed):
        rows = replayed.truth()
        weeks = figures(replayed.up)["weeks"]
        assert [w["week"] for w in weeks] == sorted({r["week"] for r in rows})
        for found in weeks:
            mine = [r for r in rows if r["week"] == found["week"]]
            score, missed = known(mine)
            assert (found["rows"], found["with_outcome"]) == (len(mine), len(score))
            assert found["base_rate"] == pytest.approx(missed.mean(), abs=1e-12)
            assert found["predicted"] == pytest.approx(score.mean(), abs=1e-12)
            assert found["auc"] == pytest.approx(roc_auc_score(missed, score), abs=1e-9)
            assert found["brier"] == pytest.approx(brier_score_loss(missed, score), abs=1e-9)
            assert found["ece"] == pytest.approx(calibration_error(score, missed), abs=1e-9)
            top = sorted(mine, key=lambda r: (-r["score"], r["id"]))[: -(-len(mine) // 10)]
            labels = [r["outcome"] > 0 for r in top if r["outcome"] is not None]
            assert found["top_precision"] == pytest.approx(np.mean(labels), abs=1e-12)
            assert found["top_caught"] == pytest.approx(sum(labels) / missed.sum(), abs=1e-12)

    def test_a_week_as_it_was_known_earlier(self, replayed: Replayed):
        rows = replayed.truth()
        for found in figures(replayed.up)["knowledge"]:
            week = date.fromisoformat(found["week"])
            end = week + timedelta(weeks=1 + found["weeks_after"])
            mine = [r for r in rows if r["week"] == found["week"]]
            seen = [r for r in mine if r["observed_at"] is not None and r["observed_at"].date() < end]
            score, missed = known(seen)
            assert found["maturity"] == pytest.approx(len(seen) / len(mine), abs=1e-12)
            assert found["base_rate"] == pytest.approx(missed.mean(), abs=1e-12)
            assert found["ece"] == pytest.approx(calibration_error(score, missed), abs=1e-9)

    def test_the_whole_and_its_parts(self, replayed: Replayed):
        rows = replayed.truth()
        score, missed = known(rows)
        found = figures(replayed.up)
        assert found["overall"]["rows_booked"] == len(rows)
        assert found["overall"]["outcomes_joined"] == len(score)
        assert found["overall"]["auc"] == pytest.approx(roc_auc_score(missed, score), abs=1e-9)
        assert sum(b["rows"] for b in found["calibration"]) == len(score)
        by_priority = [s for s in found["segments"] if s["kind"] == "priority"]
        assert {s["segment"] for s in by_priority} <= {"P1", "P2", "P3", "P4"}
        gaps = [abs(s["predicted"] - s["happened"]) for s in found["segments"]]
        assert gaps == sorted(gaps, reverse=True)


def calibration_error(score: np.ndarray, missed: np.ndarray) -> float:
    """ECE over ten bins of equal width."""
    place = np.minimum((score * 10).astype(int), 9)
    gaps = [abs(score[place == b].mean() - missed[place == b].mean()) * (place == b).sum() for b in np.unique(place)]
    return float(sum(gaps) / len(score))


def test_scored_after_every_event_an_incident_has_several_predictions_and_one_outcome(replayed: Replayed):
    before = len(replayed.truth())
    replay(replayed.up, replayed.folder, every_event=True)
    rows = replayed.truth(EVENTS)
    assert len(replayed.truth()) == before
    assert {r["business_key"] for r in rows} <= {r["business_key"] for r in replayed.truth()}
    assert len(rows) > 2 * len({r["business_key"] for r in rows})
    by_incident: dict[str, set[Any]] = {}
    for row in rows:
        by_incident.setdefault(row["business_key"], set()).add((row["outcome"], row["event_day"]))
    assert {len(outcomes) for outcomes in by_incident.values()} == {1}


def test_the_demonstration_writes_its_report(up: trueup.Trueup, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_log(Desk(a_day=20, days=35, seed=2), tmp_path / "log")
    out, html = tmp_path / "report.json", tmp_path / "report.html"
    assert main(up, data=tmp_path / "log", train_until=date(2024, 1, 16), out=out, html=html) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    shown = capsys.readouterr().out
    assert f"{found['overall']['rows_booked']:,} predictions booked" in shown
    assert found["overall"]["example"] in shown
    page = html.read_text(encoding="utf-8")
    assert all(week["week"] in page for week in found["weeks"])
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched


@pytest.mark.parametrize("until", [date(2023, 12, 31), date(2024, 1, 20), date(2030, 1, 1)])
def test_a_training_that_ends_outside_the_log_is_a_clear_error(up: trueup.Trueup, tmp_path: Path, until: date):
    write_log(Desk(a_day=3, days=20, seed=2), tmp_path)
    with pytest.raises(InvalidInput, match="TRAIN_UNTIL"):
        replay(up, tmp_path, until=until)


class TestRules:
    """The example's alert rules, on their fixtures and over the replayed history."""

    @pytest.mark.parametrize("name", ["sla_clock", "sla_calibration_off"])
    def test_each_story_of_a_rules_fixture(self, up: trueup.Trueup, name: str):
        rule = read_rules([RULES]).readable[name]
        bounds = Bounds(timedelta(minutes=15), timedelta(hours=1), timedelta(minutes=10))
        for story in read_fixture(RULES / f"{name}.test.yaml"):
            verdict = run_story(story, rule, bind_of(rule), up.services.queries.rows, bounds, 10_000)
            assert verdict.faults == [], story.name

    def test_the_clock_tells_of_open_tickets_that_were_known_to_be_likely(self, replayed: Replayed):
        rule = read_rules([RULES]).readable["sla_clock"]
        log = replayed.history
        numbers = log.log.number[log.log.first].tolist()
        closed_at = dict(zip(numbers, log.closed_at.astype("datetime64[us]").tolist(), strict=True))
        now = datetime.combine(replayed.trained_until + timedelta(days=20), datetime.min.time(), UTC)
        bound = rule.file.bind({}, now=now, known_by="observed")
        (query,) = rule.file.queries
        told = replayed.up.services.queries.rows(query.text, bound)
        expected = {
            r["business_key"]
            for r in replayed.truth()
            if r["score"] >= 0.8
            and timedelta(days=7) <= now - r["event_time"] < timedelta(days=9)
            and not ((closed := closed_at[r["business_key"]]) and closed.replace(tzinfo=UTC) <= now)
        }
        assert {t["incident"] for t in told} == expected
        assert expected

    def test_the_calibration_alarm_waits_until_a_week_is_due_and_then_fires(self, replayed: Replayed):
        rule = read_rules([RULES]).readable["sla_calibration_off"]
        (query,) = rule.file.queries

        def told(day: date) -> list[dict[str, Any]]:
            now = datetime.combine(day, datetime.min.time(), UTC)
            bound = rule.file.bind({}, now=now, known_by="observed")
            return list(replayed.up.services.queries.rows(query.text, bound))

        assert told(replayed.trained_until + timedelta(days=29)) == []
        (alarm,) = told(replayed.last_day + timedelta(days=1))
        assert alarm["deployment"] == OPENINGS
        assert alarm["value"] > 0.15

    def test_measured_calibration_is_that_of_the_known_rows(self, replayed: Replayed):
        rows = replayed.truth()
        latest = replayed.up.query(
            "SELECT window_first::text AS week, value, n FROM measurements_as_known('infinity', 'observed')"
            " WHERE deployment = %(name)s AND metric = 'ece' AND slice = ''",
            name=OPENINGS,
        ).rows()
        assert len(latest) >= 4
        for found in latest:
            score, missed = known([r for r in rows if r["week"] == found["week"]])
            assert found["n"] == len(score)
            assert found["value"] == pytest.approx(ece(score, missed), abs=1e-9)
