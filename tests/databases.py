"""Databases of a test's own, copied from a template in milliseconds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from trueup.ledger.embedded import EmbeddedPostgres
from trueup.ledger.urls import Urls

_NUMBER = itertools.count()


def create_database(server: EmbeddedPostgres, template: str) -> Urls:
    """A copy of the template, under a name that nothing else has."""
    name = f"test_{next(_NUMBER)}"
    with psycopg.connect(server.urls("postgres").owner, autocommit=True) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
    return server.urls(name)


@contextmanager
def away(server: EmbeddedPostgres, database: Urls) -> Iterator[None]:
    """Nobody gets in, and who was in is thrown out: what clients see of a server that is gone."""
    name = psycopg.conninfo.conninfo_to_dict(database.owner)["dbname"]
    identifier = sql.Identifier(str(name))
    with psycopg.connect(server.urls("postgres").owner, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(identifier))
        while connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        ).fetchall():
            time.sleep(0.01)  # a backend that was told to end may live a moment longer
        try:
            yield
        finally:
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(identifier))
