"""`trueup work` and `trueup jobs` as people and watchers see them, and the ledger's own scheduled work."""

from __future__ import annotations

import re
import signal
import urllib.error
import urllib.request
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from clocks import Field, until
from streaming import Command
from trueup.bootstrap import gathering, wired
from trueup.doors.cli.errors import NOT_FOUND
from trueup.ledger.urls import Urls
from trueup.settings import Settings

TOKEN = "t" * 40


@pytest.fixture
def command(fresh_database: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(fresh_database, tmp_path, monkeypatch)


@pytest.fixture
def place(fresh_database: Urls, tmp_path: Path) -> Field:
    return Field(fresh_database, tmp_path)


def test_the_ledgers_upkeep_is_declared_run_and_listed(command: Command, fresh_database: Urls):
    command("work", "--once")
    listed = command.json("jobs", "list")
    found = [(job["name"], job["subject"], job["state"], job["is_late"]) for job in listed]
    assert [job for job in found if job[0] == "upkeep"] == [
        ("upkeep", "gauges", "waiting", False),
        ("upkeep", "partitions", "waiting", False),
        ("upkeep", "runs", "waiting", False),
    ]
    assert command.json("jobs", "list", "--late") == []
    run = command.json("jobs", "run", "upkeep", "partitions")
    assert (run["outcome"], run["said"]) == ("ok", "8 partitions made")
    assert run["asked_by"].startswith("user:")
    assert [r["run_id"] for r in command.json("jobs", "history", "upkeep", "--outcome", "ok")] == [run["run_id"]]
    assert command.json("jobs", "history", "upkeep", "runs") == []
    with psycopg.connect(fresh_database.owner) as connection:
        days = connection.execute("SELECT max(d) FROM trueup.event_days() AS d").fetchone()
    assert days == (run_day(run["due"]) + timedelta(days=7),)


def run_day(text: str) -> date:
    return datetime.fromisoformat(text).astimezone(UTC).date()


def test_history_is_forgotten_after_its_time_and_not_before(place: Field):
    place.described = [{"name": "test"}]
    place.declare()
    place.execute(
        "INSERT INTO ledger.clock_runs (name, subject, due, outcome, finished_at)"
        " SELECT 'test', '', now() - n * interval '1 day', 'missed', now() - n * interval '1 day'"
        " FROM generate_series(1, 500, 100) AS n"
    )
    with wired(Settings(data_dir=place.folder / "data"), place.urls) as services:
        (forget,) = [job for job in gathering(services)() if job.subject == "runs"]
        assert forget.run(datetime.now(UTC)) == "1 runs forgotten"
    assert len(place.runs("missed")) == 4


def test_a_job_that_there_is_not_is_an_error_of_the_family(command: Command):
    command("jobs", "run", "nothing", code=NOT_FOUND)
    command("work", "--only", "nothing", "--once", code=NOT_FOUND)


def test_once_says_that_a_run_failed(place: Field):
    place.described = [{"name": "test", "ending": "fails"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.process("--once") as process:
        assert process.wait(60) == 1
    assert len(place.runs("failed")) == 1


def fetched(address: str, token: str = "") -> tuple[int, str]:
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_metrics_tell_of_each_jobs_last_run(place: Field, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRUEUP_METRICS_TOKEN", TOKEN)
    place.described = [{"name": "test", "subject": "good"}, {"name": "test", "subject": "bad", "ending": "fails"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.process("--port", "0") as process:
        until(lambda: len(place.runs("ok", "failed")) == 2, 60)
        found = re.search(r"metrics on (http://\S+)", (place.folder / "workers.log").read_text())
        assert found
        until(lambda: fetched(f"{found[1]}/health/ready")[0] == 200)
        assert fetched(f"{found[1]}/health/live")[0] == 200
        assert fetched(f"{found[1]}/metrics")[0] == 401
        page = fetched(f"{found[1]}/metrics", TOKEN)[1]
        assert 'trueup_clock_last_run_ok{job="test",subject="good"} 1.0' in page
        assert 'trueup_clock_last_run_ok{job="test",subject="bad"} 0.0' in page
        assert 'trueup_clock_runs_total{job="test",outcome="failed",subject="bad"}' in page
        assert re.search(r"trueup_clock_lag_seconds [0-9.]+\n", page)
        assert 'trueup_clock_late{job="test",subject="good"} 0.0' in page
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_every_metric_of_the_clock_is_documented(place: Field):
    from prometheus_client.core import Metric

    place.described = [{"name": "test"}]
    place.declare()
    place.fall_behind(timedelta(minutes=1))
    with place.opened() as opened:
        assert opened.server.run(once=True)
        found: list[Metric] = list(opened.figures.collect())
    text = (Path(__file__).parents[2] / "docs/runbooks/clock.md").read_text(encoding="utf-8")
    told = {sample.name for metric in found for sample in metric.samples}
    assert len(told) == 7
    assert told == set(re.findall(r"^\| `(trueup_clock_\w+)`", text, re.MULTILINE))
