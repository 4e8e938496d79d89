"""Databases of a test's own, copied from a template in milliseconds."""

from __future__ import annotations

import itertools

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
