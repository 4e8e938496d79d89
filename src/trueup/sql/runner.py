"""Running one SELECT under the read-only role, bounded in time and rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from trueup.errors import InvalidQuery
from trueup.postgres import Pool, named
from trueup.settings import Limits

MAX_ROWS = 1_000_000


class PostgresQueries:
    """The role may only read views, the transaction only reads, and the server ends what takes too long.

    A cursor is declared for the text, so it can be one SELECT (or VALUES, or WITH) and nothing else.
    """

    def __init__(self, reader: Pool, limits: Limits) -> None:
        self._reader = reader
        self._limits = limits

    def rows(self, sql_text: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """All rows. Raises InvalidQuery beyond ``MAX_ROWS``."""
        names: list[str] = []
        found: list[dict[str, Any]] = []
        for names, row in self._read(sql_text, parameters):
            found.append(dict(zip(names, row, strict=True)))
            if len(found) > MAX_ROWS:
                raise InvalidQuery(f"more than {MAX_ROWS} rows", next_step="aggregate in SQL, or use stream()")
        return found

    def stream(self, sql_text: str, parameters: dict[str, Any] | None = None) -> Iterator[tuple[Any, ...]]:
        """Rows one by one through a server-side cursor."""
        for _, row in self._read(sql_text, parameters):
            yield row

    def _read(self, text: str, parameters: dict[str, Any] | None) -> Iterator[tuple[list[str], tuple[Any, ...]]]:
        try:
            with self._reader.transaction() as connection:
                connection.execute("SET TRANSACTION READ ONLY")
                timeout = int(self._limits.statement_timeout_s * 1000)
                connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(timeout))
                with connection.cursor("trueup_query") as cursor:
                    cursor.itersize = 10_000
                    cursor.execute(text.rstrip().rstrip(";").encode(), parameters or None)
                    names = named(cursor)
                    for row in cursor:
                        yield names, row
        except psycopg.errors.InsufficientPrivilege:
            raise InvalidQuery(
                "the query reads what the reader role may not", next_step="use the trueup views"
            ) from None
        except (psycopg.errors.SyntaxError, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            raise InvalidQuery(
                "the query does not fit the views", next_step="check names with `trueup db psql` and \\d+"
            ) from None
        except (psycopg.ProgrammingError, psycopg.DataError):
            raise InvalidQuery("the query or its parameters are not valid") from None
