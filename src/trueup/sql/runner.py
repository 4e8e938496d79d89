"""Running SELECTs under the read-only role, bounded in time and rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from trueup.errors import InvalidQuery
from trueup.postgres import Connection, Pool, named, translated
from trueup.settings import Limits

MAX_ROWS = 1_000_000
_AT_ONCE = 10_000  # rows fetched with one round trip


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of one SELECT. ``is_cut``: there were more than were asked for."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    is_cut: bool


class Snapshot:
    """Several SELECTs that see the ledger at one instant."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def answer(self, text: str, parameters: Mapping[str, Any] | None = None, *, max_rows: int = MAX_ROWS) -> Answer:
        """The first ``max_rows`` rows, with the columns' names also where there are none. Raises InvalidQuery."""
        rows: list[tuple[Any, ...]] = []
        with translated(), _told(), self._opened(text, parameters, max_rows + 1) as cursor:
            names = tuple(named(cursor))
            for row in cursor:
                if len(rows) == max_rows:
                    return Answer(names, tuple(rows), True)
                rows.append(row)
        return Answer(names, tuple(rows), False)

    def each(
        self, text: str, parameters: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[list[str], tuple[Any, ...]]]:
        """Column names and row, one by one, in bounded memory."""
        with self._opened(text, parameters, _AT_ONCE) as cursor:
            names = named(cursor)
            for row in cursor:
                yield names, row

    def plan(self, text: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """How the server would run it, which it does not. Raises InvalidFile where the text is no SELECT over views,
        InvalidQuery where the views do not have what it names."""
        from trueup.sql.checking import check_query  # whose parser only those need who explain

        explained = "EXPLAIN (FORMAT JSON) " + check_query(text).text
        with _told():
            (row,) = self._connection.execute(explained.encode(), parameters).fetchall()
        return dict(row[0][0]["Plan"])

    @contextmanager
    def _opened(
        self, text: str, parameters: Mapping[str, Any] | None, at_once: int
    ) -> Iterator[psycopg.ServerCursor[tuple[Any, ...]]]:
        """A cursor is declared for the text, so it can be one SELECT (or VALUES, or WITH) and nothing else."""
        with self._connection.cursor("trueup_query") as cursor:
            cursor.itersize = min(at_once, _AT_ONCE)
            cursor.execute(text.rstrip().rstrip(";").encode(), parameters or None)
            yield cursor


class PostgresQueries:
    """The role may only read views, the transaction only reads, and the server ends what takes too long."""

    def __init__(self, reader: Pool, limits: Limits) -> None:
        self._reader = reader
        self._limits = limits

    def rows(
        self,
        sql_text: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        max_rows: int | None = None,
    ) -> list[dict[str, Any]]:
        """All rows. Raises InvalidQuery beyond ``max_rows`` (``MAX_ROWS`` unless given) or ``timeout_s``."""
        most = MAX_ROWS if max_rows is None else max_rows
        with self.snapshot(timeout_s=timeout_s) as snapshot:
            found = snapshot.answer(sql_text, parameters, max_rows=most)
        if found.is_cut:
            raise InvalidQuery(f"more than {most} rows", next_step="aggregate in SQL, or use stream()")
        return [dict(zip(found.columns, row, strict=True)) for row in found.rows]

    def stream(self, sql_text: str, parameters: Mapping[str, Any] | None = None) -> Iterator[tuple[Any, ...]]:
        """Rows one by one through a server-side cursor."""
        with self.snapshot() as snapshot:
            for _, row in snapshot.each(sql_text, parameters):
                yield row

    def explain(self, sql_text: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The server's plan, without running it. Raises InvalidFile, InvalidQuery."""
        with self.snapshot() as snapshot:
            return snapshot.plan(sql_text, parameters)

    @contextmanager
    def snapshot(self, *, timeout_s: float | None = None) -> Iterator[Snapshot]:
        """One read-only transaction of one snapshot; ``timeout_s`` holds for each statement, and the settings' bound
        where it is lower. Raises InvalidQuery, LedgerUnavailable."""
        allowed = self._limits.statement_timeout_s
        timeout_ms = max(1, int(min(allowed, timeout_s or allowed) * 1000))
        with _told(), self._reader.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(timeout_ms))
            yield Snapshot(connection)


@contextmanager
def _told() -> Iterator[None]:
    """The server's faults in the words of the core; they never quote the query."""
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction):
        raise InvalidQuery("the query does what the reader role may not", next_step="use the trueup views") from None
    except (
        psycopg.errors.SyntaxError,
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedColumn,
        psycopg.errors.UndefinedFunction,
    ):
        raise InvalidQuery(
            "the query does not fit the views", next_step="check names with `trueup db psql` and \\d+"
        ) from None
    except (psycopg.ProgrammingError, psycopg.DataError):
        raise InvalidQuery("the query or its parameters are not valid") from None
