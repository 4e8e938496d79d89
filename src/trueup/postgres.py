"""Connections to PostgreSQL for the rooms: a bounded pool that speaks the core's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from trueup.errors import InvalidQuery, LedgerUnavailable

WAIT_S = 10.0
_AT_ONCE_S = 1e-3  # the pool takes no zero

Connection = psycopg.Connection[TupleRow]


class Pool:
    """At most ``size`` connections of one role. Nobody waits longer than ``WAIT_S`` for one."""

    def __init__(self, url: str, *, size: int, application: str, options: dict[str, str] | None = None) -> None:
        self._options = options or {}
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            min_size=0,
            max_size=size,
            timeout=WAIT_S,
            kwargs={"autocommit": True, "connect_timeout": int(WAIT_S), "application_name": application},
            configure=self._configure,
            open=True,
            reconnect_timeout=WAIT_S,
        )

    def _configure(self, connection: Connection) -> None:
        for name, value in self._options.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: commits at the end, rolls back on any error.

        Raises LedgerUnavailable when the database is away (then the commit's fate is unknown:
        the caller repeats with the same identity), InvalidQuery when it ran too long.
        """
        with self.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in autocommit mode, for what is one transaction by itself. Raises as ``transaction``."""
        with translated(), self._pool.connection() as connection:
            yield connection

    def idle(self) -> Connection | None:
        """A connection that is free right now, for whoever may not wait; ``give_back`` it."""
        try:
            return self._pool.getconn(timeout=_AT_ONCE_S)
        except (psycopg.Error, PoolTimeout):
            return None

    def give_back(self, connection: Connection) -> None:
        """Takes back what ``idle`` gave; what is not idle again is closed."""
        self._pool.putconn(connection)

    def close(self) -> None:
        """Closes every connection."""
        self._pool.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's errors into the core's."""
    try:
        yield
    except psycopg.errors.QueryCanceled:
        raise InvalidQuery(
            "the query ran longer than allowed", next_step="narrow it, or raise TRUEUP_LIMITS__STATEMENT_TIMEOUT_S"
        ) from None
    except psycopg.DataError:  # such as a text that holds NUL
        raise InvalidQuery("a value is none that the ledger can hold") from None
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
        if isinstance(error, (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)):
            raise
        raise LedgerUnavailable(
            "the ledger's database does not answer", next_step="try again; `trueup doctor` tells more"
        ) from None


def named(cursor: psycopg.Cursor[Any]) -> list[str]:
    """Column names of the result."""
    return [] if cursor.description is None else [column.name for column in cursor.description]
