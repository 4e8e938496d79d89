"""Pulls from a second PostgreSQL database and from SQLite: nothing lost, nothing doubled, nothing written there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

import trueup
from trueup.bootstrap import wired
from trueup.errors import Fenced, InvalidFile, InvalidInput, LedgerUnavailable, NotFound, Unavailable
from trueup.ledger.urls import Urls
from trueup.outcomes.postgres import PostgresOutcomes
from trueup.outcomes.pulling import Pulls
from trueup.settings import Pulling

CONTRACT = """
name: trade
version: 1
fields:
  ref: {type: string, role: key}
  amount: float64
output: {kind: probability}
labels:
  - {name: failed, type: bool, horizon: {days: 1}}
  - {name: penalty, type: float64, horizon: {days: 30}}
"""
TABLE = "CREATE TABLE fails (ref TEXT, day DATE, failed {bool}, penalty NUMERIC, changed_at {moment})"
QUERY = """
-- what the custodian's system knows
SELECT ref, day AS event_day, failed, penalty, changed_at AS observed_at FROM fails WHERE changed_at > :since
"""
Row = tuple[str, Any, Any, str | None]  # ref, failed, penalty, time of the day


class Sources:
    """A source database, and the pulls that read it."""

    def __init__(self, up: trueup.Trueup, folder: Path, url: str, execute: Callable[[str, list[Any]], None]) -> None:
        self.up, self.url, self.execute = up, url, execute
        self.query = folder / "fails.sql"
        self.query.write_text(QUERY)

    def add(self, *rows: Row) -> None:
        written = [(r, "2026-11-02", f, p, None if at is None else f"2026-11-03 {at}") for r, f, p, at in rows]
        self.execute("INSERT INTO fails VALUES (?, ?, ?, ?, ?)", written)

    def pulls(self, **changes: Any) -> Pulls:
        services = self.up.services
        declared = Pulling.model_validate({"url": self.url, "query": self.query, "contract": "trade", **changes})
        return Pulls(
            {"csd": declared},
            services._pools[1],
            services.outcomes,
            services.registry.contract,
            services.settings.limits,
        )

    def held(self) -> list[tuple[Any, ...]]:
        rows = self.up.query("SELECT label, business_key, revision, value_number FROM outcome_history ORDER BY 1, 2, 3")
        return [tuple(row.values()) for row in rows]

    def since(self) -> str:
        (row,) = self.up.query("SELECT since, rows_read, rows_refused FROM outcome_pulls").rows()
        return f"{row['since'].astimezone(UTC):%H:%M:%S} {row['rows_read']} {row['rows_refused']}"


@pytest.fixture(params=["sqlite", "postgresql"])
def source(request: pytest.FixtureRequest, up: trueup.Trueup, tmp_path: Path) -> Iterator[Sources]:
    up.deploy("trade", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    if request.param == "sqlite":
        path = tmp_path / "source.db"

        def execute(sql: str, rows: list[Any]) -> None:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.executemany(sql, rows)

        execute(TABLE.format(bool="INTEGER", moment="TEXT"), [()])
        yield Sources(up, tmp_path, f"sqlite:///{path}", execute)
        return
    database: Urls = request.getfixturevalue("empty_database")

    def execute_there(sql: str, rows: list[Any]) -> None:
        with psycopg.connect(database.owner, options="-c timezone=UTC") as connection:
            for row in rows:
                connection.execute(sql.replace("?", "%s"), row)

    execute_there(TABLE.format(bool="BOOLEAN", moment="TIMESTAMPTZ"), [()])
    yield Sources(up, tmp_path, database.owner.replace("postgresql://", "postgresql+psycopg://"), execute_there)


def yes(source: Sources) -> Any:
    return 1 if source.url.startswith("sqlite") else True


def test_what_is_new_is_read_once_and_what_changed_is_a_revision(source: Sources):
    true = yes(source)
    source.add(("A", true, None, "10:00:00"), ("B", None, 12.5, "10:00:01"))
    assert str(source.pulls().run("csd")) == "2 rows: 2 first outcomes, 0 revised, 0 refused"
    assert source.since() == "10:00:01 2 0"
    assert str(source.pulls(overlap_s=0).run("csd")) == "0 rows: 0 first outcomes, 0 revised, 0 refused"
    assert str(source.pulls().run("csd")).startswith("2 rows: 0 first outcomes, 0 revised")
    source.add(("B", true, 13, "11:00:00"))
    assert str(source.pulls(overlap_s=0).run("csd")) == "1 rows: 1 first outcomes, 1 revised, 0 refused"
    assert source.held() == [("failed", "A", 1, 1.0), ("failed", "B", 1, 1.0), ("penalty", "B", 1, 12.5),
                             ("penalty", "B", 2, 13.0)]  # fmt: skip


def test_what_was_committed_late_is_found_within_the_overlap(source: Sources):
    source.add(("A", yes(source), None, "10:00:30"))
    source.pulls().run("csd")
    source.add(("B", yes(source), None, "10:00:00"))
    assert source.pulls().run("csd").first == 1


def test_rows_that_are_no_outcomes_are_kept_aside_without_their_content(source: Sources):
    true = yes(source)
    source.add(("A", true, None, "10:00:00"), ("hush", None, None, "10:00:01"), ("B", true, None, "10:00:02"))
    pulled = [source.pulls().run("csd").refused for _ in range(2)]
    assert pulled == [1, 1]
    assert [row[:2] for row in source.held()] == [("failed", "A"), ("failed", "B")]
    (kept,) = source.up.query("SELECT contract_name, source, detail, content_digest FROM outcome_refusals").rows()
    assert (kept["contract_name"], kept["source"], kept["detail"]) == ("trade", "pull:csd", "value: null")
    assert b"hush" not in bytes(kept["content_digest"])


@pytest.mark.parametrize("batch_rows", [1, 2, 3])
def test_a_pull_that_dies_between_any_two_commits_goes_on(
    source: Sources, batch_rows: int, monkeypatch: pytest.MonkeyPatch
):
    """Three rows have one moment, so that every size of batch ends within it."""
    true = yes(source)
    moments = ("10:00:00", "10:00:01", "10:00:01", "10:00:01", "10:00:02")
    source.add(*((f"T{i}", true, None, at) for i, at in enumerate(moments)))
    record_all, died = PostgresOutcomes.record_all, 0
    for survived in range(10):
        left = survived

        def dying(self: PostgresOutcomes, *given: Any) -> Any:
            nonlocal left
            done = record_all(self, *given)
            left -= 1
            if left < 0:
                raise LedgerUnavailable("away")
            return done

        monkeypatch.setattr(PostgresOutcomes, "record_all", dying)
        try:
            source.pulls(batch_rows=batch_rows, overlap_s=0).run("csd")
            break
        except LedgerUnavailable:
            died += 1
    monkeypatch.undo()
    assert died
    assert source.held() == [("failed", f"T{i}", 1, 1.0) for i in range(5)]
    assert source.since().startswith("10:00:02")


def test_of_two_pullers_at_once_the_slower_one_is_fenced_off(source: Sources, monkeypatch: pytest.MonkeyPatch):
    source.add(("A", yes(source), None, "10:00:00"))
    stand = Pulls._stand

    def late(self: Pulls, name: str) -> Any:
        found = stand(self, name)
        monkeypatch.undo()
        source.pulls().run("csd")
        return found

    monkeypatch.setattr(Pulls, "_stand", late)
    with pytest.raises(Fenced):
        source.pulls().run("csd")
    assert source.held() == [("failed", "A", 1, 1.0)]


def test_a_bounded_run_goes_on_in_the_next(source: Sources):
    true = yes(source)
    source.add(*((f"T{i}", true, None, f"10:00:0{i}") for i in range(5)))
    bounded = {"batch_rows": 1, "most_rows": 2, "overlap_s": 0}
    assert [source.pulls(**bounded).run("csd").rows for _ in range(5)] == [2, 2, 2, 2, 0]
    assert len(source.held()) == 5
    source.add(*((f"S{i}", true, None, "11:00:00") for i in range(5)))
    with pytest.raises(InvalidInput, match="cannot move on"):
        source.pulls(**bounded).run("csd")


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("SELECT ref, day AS event_day, failed, changed_at AS observed_at FROM fails", "uses :since"),
        ("DELETE FROM fails WHERE changed_at > :since", "not one SELECT"),
        (QUERY + "; DELETE FROM fails", "not one SELECT"),
        ("SELECT ref, failed FROM fails WHERE changed_at > :since", "observed_at|cannot be run|failed"),
        (QUERY.replace("failed", "failed AS colour"), "unknown colour"),
    ],
)  # fmt: skip
def test_a_query_that_does_not_fit_moves_nothing(source: Sources, query: str, fault: str):
    source.add(("A", yes(source), None, "10:00:00"))
    source.query.write_text(query)
    with pytest.raises((InvalidFile, Unavailable), match=fault):
        source.pulls().run("csd")
    assert source.up.query("SELECT * FROM outcome_pulls").rows() == []


def test_the_source_is_never_written_to(source: Sources):
    """A SELECT may hide a change in what it calls."""
    source.add(("A", yes(source), None, "10:00:00"))
    if source.url.startswith("sqlite"):
        source.query.write_text("WITH x AS (SELECT :since) DELETE FROM fails RETURNING ref")
    else:
        source.query.write_text(QUERY.replace("SELECT", "WITH gone AS (DELETE FROM fails RETURNING *) SELECT", 1))
    with pytest.raises((InvalidFile, Unavailable)):
        source.pulls().run("csd")
    source.query.write_text(QUERY)
    assert source.pulls().run("csd").rows == 1


def test_a_source_that_is_away_is_said_without_its_address(up: trueup.Trueup, tmp_path: Path):
    up.deploy("trade", contract=CONTRACT, model="python:small_models:share_of_a_million", version="1")
    away = Sources(up, tmp_path, "postgresql+psycopg://desk:hush@127.0.0.1:1/none", lambda *_: None)
    with pytest.raises(Unavailable) as caught:
        away.pulls().run("csd")
    assert "hush" not in caught.value.message + caught.value.next_step
    with pytest.raises(NotFound):
        away.pulls().run("other")


def test_every_pull_is_a_job_of_the_clock(source: Sources):
    (job,) = source.pulls(schedule="every 5m").jobs()
    assert (job.name, job.subject, job.schedule) == ("pull", "csd", "every 5m")
    source.add(("A", yes(source), None, "10:00:00"))
    assert job.run(datetime.now(UTC)) == "1 rows: 1 first outcomes, 0 revised, 0 refused"


def test_pulls_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, fresh_database: Urls):
    monkeypatch.setenv("TRUEUP_PULLS__CSD__URL", "sqlite:///x")
    monkeypatch.setenv("TRUEUP_PULLS__CSD__QUERY", "fails.sql")
    monkeypatch.setenv("TRUEUP_PULLS__CSD__CONTRACT", "trade")
    settings = trueup.Settings()
    assert "sqlite" not in repr(settings)
    with wired(settings, fresh_database) as services:
        assert [job.subject for job in services.pulls.jobs()] == ["csd"]
