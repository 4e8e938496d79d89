"""Queries under the reader role: bounded, of one snapshot, and nothing but reading."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

import trueup
from trueup.bootstrap import Services, wired
from trueup.errors import InvalidFile, InvalidQuery
from trueup.ledger.urls import Urls
from trueup.sql.checking import check_query


@pytest.fixture
def services(fresh_database: Urls, settings: trueup.Settings) -> Iterator[Services]:
    with wired(settings, fresh_database) as opened:
        yield opened


def test_rows_are_bounded(services: Services) -> None:
    text = "SELECT i FROM generate_series(1, %(n)s::int) AS s(i)"
    assert services.queries.rows(text, {"n": 2}, max_rows=2) == [{"i": 1}, {"i": 2}]
    with pytest.raises(InvalidQuery, match="more than 2 rows"):
        services.queries.rows(text, {"n": 3}, max_rows=2)
    with services.queries.snapshot() as snapshot:
        found = snapshot.answer(text, {"n": 3}, max_rows=2)
        none = snapshot.answer(text, {"n": 0})
    assert (found.rows, found.is_cut) == (((1,), (2,)), True)
    assert (none.columns, none.rows, none.is_cut) == (("i",), (), False)


def test_time_is_bounded(services: Services) -> None:
    with pytest.raises(InvalidQuery, match="longer than allowed"):
        services.queries.rows("SELECT pg_sleep(60)", timeout_s=0.05)


def test_queries_of_a_snapshot_see_one_instant(services: Services, fresh_database: Urls) -> None:
    text = "SELECT count(*) FROM contracts"
    with services.queries.snapshot() as snapshot:
        before = snapshot.answer(text).rows
        with psycopg.connect(fresh_database.owner, autocommit=True) as owner:
            owner.execute(
                "INSERT INTO ledger.contracts (name, version, digest, body) VALUES ('a', 1, repeat('0', 64), '{}')"
            )
        assert snapshot.answer(text).rows == before
    assert services.queries.rows(text) == [{"count": 1}]


def test_a_plan_is_made_and_nothing_is_run(services: Services) -> None:
    plan = services.queries.explain("SELECT 100 %% 7 FROM truth WHERE deployment = %(d)s", {"d": "x"})
    assert plan["Node Type"]
    with pytest.raises(InvalidQuery, match="does not fit the views"):
        services.queries.explain("SELECT no_such_column FROM truth WHERE deployment = %(d)s", {"d": "x"})
    with pytest.raises(InvalidFile):
        services.queries.explain("ANALYZE", {})


@pytest.mark.parametrize(
    "text", ["SELECT * FROM ledger.predictions", "SELECT pg_read_file('postgresql.conf')", "SELECT lo_create(0)"]
)
def test_the_role_refuses_what_the_parser_would(services: Services, text: str) -> None:
    with pytest.raises(InvalidFile):
        check_query(text)
    with pytest.raises(InvalidQuery):
        services.queries.rows(text)


def test_every_function_that_does_more_than_compute_is_refused(fresh_database: Urls) -> None:
    """By the server's own list: volatile ones, those that read catalogs or files, and those that tell the time."""
    with psycopg.connect(fresh_database.owner) as owner:
        names = [
            row[0]
            for row in owner.execute(
                "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
                " AND prokind IN ('f', 'a', 'w') AND prorettype <> 'trigger'::regtype"
                " AND (provolatile = 'v' OR proname ~ '^(pg_|lo_|has_.*_privilege$)|_to_xml|^current_|^to_reg'"
                "      OR proname IN ('now', 'version', 'statement_timestamp', 'transaction_timestamp'))"
            ).fetchall()
        ]
    assert len(names) > 100
    assert [name for name in names if _is_taken(f'SELECT "{name}"(1)')] == []


def _is_taken(text: str) -> bool:
    try:
        check_query(text)
    except InvalidFile:
        return False
    return True


def test_event_days_are_found_by_any_plan(services: Services, fresh_database: Urls) -> None:
    with psycopg.connect(fresh_database.owner) as connection:
        connection.execute("SELECT ledger.ensure_partitions('{2026-11-20}')")
        for way in ("nestloop", "indexscan", "bitmapscan"):  # left is a scan of all relations, whatever they are called
            connection.execute(f"SET enable_{way} = off")
        found = connection.execute("SELECT d::text FROM trueup.event_days() AS d WHERE d = '2026-11-20'").fetchall()
    assert found == [("2026-11-20",)]
