"""Alert rules as files: what they may say, and what their rows mean."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from alerting import RULE, START, Watch, at
from trueup.alerts.backtesting import Replay, backtest
from trueup.alerts.durations import parse_duration
from trueup.alerts.fixtures import read_fixture, run_story
from trueup.alerts.jobs import BROKEN_SCHEDULE, jobs
from trueup.alerts.memory import MemoryAlerts
from trueup.alerts.observing import observed
from trueup.alerts.reading import KEYS, RuleFolders, read_rules, rule_of
from trueup.alerts.routing import RoutingFile, read_routing
from trueup.alerts.states import Bounds
from trueup.alerts.wording import check_template, rendered
from trueup.contracts.schedules import between, schedule
from trueup.domain.alert import AlertRule, NoData, Severity, Timing
from trueup.domain.job import Missed
from trueup.errors import InvalidFile, InvalidInput, InvalidQuery, NotFound
from trueup.settings import Alerting
from trueup.sql.files import read_sql_file

ROOT = Path(__file__).parents[2]
FULL = """
for: 1h30m
keep_firing_for: 15m
labels: {team: ops}
label_columns: [deployment, book]
runbook: https://example.test/r
description: "{{ message }}"
no_data: alert
expected: [{deployment: a, book: x}]
group_by: [alertname, team]
receivers: [desk, head]
mute: [nights]
escalate: {after: 30m, receivers: [boss]}
missed: all
"""


def rule(more: str = "", name: str = "Drift") -> AlertRule:
    return rule_of(read_sql_file(RULE.format(name=name, more=more), "drift"))


def alert_rule(**more: Any) -> AlertRule:
    return AlertRule("Drift", "desk", Severity.INFO, "every 1m", **more)


class TestFrontMatter:
    def test_everything_a_rule_can_say_is_read(self):
        found = rule(FULL)
        assert found.timing == Timing(timedelta(minutes=90), timedelta(minutes=15))
        assert found.own_labels == {"team": "ops", "alertname": "Drift", "severity": "warning"}
        assert (found.no_data, found.missed, found.mute) == (NoData.ALERT, Missed.ALL, ("nights",))
        assert found.escalation is not None
        assert (found.escalation.after, found.escalation.receivers) == (timedelta(minutes=30), ("boss",))
        documented = (ROOT / "docs/reference/alert-rules.md").read_text(encoding="utf-8")
        assert all(f"| `{key}` |" in documented for key in KEYS)

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ("fro: 1m", "fro: not a key"), ("for: soon", "for: not a duration"), ("for: ''", "for: not a duration"),
            ("labels: {alertname: x}", "labels:"), ("labels: {a: 1}", "labels.a"), ("labels: [a]", "labels:"),
            ("label_columns: [value]", "label_columns"), ("label_columns: [a, a]", "label_columns"),
            ("no_data: maybe\nexpected: [{a: b}]", "no_data: one of ok, keep, alert"),
            ("no_data: keep", "needs expected"),
            ("group_by: alertname", "group_by: a list"), ("group_by: ['a b']", "group_by"),
            ("escalate: {after: 1m}", "escalate"), ("escalate: {after: 1m, receivers: []}", "somebody"),
            ("missed: some", "missed"), ("description: '{% for x in y %}'", "description"),
            ("description: '{{ x'", "description: not a valid template"),
            ("parameters: {a: number}", "needs a default"),
            ("label_columns: [team]\nlabels: {team: x}", "among the labels"), ("runbook: [a]", "runbook"),
        ],
    )  # fmt: skip
    def test_what_a_rule_cannot_say_is_refused_by_its_key(self, more: str, message: str):
        with pytest.raises(InvalidFile, match=message.replace("[", r"\[")) as refused:
            rule(more)
        assert refused.value.message.startswith("drift.sql: ")

    @pytest.mark.parametrize("name", ["drift", "NoData", "RuleBroken", "Drift Up", "1"])
    def test_a_name_is_one_word_that_nothing_else_has(self, name: str):
        with pytest.raises(InvalidFile, match="name"):
            rule(name=name)

    @pytest.mark.parametrize("key", ["owner: desk\n", "severity: warning\n", "schedule: every 1m\n"])
    def test_what_a_rule_must_say(self, key: str):
        text = RULE.format(name="Drift", more="")
        with pytest.raises(InvalidFile, match="is needed"):
            rule_of(read_sql_file(text.replace(key, ""), "drift"))

    def test_two_files_cannot_have_one_name_and_the_others_are_read(self, tmp_path: Path):
        for file in ("a", "b"):
            (tmp_path / f"{file}.sql").write_text(RULE.format(name="Same", more=""))
        (tmp_path / "c.sql").write_text("SELECT 1")
        found = read_rules([tmp_path])
        assert set(found.readable) >= {"a", "rejections_up"}
        assert set(found.broken) == {"b", "c"}
        assert "a.sql has it already" in found.broken["b"].message

    def test_a_file_is_read_again_when_it_changes_and_a_rule_may_replace_a_shipped_one(self, tmp_path: Path):
        folders = RuleFolders([tmp_path])
        before = folders.read()
        assert folders.read() is before
        assert folders.rule("rejections_up").rule.owner == "platform"
        (tmp_path / "rejections_up.sql").write_text(RULE.format(name="Mine", more=""))
        assert folders.rule("rejections_up").rule.name == "Mine"
        assert folders.path("rejections_up").parent == tmp_path
        (tmp_path / "rejections_up.sql").write_text("broken")
        with pytest.raises(InvalidFile):
            folders.rule("rejections_up")
        with pytest.raises(NotFound):
            folders.rule("nothing")


class TestRows:
    def test_texts_are_labels_and_the_rest_is_said(self):
        row = {"deployment": "a", "book": "", "desk": None, "value": Decimal("0.5"), "message": "m", "n": 3,
               "day": date(2026, 1, 2), "share": 0.123456789, "late": True}  # fmt: skip
        (found,) = observed(alert_rule(labels={"team": "x"}, summary="{{ labels.deployment }} {{ n }}"), [row], []).rows
        assert found.labels == {"deployment": "a", "team": "x", "alertname": "Drift", "severity": "info"}
        assert found.value == 0.5
        assert found.annotations == {
            "book": "", "message": "m", "n": "3", "day": "2026-01-02", "share": "0.123457", "late": "true",
            "summary": "a 3", "owner": "desk"}  # fmt: skip

    def test_named_columns_are_labels_whatever_their_type(self):
        (found,) = observed(
            alert_rule(label_columns=("day", "n")), [{"day": date(2026, 1, 2), "n": 3, "x": "y"}], []
        ).rows
        assert (found.labels["day"], found.labels["n"]) == ("2026-01-02", "3")
        assert found.annotations["x"] == "y"

    @pytest.mark.parametrize(
        "row",
        [{"a": "x", "value": "1"}, {"value": True}, {"a b": "x"}, {"severity": "x"}, {"alertname": "x"}, {"team": "x"},
         {"a": "x" * 2_000}, {"active": 1, "a": "x"}],
    )  # fmt: skip
    def test_rows_that_mean_nothing_are_refused(self, row: dict[str, Any]):
        with pytest.raises(InvalidQuery):
            observed(alert_rule(labels={"team": "t"}), [row], [])

    def test_a_number_that_is_none_has_no_value(self):
        for value in (None, float("nan"), float("inf")):
            assert observed(alert_rule(), [{"a": "x", "value": value}], []).rows[0].value is None

    def test_a_column_that_is_named_must_be_there_and_so_must_active_where_instances_are_expected(self):
        with pytest.raises(InvalidQuery, match="no column b"):
            observed(alert_rule(label_columns=("b",)), [{"a": "x"}], [])
        with pytest.raises(InvalidQuery, match="active"):
            observed(alert_rule(expected=({"a": "x"},)), [{"a": "x"}], [])
        assert observed(alert_rule(expected=({"a": "x"},), no_data=NoData.KEEP), [], []).kept


class TestSentences:
    def test_sentences_say_labels_values_and_columns(self):
        text = check_template(
            "{{ labels.a | upper }} {{ value | percent(2) }} {{ (value * 10) | number }} {{ n }}", "x"
        )
        assert rendered(text, {"a": "b"}, 0.12345, {"n": "7"}) == "B 12.35 % 1.23 7"
        assert rendered("{{ value | number }}", {}, None, {}) == "unknown"
        assert len(rendered("x" * 1_500, {}, None, {})) == 1_000

    @pytest.mark.parametrize(
        "text",
        ["{{ nothing }}", "{{ labels.nothing }}", "{{ 'a' * 9 }}", "{{ 9 ** 9 }}", "{{ labels.__class__.__mro__ }}",
         "{{ '%9d' % 1 }}", "{{ value / 0 }}", "{{ ''.format.__globals__ }}", "{{ labels.pop('a') }}"],
    )  # fmt: skip
    def test_sentences_that_do_not_fit_or_reach_further_are_refused(self, text: str):
        with pytest.raises(InvalidQuery):
            rendered(text, {"a": "b"}, 1.0, {})

    def test_an_unknown_filter_is_refused_when_the_rule_is_read(self):
        with pytest.raises(InvalidFile):
            check_template("{{ value | pprint }}", "summary")


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("30s", 30), ("5m", 300), ("1h30m", 5400), ("2d", 172800), ("1w", 604800), (0, 0), ("0", 0), ("0s", 0)],
    )
    def test_durations(self, text: Any, seconds: int):
        assert parse_duration(text, "x") == timedelta(seconds=seconds)

    @pytest.mark.parametrize("text", ["", "5", "m", "1m1h", "-1m", "1.5h", None, True, "1ms", "99999999d"])
    def test_what_is_no_duration(self, text: Any):
        with pytest.raises(InvalidFile):
            parse_duration(text, "x")

    @pytest.mark.parametrize("text", ["every 0s", "every 5", "* * * *", "61 * * * *", "@daily", 5, "* * * * * *"])
    def test_what_is_no_schedule(self, text: Any):
        with pytest.raises(InvalidFile, match="schedule"):
            rule_of(read_sql_file(RULE.format(name="X", more="").replace("every 1m", f"{text!r}"), "x"))

    def test_a_rule_is_a_job_and_one_that_cannot_be_read_too(self, tmp_path: Path):
        watch = Watch(MemoryAlerts(), tmp_path, Alerting())
        watch.write(more="missed: skip")
        watch.write("bad", text="x")
        found = {(job.name, job.subject): job for job in jobs(watch.engine, watch.settings)}
        assert found["alert", "drift"].missed is Missed.SKIP
        assert found["alert", "bad"].schedule == BROKEN_SCHEDULE
        assert found["alert-groups", ""].schedule == "every 10s"
        watch.queries.answers = [[{"deployment": "a", "value": 1.0}]]
        assert found["alert", "drift"].run(at(0)) == "1 firing, 0 pending"
        assert "front matter" in found["alert", "bad"].run(at(0))
        (tmp_path / "bad.sql").unlink()
        assert found["alert", "bad"].run(at(1)) == "its file is gone"
        assert found["alert-upkeep", ""].run(at(2)) == "1 rules retired; 0 groups and 0 evaluations forgotten"


class TestRouting:
    def test_a_file_says_what_inhibits_and_when_nobody_is_told(self, tmp_path: Path):
        path = tmp_path / "routing.yaml"
        path.write_text(
            "inhibit: [{source: [alertname=Down], target: ['severity=~\"warning|info\"'], equal: [deployment]}]\n"
            "mute_times:\n  nights: {zone: Europe/Vienna, times: ['22:00-24:00', '00:00-06:00']}\n"
            "  closed: {calendar: target, days: closed}\n  weekend: {weekdays: [saturday, sunday]}\n"
        )
        routing = RoutingFile(path)
        found = routing.read()
        assert found.inhibitions[0].equal == ("deployment",)
        assert found.mute_times["nights"].minutes == ((1320, 1440), (0, 360))
        assert found.mute_times["closed"].business_days is False
        assert found.mute_times["weekend"].weekdays == {5, 6}
        path.write_text("inhibit: 7")
        assert routing.read() == found
        path.write_text("mute_times: {}  # nothing any more")
        assert routing.read() == read_routing(None)

    @pytest.mark.parametrize(
        "text",
        ["[1]", "x: 1", "inhibit: [{}]", "inhibit: [{source: [a], target: [b=c]}]", "mute_times: {a: {}}",
         "mute_times: {a: {zone: Nowhere, weekdays: [monday]}}", "mute_times: {a: {times: ['8-9']}}",
         "mute_times: {a: {times: ['09:00-08:00']}}", "mute_times: {a: {calendar: moon, days: closed}}",
         "mute_times: {a: {weekdays: [funday]}}", "mute_times: {a: {calendar: target}}", "{", "mute_times: {a: 7}",
         "inhibit: [{source: ['a=~(b)'], target: [b=c]}]"],
    )  # fmt: skip
    def test_a_file_that_says_something_else_is_refused(self, tmp_path: Path, text: str):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(InvalidFile):
            read_routing(tmp_path / "r.yaml")


class TestBacktest:
    def test_a_backtest_says_when_it_would_have_fired(self):
        present = {2, 3, 4, 5, 8, 9}

        def ask(moment: datetime) -> Any:
            minute = round((moment - START) / timedelta(minutes=1))
            if minute == 7:
                raise InvalidQuery("timeout")
            return observed(spoken, [{"a": "x", "value": minute}] * (minute in present), [])

        spoken = alert_rule(timing=Timing(timedelta(minutes=2)))
        replay = Replay("drift", spoken, ask, Bounds())
        found = backtest(replay, between(schedule("every 1m"), at(0), at(9)), 10)
        assert found.evaluations == 10
        assert found.errors == [(at(7), "timeout")]
        told = [(i.labels["alertname"], i.pending_at, i.fired_at, i.ended_at, i.value) for i in found.intervals]
        assert told == [
            ("Drift", at(2), at(4), at(6), 4.0),
            ("RuleBroken", at(7), at(7), at(8), None),
            ("Drift", at(8), None, None, 8.0),
        ]

    def test_a_backtest_is_bounded(self):
        replay = Replay("drift", alert_rule(), lambda _: observed(alert_rule(), [], []), Bounds())
        with pytest.raises(InvalidInput, match="more than 3"):
            backtest(replay, between(schedule("every 1m"), at(0), at(9)), 3)


class TestFixtures:
    def verdicts(self, tmp_path: Path, text: str) -> list[list[str]]:
        (tmp_path / "drift.sql").write_text(RULE.format(name="Drift", more="for: 2m"))
        (tmp_path / "drift.test.yaml").write_text(text)
        file = RuleFolders([tmp_path]).rule("drift")

        def never(*_: Any) -> Any:
            raise AssertionError

        stories = read_fixture(tmp_path / "drift.test.yaml")
        return [run_story(story, file, never, never, Bounds(), 100).faults for story in stories]

    def test_a_fixture_says_what_is_not_as_expected(self, tmp_path: Path):
        text = """
tests:
  - name: right
    rows: [{from: 1m, until: 4m, rows: [{deployment: a, value: 0.5}]}]
    expect:
      - {at: 0m, alerts: []}
      - {at: 1m, alerts: [{labels: {deployment: a}, state: pending}]}
      - {at: 3m, alerts: [{labels: {deployment: a}, state: firing, value: 0.5, summary: a is at 0.5}]}
      - {at: 5m, alerts: []}
  - name: wrong
    rows: [{rows: [{deployment: a, value: 0.5}]}]
    expect:
      - {at: 1m, alerts: [{labels: {deployment: b}, state: pending}]}
      - {at: 2m, alerts: [{labels: {deployment: a}, state: pending, value: 0.4}]}
  - name: broken
    rows: [{rows: [{deployment: a, value: 1}, {deployment: a, value: 2}]}]
    expect: [{at: 0m, alerts: [{labels: {alertname: RuleBroken, rule: drift}, state: firing}]}]
"""
        right, wrong, broken = self.verdicts(tmp_path, text)
        assert right == []
        assert [fault.split(":")[0] for fault in wrong] == ["at 1m"] * 2 + ["at 2m"] * 2
        assert wrong[2].endswith("state is 'firing', expected 'pending'")
        assert broken == ["at 0m: the rule is broken: two rows have equal labels"]

    @pytest.mark.parametrize(
        "text",
        ["", "tests: []", "tests: [{name: a}]", "tests: [{name: a, rows: [], expect: []}]",
         "tests: [{name: a, rows: [], given: {}, expect: [{at: 1m, alerts: []}]}]",
         "tests: [{name: a, rows: [], expect: [{at: soon, alerts: []}]}]",
         "tests: [{name: a, given: {'x;y': []}, expect: [{at: 1m, alerts: []}]}]",
         "tests: [{name: a, rows: [], expect: [{at: 1m}], more: 1}]"],
    )  # fmt: skip
    def test_what_is_no_fixture_is_refused(self, tmp_path: Path, text: str):
        with pytest.raises(InvalidFile):
            self.verdicts(tmp_path, text)
