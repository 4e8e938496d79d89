"""What every store of alerts must do, seen through the engine that uses it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from alerting import START, Watch, at, postgres_store
from trueup.alerts.matching import parse_matchers
from trueup.alerts.memory import MemoryAlerts
from trueup.alerts.routing import Routing
from trueup.domain.alert import Inhibition, MuteTime, RuleState
from trueup.errors import Conflict, Forbidden, InvalidInput, InvalidQuery, LedgerUnavailable, NotFound
from trueup.postgres import Pool
from trueup.settings import Alerting

SETTINGS = Alerting(receivers=["ops"])


@pytest.fixture(params=["memory", "postgres"])
def watch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watch]:
    if request.param == "memory":
        yield Watch(MemoryAlerts(), tmp_path, SETTINGS)
        return
    urls = request.getfixturevalue("fresh_database")
    pool = Pool(urls.writer, size=8, application="test")
    yield Watch(postgres_store(pool), tmp_path, SETTINGS, urls.owner)
    pool.close()


class TestEvaluations:
    def test_an_alert_is_told_of_after_the_wait_and_its_end_after_the_interval(self, watch: Watch):
        watch.write(more="for: 2m")
        assert watch.evaluate(0, "a") == "0 firing, 1 pending"
        watch.evaluate(1, "a")
        assert watch.evaluate(2, "a", "b") == "1 firing, 1 pending"
        watch.look(2)
        assert watch.told() == []
        watch.look(2.5)
        assert watch.told() == [("ops", "firing", ["a+"])]
        assert watch.evaluate(3) == "0 firing, 0 pending"
        watch.look(7)
        assert len(watch.told()) == 1
        watch.look(7.5)
        assert watch.told() == [("ops", "firing", ["a+"]), ("ops", "resolved", ["a-"])]
        assert watch.alerts() == {"a": "inactive"}
        assert sorted(watch.transitions()) == [
            ("firing", "inactive"), ("inactive", "pending"), ("inactive", "pending"), ("pending", "firing"),
            ("pending", "inactive")]  # fmt: skip

    def test_a_moment_is_evaluated_once_and_an_older_one_never(self, watch: Watch):
        watch.write()
        watch.evaluate(1, "a")
        assert watch.evaluate(1) == "evaluated before"
        assert watch.evaluate(0, "a", "b") == "evaluated before"
        assert watch.alerts() == {"a": "firing"}
        assert watch.evaluations() == 1
        watch.look(2)
        assert watch.look(2) == "0 groups, 0 messages, 0 escalated"

    def test_two_evaluators_and_two_lookers_at_once_do_everything_once(self, watch: Watch):
        watch.write()
        watch.queries.answers = [[{"deployment": name, "value": 1.0} for name in "abc"]]
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: watch.engine.evaluate("drift", at(0)), range(8)))
            assert sorted(done) == ["3 firing, 0 pending"] + ["evaluated before"] * 7
            list(pool.map(lambda _: watch.engine.look(at(1)), range(8)))
        assert watch.told() == [("ops", "firing", ["a+", "b+", "c+"])]

    def test_many_rules_at_once_share_a_group_and_neither_waits_in_a_circle_nor_loses(self, watch: Watch):
        for number in range(6):
            watch.write(f"rule{number}", f"Rule{number}", "group_by: [severity]\nreceivers: [x, y, z]")
        watch.queries.answers = [[{"deployment": name, "value": 1.0} for name in "abcd"]]

        def turn(number: int) -> None:
            for minute in range(5):
                watch.engine.evaluate(f"rule{number}", at(minute))
                watch.engine.look(at(minute))

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(turn, range(6)))
        watch.engine.look(at(60))
        for receiver in "xyz":
            told = [alerts for to, _, alerts in watch.told() if to == receiver]
            assert sorted(told[-1]) == sorted(["a+", "b+", "c+", "d+"] * 6)

    def test_pending_after_an_outage_goes_on_where_it_was(self, watch: Watch):
        watch.write(more="for: 30m")
        watch.evaluate(0, "a")
        watch.evaluate(1, "a")
        watch.evaluate(50, "a")  # 49 minutes nobody looked
        with watch.store.work() as work:
            assert [a.active_at for a in work.alerts("drift").values()] == [at(49)]

    def test_a_failure_of_the_database_is_nobodys_fault_and_changes_nothing(self, watch: Watch):
        watch.write()
        watch.evaluate(0, "a")
        with pytest.raises(LedgerUnavailable):
            watch.fail(1, LedgerUnavailable("away"))
        assert watch.evaluations() == 1
        assert watch.alerts() == {"a": "firing"}


class TestBrokenRules:
    def test_an_error_neither_fires_nor_resolves_and_is_an_alert_of_its_own(self, watch: Watch):
        watch.write(more="for: 1m\nreceivers: [desk]")
        watch.evaluate(0, "a")
        watch.evaluate(1, "a")
        watch.look(1.5)
        assert watch.fail(2, InvalidQuery("the query ran longer than allowed")) == "the query ran longer than allowed"
        assert watch.alerts() == {"a": "firing", "RuleBroken": "firing"}
        record = watch.store.rules()["drift"]
        assert (record.state, record.reason) == (RuleState.QUARANTINED, "the query ran longer than allowed")
        watch.look(3)
        assert watch.told() == [("desk", "firing", ["a+"]), ("desk", "firing", ["RuleBroken+"])]
        watch.evaluate(4, "a")
        assert watch.alerts() == {"a": "firing", "RuleBroken": "inactive"}
        assert watch.store.rules()["drift"].state is RuleState.ACTIVE
        watch.look(8)
        assert watch.told()[2:] == [("desk", "resolved", ["RuleBroken-"])]

    def test_equal_labels_are_such_an_error(self, watch: Watch):
        watch.write()
        watch.evaluate(0, "a")
        assert "equal labels" in watch.evaluate(1, "b", "b")
        assert watch.alerts() == {"a": "firing", "RuleBroken": "firing"}

    def test_a_file_that_cannot_be_read_any_more_leaves_its_alerts_alone(self, watch: Watch):
        watch.write(more="receivers: [desk]")
        watch.evaluate(0, "a")
        watch.look(1)
        watch.write(text="DROP TABLE x")
        assert "front matter" in watch.evaluate(1, "a")
        assert watch.alerts() == {"a": "firing", "RuleBroken": "firing"}
        watch.look(2)
        assert watch.told() == [("desk", "firing", ["a+"]), ("ops", "firing", ["RuleBroken+"])]
        watch.write(more="receivers: [desk]")
        watch.evaluate(2)
        assert watch.alerts() == {"a": "inactive", "RuleBroken": "inactive"}

    def test_a_rule_whose_file_is_gone_is_retired_and_its_alerts_end(self, watch: Watch):
        watch.write()
        watch.evaluate(0, "a")
        watch.look(1)
        (watch.folder / "drift.sql").unlink()
        with pytest.raises(NotFound):
            watch.evaluate(1, "a")
        assert watch.engine.retire(at(2)) == 1
        assert watch.engine.retire(at(3)) == 0
        assert watch.store.rules()["drift"].state is RuleState.RETIRED
        watch.look(6)
        assert watch.told()[-1] == ("ops", "resolved", ["a-"])


class TestNoData:
    EXPECTED = "label_columns: [deployment]\nexpected: [{deployment: a}, {deployment: b}]\nno_data: "

    def rows(self, watch: Watch, minutes: float, **active: bool | None) -> None:
        watch.queries.answers = [[{"deployment": n, "value": 1.0, "active": a} for n, a in active.items()]]
        watch.evaluate_as_is(minutes)

    def test_without_a_row_ok_is_as_if_the_condition_did_not_hold(self, watch: Watch):
        watch.write(more=self.EXPECTED + "ok")
        self.rows(watch, 0, a=True, b=True)
        self.rows(watch, 1, a=True)
        assert watch.alerts() == {"a": "firing", "b": "inactive"}

    def test_without_a_row_keep_leaves_it_as_it_is(self, watch: Watch):
        watch.write(more=self.EXPECTED + "keep\nfor: 1m")
        self.rows(watch, 0, a=True, b=True)
        self.rows(watch, 1, a=True)
        self.rows(watch, 2)
        assert watch.alerts() == {"a": "firing", "b": "pending"}
        self.rows(watch, 3, a=False, b=None)
        assert watch.alerts() == {"a": "inactive"}

    def test_without_a_row_alert_is_an_alert_of_its_own_that_ends_when_there_is_one(self, watch: Watch):
        watch.write(more=self.EXPECTED + "alert\nfor: 1m")
        self.rows(watch, 0, a=True, b=False)
        self.rows(watch, 1, a=True)
        self.rows(watch, 2)
        assert watch.alerts() == {"a": "firing", "a?": "pending", "b?": "firing"}
        self.rows(watch, 3, a=True, b=False)
        assert watch.alerts() == {"a": "firing", "b?": "inactive"}

    def test_expected_instances_may_come_from_a_query(self, watch: Watch):
        front = (
            "/*---\nname: Silent\nowner: desk\nseverity: info\nschedule: every 1m\nsummary: x\nno_data: alert\n---*/\n"
        )
        queries = "-- query: main\nSELECT name AS deployment, 1.0 AS value, false AS active FROM deployments\n"
        watch.write(text=front + queries + "-- query: expected\nSELECT name AS deployment FROM deployments\n")
        watch.queries.answers = [[{"deployment": "a", "value": 1.0, "active": False}], [{"deployment": "z"}]]
        watch.evaluate_as_is(0)
        assert watch.alerts() == {"z?": "firing"}


class TestTelling:
    def test_a_silence_keeps_quiet_until_it_ends_and_can_be_lifted(self, watch: Watch):
        watch.write()
        silence = watch.handling.silence(
            parse_matchers(["deployment=~a|b"]), lasting=timedelta(minutes=20), by="user:ann", comment="known"
        )
        watch.evaluate(0, "a", "c")
        watch.look(1)
        assert watch.told() == [("ops", "firing", ["c+"])]
        assert silence.silence_id is not None
        watch.now = at(2)
        lifted = watch.handling.unsilence(silence.silence_id, by="user:bob")
        assert lifted.ends_at == at(2)
        assert watch.handling.unsilence(silence.silence_id, by="user:bob") == lifted
        watch.look(6)
        assert watch.told()[1:] == [("ops", "firing", ["a+", "c+"])]
        assert watch.audited() == [("user:ann", "silence alerts"), ("user:bob", "end silence")]
        with pytest.raises(NotFound):
            watch.handling.unsilence(99, by="user:bob")

    def test_a_silence_has_a_reason_and_an_end(self, watch: Watch):
        matchers = parse_matchers(["a=b"])
        for lasting, comment in ((timedelta(days=91), "x"), (timedelta(0), "x"), (timedelta(days=1), " ")):
            with pytest.raises(InvalidInput):
                watch.handling.silence(matchers, lasting=lasting, by="user:ann", comment=comment)
        with pytest.raises(InvalidInput, match="with a value"):
            watch.handling.silence(parse_matchers(["a="]), lasting=timedelta(1), by="user:ann", comment="x")

    def test_an_alert_inhibits_others(self, watch: Watch):
        watch.routing = Routing(
            (Inhibition(parse_matchers(["alertname=Down"]), parse_matchers(["alertname=Drift"]), ("deployment",)),)
        )
        watch.write()
        watch.write("down", "Down")
        watch.evaluate(0, "a", "b")
        watch.evaluate(0, "a", rule="down")
        watch.look(1)
        assert watch.told() == [("ops", "firing", ["a+"]), ("ops", "firing", ["b+"])]
        watch.evaluate(2, rule="down")
        watch.look(6)
        assert ("ops", "firing", ["a+", "b+"]) in watch.told()

    def test_nobody_is_told_in_a_muted_time(self, watch: Watch):
        watch.routing = Routing(mute_times={"morning": MuteTime("morning", minutes=((9 * 60, 9 * 60 + 4),))})
        watch.write(more="mute: [morning, gone]")
        watch.evaluate(0, "a")
        watch.look(1)
        assert watch.told() == []
        watch.look(6)
        assert watch.told() == [("ops", "firing", ["a+"])]

    def test_who_acknowledges_stops_repeats_and_escalation_and_the_first_one_stays(self, watch: Watch):
        watch.write(more="escalate: {after: 10m, receivers: [head]}")
        watch.evaluate(0, "a", "b")
        watch.look(1)
        taken = watch.handling.acknowledge(watch.alert_id("a"), by="user:ann")
        assert watch.handling.acknowledge(watch.alert_id("a"), by="user:bob") == taken
        assert watch.look(9) == "1 groups, 0 messages, 0 escalated"
        assert watch.look(10).endswith("1 escalated")
        watch.look(11)
        assert watch.told()[1:] == [("head", "firing", ["b+"])]
        watch.handling.acknowledge(watch.alert_id("b"), by="user:bob")
        watch.look(300)
        assert len(watch.told()) == 2
        watch.evaluate(301)
        watch.look(310)
        assert sorted(watch.told()[2:]) == [("head", "resolved", ["b-"]), ("ops", "resolved", ["a-", "b-"])]
        with pytest.raises(Conflict):
            watch.handling.acknowledge(watch.alert_id("a"), by="user:bob")
        assert watch.audited() == [("user:ann", "acknowledge alert"), ("user:bob", "acknowledge alert")]

    def test_an_evaluation_keeps_what_a_person_said(self, watch: Watch):
        watch.write()
        watch.evaluate(0, "a")
        watch.handling.acknowledge(watch.alert_id("a"), by="user:ann")
        watch.handling.assign(watch.alert_id("a"), "bob", by="user:ann")
        watch.evaluate(1, "a")
        with watch.store.work() as work:
            alert = work.alert(next(iter(work.alerts("drift"))))
        assert (alert.acknowledged_by, alert.acknowledged_at, alert.assigned_to) == ("user:ann", START, "bob")

    def test_who_may_not_changes_nothing(self, watch: Watch):
        watch.write()
        watch.evaluate(0, "a")

        def never(_: Any) -> None:
            raise Forbidden("no")

        with pytest.raises(Forbidden):
            watch.handling.acknowledge(watch.alert_id("a"), by="user:eve", may=never)
        with pytest.raises(NotFound):
            watch.handling.assign("0" * 32, "bob", by="user:ann")
        assert watch.audited() == []

    def test_what_ends_and_fires_again_before_a_look_is_told_once(self, watch: Watch):
        watch.write()
        watch.evaluate(0, "a")
        watch.look(0.5)
        watch.evaluate(1)
        watch.evaluate(2, "a")
        watch.look(5.5)
        assert watch.told() == [("ops", "firing", ["a+"])]

    def test_a_group_that_was_forgotten_tells_anew(self, watch: Watch):
        watch.write()
        for minute in (0, 20):
            watch.evaluate(minute, "a")
            watch.look(minute + 1)
            watch.evaluate(minute + 2)
            watch.look(minute + 10)
        assert watch.told() == [("ops", "firing", ["a+"]), ("ops", "resolved", ["a-"])] * 2

    def test_a_message_that_would_be_too_long_says_how_many_more_there_are(self, watch: Watch, tmp_path: Path):
        small = Watch(watch.store, watch.folder, Alerting(receivers=["ops"], message_alerts=2), watch.database)
        small.write()
        small.evaluate(0, "a", "b", "c")
        small.look(1)
        ((_, _, shown),) = small.told()
        assert len(shown) == 2

    def test_tidying_forgets_what_rests_and_evaluations_that_moved_nothing(self, watch: Watch):
        watch.write()
        watch.evaluate(0, "a")
        watch.look(1)
        watch.evaluate(2, "a")
        watch.handling.silence(parse_matchers(["a!=b"]), lasting=timedelta(hours=1), by="user:ann", comment="x")
        watch.evaluate(3)
        watch.look(6)
        assert watch.engine.tidy(at(7)) == "0 groups and 0 evaluations forgotten"
        assert watch.engine.tidy(at(60 * 24 * 31)) == "1 groups and 1 evaluations forgotten"
        assert watch.evaluations() == 2
