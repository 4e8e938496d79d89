"""All migrations in order equal the schema; they can be taken back; two starters take turns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from trueup.ledger import migrating
from trueup.ledger.migrations import HEAD
from trueup.ledger.tables import metadata
from trueup.ledger.urls import Urls

CATALOGUE = """
    SELECT c.relname, c.relkind::text, pg_get_viewdef(c.oid) FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('ledger', 'trueup') AND c.relkind IN ('r', 'p', 'v')
    ORDER BY 1
"""
CHECKS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'ledger'::regnamespace AND contype IN ('c', 'u', 'p', 'f') ORDER BY 1, 2
"""


def listed(url: str, query: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def test_migrations_in_order_equal_the_schema(empty_database: Urls):
    migrating.migrate(empty_database.owner)
    engine = create_engine(empty_database.owner)

    def ours(obj: Any, name: str | None, kind: str, *_: Any) -> bool:
        return kind != "table" or not (name or "").startswith(("predictions_", "alembic_version"))

    with engine.connect() as connection:
        options = {
            "include_schemas": True,
            "compare_type": True,
            "compare_server_default": True,
            "include_object": ours,
            "version_table_schema": "ledger",
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_checks_made_by_migrations_equal_those_of_the_schema(server: Any, empty_database: Urls, fresh_database: Urls):
    engine = create_engine(empty_database.owner)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA ledger")
        metadata.create_all(connection)
    from_migrations = [row for row in listed(fresh_database.owner, CHECKS) if "alembic" not in row[0]]
    assert listed(empty_database.owner, CHECKS) == from_migrations


def test_up_down_up_ends_where_it_began(empty_database: Urls):
    owner = empty_database.owner
    migrating.upgrade(owner)
    before = listed(owner, CATALOGUE)
    migrating.downgrade(owner, "base")
    assert [row[0] for row in listed(owner, CATALOGUE)] == ["alembic_version"]
    migrating.upgrade(owner)
    assert listed(owner, CATALOGUE) == before


def test_eight_starters_at_once_migrate_once(empty_database: Urls):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(migrating.migrate, [empty_database.owner] * 8))
    assert migrating.status(empty_database.owner)["database"] == migrating.stamp()
    assert migrating.migrate(empty_database.owner) is False


def test_head_names_the_last_migration():
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "trueup.ledger:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


@pytest.mark.parametrize("table", ["predictions", "outcomes", "refusals", "batches", "audit"])
@pytest.mark.parametrize("statement", ["UPDATE ledger.{} SET {} = {}", "DELETE FROM ledger.{}", "TRUNCATE ledger.{}"])
def test_the_writer_can_only_append(fresh_database: Urls, table: str, statement: str):
    column = (
        "booked_at" if table in ("predictions", "refusals", "batches") else "source" if table == "outcomes" else "actor"
    )
    with psycopg.connect(fresh_database.writer) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.format(table, column, column))


def test_the_reader_sees_views_and_no_table(fresh_database: Urls):
    with psycopg.connect(fresh_database.reader) as connection:
        views = connection.execute("SELECT viewname FROM pg_views WHERE schemaname = 'trueup'").fetchall()
        assert len(views) >= 10
        for (view,) in views:
            connection.execute(f"SELECT * FROM trueup.{view} LIMIT 1")
    tables = [t.name for t in metadata.sorted_tables]
    for table in tables:
        with psycopg.connect(fresh_database.reader) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"SELECT * FROM ledger.{table}")


def test_every_view_says_what_it_is(fresh_database: Urls):
    rows = listed(
        fresh_database.owner,
        "SELECT c.relname, obj_description(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'trueup' AND c.relkind = 'v'",
    )
    assert [name for name, comment in rows if not comment] == []


def test_neither_writer_nor_reader_can_make_anything(fresh_database: Urls):
    for url in (fresh_database.writer, fresh_database.reader):
        for statement in (
            "CREATE TABLE ledger.x (i int)",
            "CREATE TABLE trueup.x (i int)",
            "CREATE TABLE public.x (i int)",
        ):
            with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
