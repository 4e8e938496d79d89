"""Grouping, silencing, inhibiting and muting are Alertmanager's."""

from __future__ import annotations

import time
import zoneinfo
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.alerts import grouping
from trueup.alerts.inhibiting import is_inhibited
from trueup.alerts.matching import MOST_VALUE, all_match, matches, parse_matcher, parse_matchers
from trueup.alerts.muting import is_in_force
from trueup.alerts.silencing import is_silenced
from trueup.domain.alert import Group, Inhibition, Member, MuteTime, Pace, Silence
from trueup.errors import InvalidInput

START = datetime(2026, 11, 2, tzinfo=UTC)
PACE = Pace()


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def member(name: str, starts: float = 0, ends: float | None = None, *, acknowledged: bool = False) -> Member:
    labels = {"alertname": "Drift", "deployment": name}
    return Member("Drift", labels, at(starts), None if ends is None else at(ends), is_acknowledged=acknowledged)


def new_group() -> Group:
    return grouping.group_of({"alertname": "Drift", "deployment": "a"}, ["alertname"], "ops", at(30))


def flushed(group: Group, members: list[Member], seconds: float, muted: tuple[Member, ...] = ()) -> grouping.Flushed:
    return grouping.flush(group, members, frozenset(m.fingerprint for m in muted), at(seconds), PACE)


class TestGroups:
    def test_alerts_of_equal_labels_are_one_group_and_receivers_do_not_share(self):
        one = grouping.group_of({"a": "1", "b": "2"}, ["a"], "ops", at(0))
        assert one.key == grouping.group_of({"a": "1", "b": "3"}, ["a"], "ops", at(9)).key
        assert one.key != grouping.group_of({"a": "1"}, ["a"], "desk", at(0)).key
        assert one.key != grouping.group_of({"a": "2"}, ["a"], "ops", at(0)).key
        assert grouping.group_of({"a": "1", "b": "2"}, ["..."], "ops", at(0)).labels == {"a": "1", "b": "2"}
        assert grouping.group_of({"a": "1"}, ["a", "c"], "ops", at(0)).labels == {"a": "1"}

    def test_what_ends_before_the_first_wait_is_never_told(self):
        done = flushed(new_group(), [member("a", 0, 20)], 30)
        assert done.told == ()
        assert done.left == {member("a").fingerprint}
        assert done.group.next_at is None
        assert grouping.is_forgotten(done.group, at(30), PACE)

    def test_the_same_is_told_again_after_four_hours_only(self):
        group, told_at = new_group(), []
        for look in range(90):
            moment = 30 + 300 * look
            done = flushed(group, [member("a")], moment)
            group = done.group
            if done.told:
                told_at.append(moment)
        assert told_at == [30, 30 + 4 * 3600]
        assert group.sequence == 2

    def test_a_repeat_that_is_no_multiple_of_the_interval_is_rounded_up(self):
        pace = Pace(repeat=timedelta(minutes=7))
        group, told_at = new_group(), []
        for look in range(6):
            done = grouping.flush(group, [member("a")], frozenset(), at(30 + 300 * look), pace)
            group = done.group
            told_at += [look] * bool(done.told)
        assert told_at == [0, 2, 4]

    def test_a_late_look_does_not_move_later_ones(self):
        done = flushed(new_group(), [member("a")], 38)
        assert (done.group.told_at, done.group.next_at) == (at(30), at(330))
        assert flushed(done.group, [member("a")], 1000).group.next_at == at(1230)

    def test_news_is_a_new_alert_or_an_end(self):
        first = flushed(new_group(), [member("a")], 30)
        second = flushed(first.group, [member("a"), member("b", 60)], 330)
        assert [m.labels["deployment"] for m in second.told] == ["a", "b"]
        third = flushed(second.group, [member("a"), member("b", 60, 400)], 630)
        assert [(m.labels["deployment"], m.ends_at is None) for m in third.told] == [("a", True), ("b", False)]
        assert third.left == {member("b").fingerprint}
        last = flushed(third.group, [member("a", 0, 700)], 930)
        assert [m.ends_at for m in last.told] == [at(700)]
        assert last.group.next_at is None
        assert grouping.is_forgotten(last.group, at(931), PACE)

    def test_what_fired_and_ended_between_two_looks_is_not_told_where_none_fires(self):
        first = flushed(new_group(), [member("a")], 30)
        ended = flushed(first.group, [member("a", 0, 100)], 330)
        assert ended.told
        assert flushed(replace(ended.group, next_at=at(630)), [member("b", 350, 400)], 630).told == ()

    def test_a_muted_end_is_not_told_and_what_the_receiver_believes_is_remembered(self):
        first = flushed(new_group(), [member("a")], 30)
        silent = flushed(first.group, [member("a", 0, 100)], 330, muted=(member("a"),))
        assert silent.told == ()
        assert silent.left
        assert not grouping.is_forgotten(silent.group, at(400), PACE)
        assert grouping.is_forgotten(silent.group, at(30 + 8 * 3600 + 1), PACE)
        again = grouping.awakened(silent.group, replace(new_group(), next_at=at(430)))
        assert flushed(again, [member("a", 400)], 430).told == ()

    def test_what_was_muted_is_told_when_that_is_over(self):
        first = flushed(new_group(), [member("a")], 30, muted=(member("a"),))
        assert first.told == ()
        assert flushed(first.group, [member("a")], 330).told

    def test_an_acknowledged_alert_is_not_repeated_but_its_end_is_told(self):
        first = flushed(new_group(), [member("a")], 30)
        held = member("a", acknowledged=True)
        later = 30 + 300 * 60
        silent = flushed(replace(first.group, next_at=at(later)), [held], later)
        assert silent.told == ()
        assert flushed(silent.group, [replace(held, ends_at=at(later))], later + 300).told

    def test_only_a_group_that_never_looked_is_hurried(self):
        early = replace(new_group(), next_at=at(10))
        assert grouping.awakened(new_group(), early).next_at == at(10)
        looked = flushed(new_group(), [member("a")], 30, muted=(member("a"),)).group
        assert grouping.awakened(looked, early).next_at == at(330)


class TestMatchers:
    @pytest.mark.parametrize(
        ("text", "value", "expected"),
        [
            ('a="x"', "x", True), ("a=x", "y", False), ("a!=x", "y", True), ("a=", "", True), ('a!=""', "", False),
            ('a=~"x.*|y"', "xyz", True), ('a=~"x"', "xy", False), ('a!~"[a-c]+"', "abc", False),
            ('a=~"T\\\\d{3}"', "T123", True), ('a="say \\"no\\""', 'say "no"', True), ('a=~".*"', "", True),
        ],
    )  # fmt: skip
    def test_a_matcher_says_what_it_looks_like(self, text: str, value: str, expected: bool):
        assert matches(parse_matcher(text), {"a": value}) is expected
        assert parse_matcher(str(parse_matcher(text))) == parse_matcher(text)

    @pytest.mark.parametrize(
        "pattern",
        ["(a+)+", "(a|a)*", "a**", "(?=a)", r"\1", "a?a?a?a?", "*", "[", "a{2,1}", "^a", "a" * 300, "+", "|*", "[z-a]"],
    )
    def test_a_pattern_that_could_be_slow_is_refused(self, pattern: str):
        with pytest.raises(InvalidInput):
            parse_matcher(f'a=~"{pattern}"')

    @pytest.mark.parametrize("text", ["", "a", "=x", "1a=x", "a=x,b=y", 'a="x', "a=~", "a=x y"])
    def test_what_is_no_matcher_is_refused(self, text: str):
        if text == "a=~":
            assert parse_matcher(text).value == ""
            return
        with pytest.raises(InvalidInput):
            parse_matcher(text)

    def test_the_worst_pattern_and_value_end_soon(self):
        worst = parse_matcher('a=~".*.*.*x"')
        began = time.process_time()
        assert not matches(worst, {"a": "a" * 10 * MOST_VALUE})
        assert time.process_time() - began < 20

    @given(st.text(max_size=30))
    def test_any_text_is_a_matcher_or_a_typed_error(self, text: str):
        try:
            found = parse_matcher(text)
        except InvalidInput:
            return
        matches(found, {"a": text})

    def test_silences_hold_between_their_moments_and_need_every_matcher(self):
        silence = Silence(parse_matchers(["a=1", "b=~x.*"]), at(10), at(20), "ann", "known")
        assert [is_silenced({"a": "1", "b": "xy"}, [silence], at(s)) for s in (9, 10, 19.9, 20)] == [
            False, True, True, False]  # fmt: skip
        assert not is_silenced({"a": "1"}, [silence], at(15))
        with pytest.raises(InvalidInput):
            parse_matchers([])
        assert all_match((), {})


class TestInhibition:
    down = Inhibition(parse_matchers(["alertname=Down"]), parse_matchers(["severity=warning"]), ("deployment",))

    def test_an_alert_with_equal_labels_inhibits(self):
        source = {"alertname": "Down", "deployment": "a"}
        target = {"alertname": "Drift", "severity": "warning"}
        assert is_inhibited({**target, "deployment": "a"}, [self.down], [source])
        assert not is_inhibited({**target, "deployment": "b"}, [self.down], [source])
        assert not is_inhibited({**target, "deployment": "a"}, [self.down], [])
        assert is_inhibited(target, [self.down], [{"alertname": "Down"}])  # both without the label

    def test_an_alert_of_both_sides_inhibits_neither_itself_nor_its_like(self):
        both = {"alertname": "Down", "severity": "warning", "deployment": "a"}
        assert not is_inhibited(both, [self.down], [both, {**both, "x": "1"}])
        assert is_inhibited(both, [self.down], [both, {"alertname": "Down", "deployment": "a"}])


class TestMuting:
    def test_a_time_of_day_is_that_of_its_zone_on_both_sides_of_a_change_of_clocks(self):
        nights = MuteTime("nights", "Europe/Vienna", minutes=((22 * 60, 1440), (0, 6 * 60)))
        summer, winter = datetime(2026, 10, 24, tzinfo=UTC), datetime(2026, 10, 26, tzinfo=UTC)
        assert is_in_force(nights, summer + timedelta(hours=20))  # 22:00 in summer
        assert not is_in_force(nights, winter + timedelta(hours=20, minutes=59))
        assert is_in_force(nights, winter + timedelta(hours=21))
        assert is_in_force(nights, summer + timedelta(hours=3, minutes=59))
        assert not is_in_force(nights, summer + timedelta(hours=4))
        assert is_in_force(nights, winter + timedelta(hours=4, minutes=59))

    def test_every_hour_of_the_night_the_clocks_change_is_at_night(self):
        night = MuteTime("night", "Europe/Vienna", minutes=((0, 6 * 60),))
        change = datetime(2026, 10, 24, 22, tzinfo=UTC)  # local midnight; seven hours long
        assert [is_in_force(night, change + timedelta(hours=h)) for h in range(8)] == [True] * 7 + [False]

    def test_zones_are_known_where_the_machine_has_no_database_of_them(self):
        zoneinfo.reset_tzpath(to=())
        zoneinfo.ZoneInfo.clear_cache()
        try:
            nights = MuteTime("nights", "Europe/Vienna", minutes=((22 * 60, 1440),))
            assert is_in_force(nights, datetime(2026, 10, 24, 20, tzinfo=UTC))
        finally:
            zoneinfo.reset_tzpath()

    def test_closed_days_are_those_of_the_calendar(self):
        closed = MuteTime("closed", "America/New_York", calendar="us-settlement", business_days=False)
        assert is_in_force(closed, datetime(2026, 11, 26, 17, tzinfo=UTC))  # Thanksgiving
        assert not is_in_force(closed, datetime(2026, 11, 25, 17, tzinfo=UTC))
        assert is_in_force(closed, datetime(2026, 11, 28, 17, tzinfo=UTC))  # Saturday
        assert is_in_force(closed, datetime(2026, 11, 27, 4, 59, tzinfo=UTC))  # still Thursday there
        assert not is_in_force(replace(closed, business_days=True, name="open"), datetime(2026, 11, 28, 17, tzinfo=UTC))
        assert is_in_force(MuteTime("mondays", weekdays=frozenset({0})), START)
