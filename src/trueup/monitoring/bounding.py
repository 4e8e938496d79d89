"""Reads under the writer's role end in time: that role has no bound of its own, for booking must not have one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from trueup.errors import TimedOut
from trueup.postgres import Connection, Pool


@contextmanager
def reading(writer: Pool, timeout_s: float) -> Iterator[Connection]:
    """One transaction whose statements end within ``timeout_s`` seconds each. Raises TimedOut, LedgerUnavailable."""
    with writer.transaction() as connection, within(connection, timeout_s):
        yield connection


@contextmanager
def within(connection: Connection, timeout_s: float) -> Iterator[None]:
    """From here to the end of its transaction every statement ends within ``timeout_s`` seconds. Raises TimedOut."""
    connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{max(1, round(timeout_s * 1000))}ms",))
    try:
        yield
    except psycopg.errors.QueryCanceled:
        raise TimedOut(
            "a read of the ledger took longer than monitoring may take",
            next_step="raise TRUEUP_MONITORING__STATEMENT_TIMEOUT_S, or count fewer ROWS_AT_ONCE",
        ) from None
