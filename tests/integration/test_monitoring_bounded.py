"""No read that monitoring makes waits for ever, and one that was ended leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import psycopg
import pytest

import trueup
from monitored import deployed, outcomes_of, rows_of
from trueup.domain.monitoring import KnownBy, Monitoring, ReferenceRows, Window, WindowKind
from trueup.errors import TimedOut
from trueup.ledger.urls import Urls
from trueup.monitoring.bounding import reading
from trueup.monitoring.copied import Gathered, Layout, gathered
from trueup.monitoring.opening import open_measuring
from trueup.monitoring.postgres import PostgresMeasurements
from trueup.monitoring.postgres_references import PostgresReferences
from trueup.monitoring.service import Measuring
from trueup.postgres import Pool
from trueup.settings import Monitoring as Settings

DAY, NOW = date(2026, 11, 2), datetime(2026, 11, 20, tzinfo=UTC)
WINDOW = Window(WindowKind.DAY, DAY, DAY)
QUICK = Settings(statement_timeout_s=0.3)


@pytest.fixture
def measured(up: trueup.Trueup) -> trueup.Trueup:
    """A deployment with a day of predictions and what became of them."""
    deployed(up, Monitoring(reference=ReferenceRows(rows=300)))
    rows = rows_of(np.random.default_rng(1), 400)
    up.score("fails", rows, dataset="one")
    up.outcomes("fails", outcomes_of(rows, [False] * 400, "2026-11-04T06:00:00Z"), source="custodian")
    return up


def measuring(up: trueup.Trueup, settings: Settings = QUICK) -> Measuring:
    _, writer, reader = up.services._pools
    return open_measuring(up.services.registry, writer, reader, lambda: NOW, settings)


@contextmanager
def held(up: trueup.Trueup, table: str) -> Iterator[None]:
    """Whoever reads the table waits as long as the block is not left."""
    with psycopg.connect(up.services.urls.owner) as other:
        other.execute(f"LOCK TABLE ledger.{table} IN ACCESS EXCLUSIVE MODE".encode())
        yield
        other.rollback()


def runs(up: trueup.Trueup) -> list[tuple[Any, ...]]:
    with psycopg.connect(up.services.urls.owner) as owner:
        query = "SELECT measurements > 0, error FROM ledger.measurement_runs ORDER BY run_id"
        return owner.execute(query.encode()).fetchall()


class TestReads:
    READS: tuple[tuple[str, Callable[[Pool, int, int], Any]], ...] = (
        ("profiles", lambda pool, d, v: PostgresReferences(pool, QUICK).frozen(d, v)),
        ("profile_counts", lambda pool, d, v: list(PostgresReferences(pool, QUICK).counts(d, v, DAY, DAY))),
        ("profile_counts", lambda pool, d, v: PostgresMeasurements(pool, pool, QUICK).counted(d)),
        ("model_versions", lambda pool, d, v: PostgresMeasurements(pool, pool, QUICK).versions(d)),
        (
            "measurement_runs",
            lambda pool, d, v: PostgresMeasurements(pool, pool, QUICK).measured(d, KnownBy.RECORDED, NOW),
        ),
        (
            "outcomes",
            lambda pool, d, v: PostgresMeasurements(pool, pool, QUICK).changed(
                "fails", DAY, DAY, KnownBy.RECORDED, NOW
            ),
        ),
    )

    @pytest.mark.parametrize(("table", "read"), READS)
    def test_each_ends_and_says_what_to_do(
        self, measured: trueup.Trueup, table: str, read: Callable[[Pool, int, int], Any]
    ):
        deployment = measured.deployments()[0]
        ids = deployment.deployment_id or 0, deployment.champion.model_version_id or 0
        pool = measured.services._pools[1]
        with held(measured, table), pytest.raises(TimedOut, match="longer than monitoring may take") as ended:
            read(pool, *ids)
        assert "TRUEUP_MONITORING__STATEMENT_TIMEOUT_S" in ended.value.next_step
        read(pool, *ids)


class TestSteps:
    def test_a_reference_is_frozen_by_the_next_run(self, measured: trueup.Trueup):
        with held(measured, "predictions"), pytest.raises(TimedOut):
            measuring(measured).profile("fails")
        assert measuring(measured).profile("fails").counted == 400

    def test_a_count_that_was_ended_is_made_by_the_next_run(self, measured: trueup.Trueup):
        bounded = measuring(measured)
        assert bounded.profile("fails").counted == 400
        rows = rows_of(np.random.default_rng(2), 100, "2026-11-03")
        measured.score("fails", rows, dataset="two")
        with held(measured, "predictions"), pytest.raises(TimedOut):
            bounded.profile("fails")
        assert bounded.profile("fails").counted == 100

    def test_a_window_is_a_run_with_its_error_and_is_measured_by_the_next(self, measured: trueup.Trueup):
        bounded = measuring(measured)
        bounded.profile("fails")
        with held(measured, "outcomes"):
            done = bounded.measure("fails", NOW, windows=[WINDOW])
        assert done.failed == ["day 2026-11-02: a read of the ledger took longer than monitoring may take"]
        done = measuring(measured, Settings()).measure("fails", NOW)
        assert (done.failed, done.windows) == ([], 1)
        assert runs(measured) == [(False, "a read of the ledger took longer than monitoring may take"), (True, None)]


class TestCopy:
    ROWS = """
        COPY (SELECT n FROM generate_series(1, 50000) n UNION ALL SELECT 0 FROM pg_sleep(60)) TO STDOUT (FORMAT binary)
    """

    def test_one_that_is_ended_among_its_rows_is_told_and_the_connection_works(self, fresh_database: Urls):
        pool = Pool(fresh_database.writer, size=1, application="bounded")
        found: list[Gathered] = []
        try:
            with pytest.raises(TimedOut), reading(pool, 0.5) as connection, connection.cursor().copy(self.ROWS) as copy:
                found += gathered(copy, Layout([("n", "int")]), 1_024)
            assert found, "the rows before the wait were sent"
            with reading(pool, 0.5) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            pool.close()

    def test_the_bound_ends_with_its_transaction(self, fresh_database: Urls):
        pool = Pool(fresh_database.writer, size=1, application="bounded")
        try:
            with reading(pool, 1.5) as connection:
                assert connection.execute("SHOW statement_timeout").fetchone() == ("1500ms",)
            with pool.transaction() as connection:
                assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)
        finally:
            pool.close()
