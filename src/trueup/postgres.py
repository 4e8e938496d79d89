"""Connections to PostgreSQL for the rooms: a bounded pool that speaks the core's errors.

While the database is away nobody waits for it: a pool remembers that no connection could be made, refuses at
once, and looks again every ``PROBE_S`` seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from select import POLLIN, poll
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from trueup.errors import InvalidQuery, LedgerUnavailable
from trueup.telemetry import log

logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # each failed attempt, with addresses; a circuit says it once

WAIT_S = 10.0
CONNECT_S = 2.0
PROBE_S = 0.25
_AT_ONCE_S = 1e-3  # the pool takes no zero
_LOOK_S = 0.05  # a waiting caller notices within so long that the database is away
_STALE = 16  # connections that broke while they were idle, at most so many are passed over for one caller

Connection = psycopg.Connection[TupleRow]


class Circuit:
    """Remembers that the database is away; closed while it answers. ``probe_s``: how often one caller may try."""

    def __init__(self, application: str, probe_s: float = PROBE_S) -> None:
        self._application = application
        self._probe_s = probe_s
        self._lock = threading.Lock()
        self._away = False
        self._next_probe = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the database is away, as far as is known."""
        return self._away

    def lets_through(self) -> bool:
        """Whether a caller may ask for a connection now."""
        if not self._away:
            return True
        with self._lock:
            if time.monotonic() < self._next_probe:
                return False
            self._next_probe = time.monotonic() + self._probe_s
            return True

    def failed(self) -> None:
        """No connection could be made, or one did not answer in time."""
        with self._lock:
            was_away, self._away = self._away, True
            self._next_probe = time.monotonic() + self._probe_s
        if not was_away:
            log("postgres").warning("database_away", application=self._application)

    def succeeded(self) -> None:
        """A connection was made."""
        with self._lock:
            was_away, self._away = self._away, False
        if was_away:
            log("postgres").warning("database_back", application=self._application)


class Pool:
    """At most ``size`` connections of one role. Nobody waits longer than ``WAIT_S`` for one, or at all while the
    database is away."""

    def __init__(
        self,
        url: str,
        *,
        size: int,
        application: str,
        options: dict[str, str] | None = None,
        connect_s: float = CONNECT_S,
        probe_s: float = PROBE_S,
    ) -> None:
        self._options = options or {}
        self.circuit = Circuit(application, probe_s)
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            min_size=0,
            max_size=size,
            timeout=WAIT_S,
            kwargs={
                "autocommit": True,
                "connect_timeout": max(1, round(connect_s)),
                "application_name": application,
                "keepalives_idle": 5,  # a host that is gone is noticed, also by who waits for its answer
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 10_000,
            },
            configure=self._configure,
            open=True,
            reconnect_timeout=_LOOK_S,  # the circuit says when it is tried again
            connection_class=_watched(self.circuit),
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
        with translated():
            connection = self._taken(WAIT_S)
            try:
                with connection:
                    yield connection
            finally:
                self._pool.putconn(connection)

    def idle(self, wait_s: float = _AT_ONCE_S) -> Connection | None:
        """A connection that is free at once or within ``wait_s``, for whoever may not wait; ``give_back`` it."""
        with suppress(psycopg.Error, PoolTimeout):
            return self._taken(wait_s)
        return None

    def suspect(self) -> None:
        """A connection did not answer in time: the database counts as away until one can be made again."""
        self.circuit.failed()

    def give_back(self, connection: Connection) -> None:
        """Takes back what ``idle`` gave; what is not idle again is closed."""
        self._pool.putconn(connection)

    def close(self) -> None:
        """Closes every connection."""
        self._pool.close()

    def _taken(self, wait_s: float) -> Connection:
        """A connection that works. Raises PoolTimeout."""
        until = time.monotonic() + wait_s
        for _ in range(_STALE):
            connection = self._waited_for(until)
            if _is_alive(connection):
                return connection
            self._pool.putconn(connection)
        raise PoolTimeout("connections keep breaking")

    def _waited_for(self, until: float) -> Connection:
        if not self.circuit.lets_through():
            raise PoolTimeout("the database is away")
        while True:
            left = until - time.monotonic()
            try:
                return self._pool.getconn(timeout=max(min(left, _LOOK_S), _AT_ONCE_S))
            except PoolTimeout:
                if left <= _LOOK_S or self.circuit.is_open:
                    raise


def _watched(circuit: Circuit) -> type[Connection]:
    """Connections whose making is noticed."""

    class Watched(Connection):
        @classmethod
        def connect(cls, *parameters: Any, **named: Any) -> Any:
            """As psycopg's."""
            try:
                made = super().connect(*parameters, **named)
            except psycopg.Error:
                circuit.failed()
                raise
            circuit.succeeded()
            return made

    return Watched


def _is_alive(connection: Connection) -> bool:
    """Whether the server has left an idle connection open, as far as this side was told: no round trip."""
    waiting = poll()
    waiting.register(connection.pgconn.socket, POLLIN)
    for _ in range(3):  # a notice, then nothing; or a farewell, and then its end
        if not waiting.poll(0):
            return True
        try:
            connection.pgconn.consume_input()
        except psycopg.Error:
            break
    connection.close()
    return False


@contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's errors into the core's."""
    try:
        yield
    except psycopg.errors.QueryCanceled:
        raise InvalidQuery(
            "the query ran longer than allowed", next_step="narrow it, or raise TRUEUP_LIMITS__STATEMENT_TIMEOUT_S"
        ) from None
    except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded):  # such as NUL, or a text too long for an index
        raise InvalidQuery("a value can be neither stored nor computed with") from None
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
        if isinstance(error, (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)):
            raise
        raise LedgerUnavailable(
            "the ledger's database does not answer", next_step="try again; `trueup doctor` tells more"
        ) from None


def named(cursor: psycopg.Cursor[Any]) -> list[str]:
    """Column names of the result."""
    return [] if cursor.description is None else [column.name for column in cursor.description]
