"""Scheduled work on a real PostgreSQL: each due moment once, whatever dies."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from clocks import Field, running, stopped, until
from databases import away
from trueup.domain.job import Job, Missed
from trueup.doors.clock import queue
from trueup.doors.clock.runs import Runs
from trueup.errors import Conflict, Fenced, InvalidFile, LedgerUnavailable, NotFound, TrueupError
from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls

SILENT = "SELECT 1 FROM clock.procrastinate_workers WHERE last_heartbeat > now() - interval '1.5 seconds'"


@pytest.fixture
def place(fresh_database: Urls, tmp_path: Path) -> Field:
    return Field(fresh_database, tmp_path)


def many(count: int, **more: object) -> list[dict[str, object]]:
    return [{"name": "test", "subject": f"s{n}", **more} for n in range(count)]


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_two_hundred_due_moments_exactly_once(place: Field, workers: int):
    place.described = many(20, missed="all", seconds=0.005, schedule="every 2h")
    place.declare()
    place.fall_behind(timedelta(hours=20))
    with place.working(workers) as made:
        until(lambda: len(place.runs("ok")) >= 200, 90)
        until(lambda: not place.runs("queued", "running"))
    assert place.execute("SELECT count(*), count(DISTINCT (name, subject, due)) FROM worked")[0] == (200, 200)
    assert {(n, s, d) for n, s, d, *_ in place.runs("ok")} == set(
        place.execute("SELECT name, subject, due FROM worked")
    )
    assert place.overlaps() == []
    assert sum(count for one in made for count in one.handlers.ended.values()) == 200
    assert sum(bool(one.handlers.ended) for one in made) == workers
    assert place.execute("SELECT count(*) FROM clock.procrastinate_jobs") == [(0,)]


def test_a_run_of_a_killed_worker_is_taken_up_again(place: Field):
    place.described = [{"name": "test", "missed": "latest", "seconds": 60.0}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.process() as process:
        until(lambda: place.runs("running"))
        until(lambda: place.execute("SELECT 1 FROM worked"))
        process.kill()
    place.described = [{"name": "test", "missed": "latest"}]
    with place.working(2):
        (found,) = until(lambda: place.runs("ok"))
    assert found[3] == 2  # attempts
    assert place.execute("SELECT count(*), count(DISTINCT due) FROM worked WHERE due = %s", found[2]) == [(2, 1)]


def test_workers_that_are_killed_again_and_again_lose_and_double_no_moment(place: Field):
    place.described = many(20, missed="all", seconds=0.1)
    place.bounds = {"attempts": 100}
    place.declare()
    place.fall_behind(timedelta(minutes=10))
    for _ in range(6):
        ended = len(place.runs("ok"))
        with place.process() as one, place.process() as two:
            until(lambda ended=ended: len(place.runs("ok")) >= ended + 5)
            for process in (one, two):
                process.kill()
    with place.working(2):
        until(lambda: len(place.runs("ok")) >= 200, 90)
        until(lambda: not place.runs("queued", "running"))
    assert place.execute("SELECT count(*) FROM (SELECT DISTINCT name, subject, due FROM worked) AS w")[0] >= (200,)
    again = place.execute(
        "SELECT subject, due FROM worked JOIN ledger.clock_runs r USING (name, subject, due)"
        " GROUP BY name, subject, due, r.attempts HAVING count(*) > r.attempts"
    )
    assert again == []
    assert place.runs("failed") == []
    assert place.overlaps() == []


def test_a_job_that_kills_its_worker_each_time_is_given_up(place: Field):
    place.bounds = {"attempts": 2, "stale_s": 0.5, "concurrency": 1}
    place.described = [{"name": "test", "ending": "dies"}, {"name": "other"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    for _ in range(2):
        until(lambda: not place.execute(SILENT))
        with place.process("--once") as process:
            assert process.wait(30) == -signal.SIGKILL
    until(lambda: not place.execute(SILENT))
    place.once()
    ((_, _, _, attempts, _, error),) = place.runs("failed")
    assert attempts == 3
    assert "given up" in error


def test_a_worker_that_goes_on_after_its_run_was_taken_up_changes_nothing(place: Field):
    place.described = [{"name": "test"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.opened() as zombie, place.opened() as other:
        zombie.runs.plan([("test", "")], place_now())
        (run_id,) = place.execute("SELECT run_id FROM ledger.clock_runs")[0]
        first, second = zombie.runs.begin(run_id), other.runs.begin(run_id)
        assert first is not None
        assert second is not None
        for late in (lambda: zombie.runs.end(first, 1.0, error="too late"), lambda: zombie.runs.pause(first, "late")):
            with pytest.raises(Fenced):
                late()
        assert len(place.runs("running")) == 1
        other.runs.end(second, 2.0, said="right")
        assert zombie.runs.begin(run_id) is None
    assert [said for *_, said, _ in place.runs("ok")] == ["right"]


def test_the_entry_of_a_run_that_was_taken_up_is_not_forgotten_by_the_first(place: Field):
    """Else the run would be without an entry while it is at work, and be begun a third time."""
    place.described = [{"name": "test"}]
    taking_up: list[Runs] = []

    def run(due: datetime) -> str:
        taking_up.pop().begin(place.execute("SELECT run_id FROM ledger.clock_runs")[0][0])
        return "too late"

    jobs = [Job("test", "", "every 1m", run)]
    with place.opened(jobs) as zombie, place.opened(jobs) as other:
        taking_up.append(other.runs)
        place.fall_behind(timedelta(minutes=1))
        assert zombie.server.run(once=True)
    assert len(place.runs("running")) == 1
    assert place.execute("SELECT status::text FROM clock.procrastinate_jobs") == [("doing",)]
    assert not zombie.handlers.ended


def test_missed_moments_are_rows_and_are_caught_up_as_declared(place: Field):
    place.described = [
        {"name": "test", "subject": "skip", "missed": "skip", "schedule": "every 5m"},
        {"name": "test", "subject": "latest", "missed": "latest", "schedule": "every 5m"},
        {"name": "test", "subject": "all", "missed": "all", "schedule": "every 5m"},
    ]
    place.bounds = {"punctual_s": 0.0, "catch_up": 4}
    place.declare()
    place.fall_behind(timedelta(minutes=30))
    place.once()
    counted = place.execute(
        "SELECT subject, count(*) FILTER (WHERE outcome = 'ok'), count(*) FILTER (WHERE outcome = 'missed')"
        " FROM trueup.clock_runs GROUP BY 1 ORDER BY 1"
    )
    assert counted == [("all", 4, 2), ("latest", 1, 5), ("skip", 0, 6)]
    began = place.execute("SELECT due FROM worked WHERE subject = 'all' ORDER BY began")
    assert began == sorted(began)
    assert place.execute("SELECT bool_and(next_due > now()) FROM trueup.clock_jobs") == [(True,)]


def test_a_failure_is_recorded_in_the_familys_words_and_the_next_moment_goes_on(place: Field):
    place.described = [
        {"name": "test", "subject": ending, "ending": ending} for ending in ("fails", "breaks", "exits", "well")
    ]
    for _ in range(2):
        place.declare()
        place.execute("UPDATE ledger.clock_jobs SET next_due = next_due - interval '1 minute'")
        place.once()
        place.execute("UPDATE ledger.clock_runs SET due = due - interval '5 minutes'")
    errors = {(subject, error) for _, subject, *_, error in place.runs("failed")}
    assert errors == {
        ("fails", "InvalidQuery: the rule asks for too much"),
        ("breaks", "ValueError: a fault in the job itself"),
        ("exits", "SystemExit: a fault in the job itself"),
    }
    assert len(place.runs("failed")) == 6
    assert len(place.runs("ok")) == 2
    assert place.execute("SELECT bool_and(duration_s >= 0) FROM trueup.clock_runs") == [(True,)]


def test_a_passing_fault_is_tried_again_later_and_later_and_then_given_up(place: Field):
    place.bounds = {"attempts": 3}
    place.described = [{"name": "test", "ending": "unavailable"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    opened = place.once()
    ((_, _, _, attempts, _, error),) = place.runs("failed")
    assert attempts == 3
    assert error.startswith("LedgerUnavailable: ")
    assert dict(opened.handlers.ended) == {("test", "", "again"): 2, ("test", "", "failed"): 1}
    gaps = place.execute("SELECT began - lag(began) OVER (ORDER BY began) FROM worked ORDER BY began")
    assert gaps[1][0] >= timedelta(seconds=0.05)
    assert gaps[2][0] >= timedelta(seconds=0.1)


def test_a_long_job_does_not_delay_others_and_is_recorded_as_too_long(place: Field):
    place.bounds = {"job_timeout_s": 0.2, "concurrency": 2}
    place.described = [{"name": "test", "subject": "long", "seconds": 4.0}, *many(10)]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.working(1):
        until(lambda: place.execute("SELECT 1 FROM trueup.clock_jobs WHERE state = 'overrun'"))
        until(lambda: len(place.runs("ok")) == 10)
        assert [subject for _, subject, *_ in place.runs("running")] == ["long"]
        until(lambda: len(place.runs("ok")) == 11)
    assert place.execute("SELECT subject FROM trueup.clock_runs WHERE overran IS NOT NULL") == [("long",)]


def test_a_stop_under_load_ends_what_it_took_and_loses_nothing(place: Field):
    place.bounds = {"concurrency": 4}
    place.described = many(30, seconds=0.5)
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.process() as process:
        until(lambda: len(place.runs("running")) == 4)
        assert stopped(process) == 0
    assert place.runs("running") == []
    assert len(place.runs("ok")) < 30
    assert place.execute("SELECT count(*) FROM clock.procrastinate_workers") == [(0,)]
    place.described = many(30)
    place.once()
    assert len(place.runs("ok")) == 30
    assert place.execute("SELECT count(*) FROM worked") == [(30,)]


def test_what_outlasts_the_stop_is_taken_up_by_another(place: Field):
    place.bounds = {"drain_s": 0.2}
    place.described = [{"name": "test", "seconds": 60.0}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.process() as process:
        until(lambda: place.execute("SELECT 1 FROM worked"))
        assert stopped(process) == 1
    assert len(place.runs("running")) == 1
    place.described = [{"name": "test"}]
    until(lambda: not place.execute(SILENT))
    until(lambda: not place.execute(SILENT))
    place.once()
    assert [attempts for *_, attempts, _, _ in place.runs("ok")] == [2]


def test_a_second_signal_ends_at_once(place: Field):
    place.bounds = {"drain_s": 600.0}
    place.described = [{"name": "test", "seconds": 600.0}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.process() as process:
        until(lambda: place.execute("SELECT 1 FROM worked"))
        process.send_signal(signal.SIGTERM)
        with pytest.raises(Exception, match="timed out"):
            process.wait(1)
        assert stopped(process, signal.SIGINT) == 1


def test_the_database_is_away_for_a_while_and_nothing_is_lost_or_doubled(place: Field, server: EmbeddedPostgres):
    place.described = [
        {"name": "test", "subject": "long", "seconds": 5.0, "schedule": "every 24h"},
        *many(40, seconds=0.1, missed="all"),
    ]
    place.declare()
    place.fall_behind(timedelta(days=1))
    place.bounds = {"catch_up": 3}
    with place.working(2) as made:
        until(lambda: len(place.runs("ok")) >= 3)
        until(lambda: place.execute("SELECT 1 FROM worked WHERE subject = 'long'"))
        with away(server, place.urls):
            until(lambda: not any(one.server.is_ready for one in made))
            time.sleep(2.0)  # longer than after which a worker counts as dead
        until(lambda: all(one.server.is_ready for one in made))
        until(lambda: not place.execute("SELECT 1 FROM ledger.clock_jobs WHERE next_due < now()"), 60)
        until(lambda: not place.runs("queued", "running"), 60)
    doubled = place.execute(
        "SELECT w.due FROM worked w JOIN ledger.clock_runs r USING (name, subject, due)"
        " WHERE r.outcome = 'ok' GROUP BY name, subject, due, r.attempts HAVING count(*) > r.attempts"
    )
    assert doubled == []
    assert place.overlaps() == []
    assert place.execute("SELECT attempts FROM trueup.clock_runs WHERE subject = 'long' AND outcome = 'ok'") == [(1,)]
    ended = place.execute("SELECT count(*) FROM trueup.clock_runs WHERE outcome IN ('ok', 'failed')")[0][0]
    assert ended >= 120
    assert place.execute("SELECT count(*) FROM clock.procrastinate_jobs") == [(0,)]


def test_an_answer_that_never_came_is_no_lost_run(place: Field):
    """The queue gave an entry to a worker that did not hear of it."""
    place.described = [{"name": "test"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.working(1) as (one,):
        worker = until(lambda: one.server._worker)
        until(lambda: len(place.runs("ok")) == 1)
        place.execute("UPDATE ledger.clock_jobs SET next_due = next_due - interval '1 minute'")
        place.execute("UPDATE ledger.clock_runs SET due = due - interval '5 minutes'")
        place.execute(
            "CREATE FUNCTION clock.steal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" NEW.status := 'doing'; NEW.worker_id := {worker}; RETURN NEW; END $$;"
            " CREATE TRIGGER steal BEFORE INSERT ON clock.procrastinate_jobs"
            " FOR EACH ROW EXECUTE FUNCTION clock.steal()"
        )
        until(lambda: place.execute("SELECT 1 FROM clock.procrastinate_jobs WHERE status = 'doing'"))
        place.execute("DROP TRIGGER steal ON clock.procrastinate_jobs")
        one.server._doubtful = True
        until(lambda: len(place.runs("ok")) == 2)


def test_who_is_late_is_seen(place: Field):
    place.described = [{"name": "test", "schedule": "every 10m"}, {"name": "fine", "schedule": "every 10m"}]
    place.declare()
    place.execute("UPDATE ledger.clock_jobs SET late_at = now() - interval '1 second' WHERE name = 'test'")
    assert place.execute("SELECT name FROM trueup.clock_jobs WHERE is_late") == [("test",)]
    place.execute("UPDATE ledger.clock_jobs SET next_due = next_due - interval '10 minutes'")
    place.once()
    assert place.execute("SELECT name FROM trueup.clock_jobs WHERE is_late") == []
    assert place.execute("SELECT late_at - last_due FROM trueup.clock_jobs WHERE name = 'test'") == [
        (timedelta(minutes=30),)
    ]


def test_schedules_change_between_starts_and_jobs_that_are_gone_are_not_run(place: Field):
    place.described = [{"name": "test", "subject": "stays"}, {"name": "test", "subject": "goes"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.opened() as before:
        before.runs.plan([("test", "stays"), ("test", "goes")], place_now())
    place.described = [{"name": "test", "subject": "stays", "schedule": "every 2h"}]
    place.execute("UPDATE ledger.clock_jobs SET holds_until = now() - interval '1 second'")
    place.once()
    assert place.execute("SELECT subject, state, schedule FROM trueup.clock_jobs ORDER BY subject") == [
        ("goes", "retired", "every 1m"),
        ("stays", "waiting", "every 2h"),
    ]
    assert [(subject, error) for _, subject, *_, error in place.runs("missed")] == [
        ("goes", "the job is no longer declared")
    ]
    assert place.execute("SELECT subject FROM worked") == [("stays",)]
    assert place.execute("SELECT count(*) FROM clock.procrastinate_jobs") == [(0,)]
    place.described.append({"name": "test", "subject": "goes"})
    place.declare()
    assert place.execute("SELECT state, next_due > now() FROM trueup.clock_jobs WHERE subject = 'goes'") == [
        ("waiting", True)
    ]


def test_what_is_new_changed_or_gone_is_seen_while_a_worker_works(place: Field):
    place.bounds = {"gather_s": 0.1}
    place.described = [
        {"name": "test", "subject": "stays", "schedule": "every 24h"},
        {"name": "test", "subject": "changes", "schedule": "every 24h"},
        {"name": "test", "subject": "goes", "schedule": "every 1s"},
    ]
    with place.working(1):
        until(lambda: place.execute("SELECT 1 FROM worked WHERE subject = 'goes'"))
        place.described = [
            {"name": "test", "subject": "stays", "schedule": "every 24h"},
            {"name": "test", "subject": "changes", "schedule": "every 1s"},
            {"name": "test", "subject": "comes", "schedule": "every 1s"},
        ]
        until(lambda: place.execute("SELECT 1 FROM worked WHERE subject = 'comes'"))
        until(lambda: place.execute("SELECT 1 FROM worked WHERE subject = 'changes'"))
        until(lambda: place.execute("SELECT 1 FROM trueup.clock_jobs WHERE subject = 'goes' AND state = 'retired'"))
    assert place.execute("SELECT subject, schedule FROM trueup.clock_jobs WHERE state <> 'retired' ORDER BY 1") == [
        ("changes", "every 1s"),
        ("comes", "every 1s"),
        ("stays", "every 24h"),
    ]
    assert place.runs("failed") == []


def test_a_run_under_way_ends_well_though_its_job_is_gone(place: Field):
    place.bounds = {"gather_s": 0.1}
    place.described = [{"name": "test", "seconds": 3.0}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.working(1):
        until(lambda: place.execute("SELECT 1 FROM worked"))
        place.described = []
        until(lambda: place.execute("SELECT 1 FROM trueup.clock_jobs WHERE state = 'retired'"))
        assert len(place.runs("running")) == 1
        until(lambda: place.runs("ok"))
    assert place.runs("missed") == []
    assert place.execute("SELECT count(*) FROM clock.procrastinate_jobs") == [(0,)]


@pytest.mark.parametrize("fault", [LedgerUnavailable("away"), InvalidFile("the folder is none")])
def test_a_gathering_that_fails_leaves_the_jobs_as_they_are(place: Field, fault: TrueupError):
    gathered = 0

    def gather() -> list[Job]:
        nonlocal gathered
        gathered += 1
        if gathered > 1:
            raise fault
        return [Job("test", "", "every 1s", lambda due: "done")]

    place.bounds = {"gather_s": 0.1}
    with place.opened(gather) as opened, running(opened):
        until(lambda: gathered > 10)
        before = len(place.runs("ok"))
        until(lambda: len(place.runs("ok")) >= before + 2)
    assert place.execute("SELECT retired_at FROM ledger.clock_jobs") == [(None,)]


def test_workers_of_an_older_and_a_newer_view_do_not_fight(place: Field):
    """The newer one has a job more and another schedule; the older one looks last, again and again."""
    job = {"name": "test", "missed": "all"}
    place.bounds = {"gather_s": 0.1}
    place.described = [{**job, "subject": "both", "schedule": "every 24h"}, {**job, "subject": "old"}]
    with place.opened() as older:
        place.described = [{**job, "subject": "both", "schedule": "every 12h"}, {**job, "subject": "new"}]
        with place.opened() as newer:
            newer_view, older_view = list(place.described), [{**job, "subject": "both", "schedule": "every 24h"}]
            older_view.append({**job, "subject": "old"})
            seen = set()
            for _ in range(6):
                for worker, view in ((newer, newer_view), (older, older_view)):
                    place.described = view
                    worker.gathering.again(may_retire=True)
                    seen.update(place.execute("SELECT subject, schedule, state FROM trueup.clock_jobs"))
                time.sleep(0.1)
            assert seen == {
                ("both", "every 12h", "waiting"), ("new", "every 1m", "waiting"), ("old", "every 1m", "waiting"),
            }  # fmt: skip
        until(lambda: older.gathering.again(may_retire=True) or retired(place) == ["new"])
        assert place.execute("SELECT schedule FROM trueup.clock_jobs WHERE subject = 'both'") == [("every 12h",)]
    place.described = newer_view
    place.declare()
    assert retired(place) == []


def test_two_workers_at_once_share_jobs_that_come_and_go(place: Field):
    place.bounds = {"gather_s": 0.2}
    place.described = [{"name": "test", "subject": "s0", "schedule": "every 1s"}]
    with place.working(2):
        for round_ in range(1, 4):
            place.described = [{"name": "test", "subject": f"s{n}", "schedule": "every 1s"} for n in (0, round_)]
            until(lambda n=round_: place.execute("SELECT 1 FROM worked WHERE subject = %s", f"s{n}"))
        until(lambda: retired(place) == ["s1", "s2"])
    assert place.overlaps() == []
    assert place.execute("SELECT count(*) = count(DISTINCT (name, subject, due)) FROM worked") == [(True,)]
    assert place.runs("failed") == []


def test_who_knows_some_kinds_only_or_could_not_reach_the_database_retires_nobody(place: Field):
    place.described = [{"name": "test"}]
    place.declare()
    place.execute("UPDATE ledger.clock_jobs SET holds_until = now() - interval '1 second'")
    with place.opened([Job("other", "", "every 1m", lambda due: "done")], only=["other"]) as opened:
        opened.gathering.again(may_retire=True)
        assert retired(place) == []
    place.described = []
    with place.opened() as opened:
        assert retired(place) == [""]
        place.execute("UPDATE ledger.clock_jobs SET retired_at = NULL")
        opened.gathering.again(may_retire=False)
        assert retired(place) == []


def test_a_run_of_a_job_that_its_worker_no_longer_knows_is_left_to_another(place: Field):
    place.described = [{"name": "test"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.opened() as opened, place.opened() as other:
        opened.runs.plan([("test", "")], place_now())
        (run_id,) = place.execute("SELECT run_id FROM ledger.clock_runs")[0]
        place.described = []
        opened.gathering.again(may_retire=False)
        assert opened.handlers.handle(run_id) is not None
        assert [error for *_, error in place.runs("queued")] == ["a worker took it that no longer knows the job"]
        assert other.handlers.handle(run_id) is None
    assert [attempts for *_, attempts, _, _ in place.runs("ok")] == [2]


def test_a_worker_takes_only_what_it_knows(place: Field):
    place.described = [{"name": "test"}, {"name": "other"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    place.once(only=["other"])
    assert [name for name, *_ in place.runs("ok")] == ["other"]
    assert place.execute("SELECT count(*) FROM trueup.clock_jobs WHERE state = 'retired'") == [(0,)]


def test_a_schedule_that_cannot_be_read_stops_nobody_else(place: Field):
    place.described = [{"name": "test", "subject": "bad", "schedule": "at noon"}, {"name": "test", "subject": "good"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    place.once()
    assert place.execute("SELECT subject, state, is_late FROM trueup.clock_jobs ORDER BY subject") == [
        ("bad", "unreadable", True),
        ("good", "waiting", False),
    ]
    assert [subject for _, subject, *_ in place.runs("ok")] == ["good"]


def test_who_asks_for_a_run_gets_one_in_its_turn_and_is_remembered(place: Field):
    place.described = [{"name": "test"}]
    with place.opened() as opened:
        opened.runs.ask("test", "", "user:ann")
        with pytest.raises(Conflict):
            opened.runs.ask("test", "", "user:ben")
        with pytest.raises(NotFound):
            opened.runs.ask("nothing", "", "user:ann")
        assert opened.server.run(once=True)
    assert place.execute("SELECT outcome, asked_by FROM trueup.clock_runs") == [("ok", "user:ann")]
    assert place.execute("SELECT actor, action, subject FROM ledger.audit") == [("user:ann", "job.run", "test/")]


def test_the_queue_is_made_anew_for_another_version_and_keeps_open_runs(place: Field):
    place.described = [{"name": "test"}]
    place.declare()
    assert queue.prepare(place.urls.owner, 30) is False
    place.fall_behind(timedelta(minutes=1))
    with place.opened() as opened:
        opened.runs.plan([("test", "")], place_now())
    place.execute("COMMENT ON SCHEMA clock IS 'procrastinate 3.0.0 0123456789abcdef'")
    place.execute("INSERT INTO clock.procrastinate_workers DEFAULT VALUES")
    with pytest.raises(Conflict) as caught:
        queue.prepare(place.urls.owner, 30)
    assert "stop every" in caught.value.next_step
    place.execute("UPDATE clock.procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")
    assert queue.prepare(place.urls.owner, 30) is True
    place.execute("UPDATE ledger.clock_runs SET planned_at = planned_at - interval '1 hour'")
    place.once()
    assert len(place.runs("ok")) == 1


def test_two_runs_of_one_job_cannot_be_open(place: Field):
    place.described = [{"name": "test"}]
    place.declare()
    insert = "INSERT INTO ledger.clock_runs (name, subject, due, outcome) VALUES ('test', '', %s, 'queued')"
    place.execute(insert, place_now())
    with pytest.raises(psycopg.errors.UniqueViolation):
        place.execute(insert, place_now())


def test_the_writer_deletes_no_recent_history(place: Field):
    with psycopg.connect(place.urls.writer) as connection, pytest.raises(psycopg.errors.RaiseException):
        connection.execute("SELECT ledger.forget_runs(now(), 10)")
    with psycopg.connect(place.urls.writer) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM ledger.clock_runs")
    with psycopg.connect(place.urls.writer) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("UPDATE ledger.clock_runs SET due = now()")


def test_ready_jobs_do_not_keep_once_from_ending(place: Field):
    """A job that is due every second is run for what was due at the start."""
    jobs = [Job("test", "", "every 1s", lambda due: "done", Missed.LATEST)]
    with place.opened(jobs):
        pass
    place.execute("UPDATE ledger.clock_jobs SET next_due = next_due - interval '3 seconds'")
    place.once(jobs)
    assert len(place.runs("ok")) == 1


def place_now() -> datetime:
    return datetime.now(UTC)


def retired(place: Field) -> list[str]:
    return [
        subject
        for (subject,) in place.execute("SELECT subject FROM trueup.clock_jobs WHERE state = 'retired' ORDER BY 1")
    ]
