"""Reading outcome rows from any database that SQLAlchemy speaks to, and never writing to it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, bindparam, create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from trueup.contracts.values import JsonNumber
from trueup.domain.contract import Contract, Field, FieldType
from trueup.errors import InvalidFile, InvalidInput, Unavailable
from trueup.settings import Pulling

MOST_QUERY_BYTES = 256_000
_SELECT = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(select|with)\b", re.IGNORECASE | re.DOTALL)


def query_of(path: Path) -> str:
    """The SELECT of a pull. Raises InvalidFile."""
    try:
        if path.stat().st_size > MOST_QUERY_BYTES:
            raise InvalidFile(f"a query of a pull has at most {MOST_QUERY_BYTES} bytes")
        query = path.read_text(encoding="utf-8").strip().removesuffix(";")
    except (OSError, UnicodeDecodeError):
        raise InvalidFile(f"the query {path.name} cannot be read", next_step="check TRUEUP_PULLS") from None
    if not _SELECT.match(query) or ";" in query or not re.search(r"(?<!:):since\b", query):
        raise InvalidFile(f"{path.name} is not one SELECT that uses :since", next_step="docs/how-to/record-outcomes.md")
    return query


def outcome_rows(pull: Pulling, query: str, shape: Contract, since: dt.datetime) -> Iterator[Sequence[dict[str, Any]]]:
    """Rows of ``shape``, oldest first, ``pull.batch_rows`` at a time, through a cursor of the source's.

    Raises Unavailable where the source does not answer, InvalidFile where its rows cannot be outcomes.
    """
    # The query is the operator's own, from a file that the settings name.
    ordered = text(f"SELECT * FROM (\n{query}\n) pulled ORDER BY observed_at").bindparams(  # noqa: S608
        bindparam("since", type_=DateTime(timezone=True))
    )
    try:
        engine = create_engine(pull.url.get_secret_value(), poolclass=NullPool)
    except (ArgumentError, NoSuchModuleError, ImportError):
        raise InvalidInput(
            "the address of a pull names no database that can be read",
            next_step="install its driver",
        ) from None
    knows_zones = engine.dialect.name in ("postgresql", "oracle", "mssql")
    try:
        with engine.connect() as connection:
            _read_only(connection, pull.timeout_s)
            streaming = connection.execution_options(stream_results=True, max_row_buffer=pull.batch_rows)
            bound = since if knows_zones else since.replace(tzinfo=None)
            result = streaming.execute(ordered, {"since": bound})
            _check_columns(list(result.keys()), shape)
            for rows in result.mappings().partitions(pull.batch_rows):
                yield [_row(shape, row) for row in rows]
    except DBAPIError as error:
        # The database's own text can hold values and SQL: its kind is enough.
        kind = type(error.orig).__name__ if error.orig is not None else type(error).__name__
        raise Unavailable(f"the source of a pull failed ({kind})", next_step="run its query there by hand") from None
    except SQLAlchemyError as error:
        raise InvalidFile(
            f"the query of a pull cannot be run ({type(error).__name__})", next_step="run it there by hand"
        ) from None
    finally:
        with suppress(SQLAlchemyError):
            engine.dispose()


def _read_only(connection: Connection, timeout_s: float) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION READ ONLY"))
        connection.execute(text(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}"))
    elif connection.dialect.name == "sqlite":
        connection.execute(text("PRAGMA query_only = ON"))


def _check_columns(names: list[str], shape: Contract) -> None:
    """Raises InvalidFile before any row is looked at: a query that does not fit would refuse them all."""
    unknown = [name for name in names if name not in shape.by_name]
    needed = [f.name for f in shape.fields if not f.nullable] + ["observed_at"]
    missing = [name for name in needed if name not in names]
    if unknown or missing or len(set(names)) != len(names):
        wrong = ", ".join([*(f"unknown {name[:60]}" for name in unknown[:5]), *(f"no {n}" for n in missing[:5])])
        raise InvalidFile(f"the columns of a pull do not fit: {wrong}", next_step="name them with AS")


def _row(shape: Contract, row: Any) -> dict[str, Any]:
    return {name: _as_sent(shape.by_name[name], value) for name, value in row.items()}


def _as_sent(f: Field, value: Any) -> Any:
    """The value as a door would get it; databases have fewer types, or more, than contracts."""
    if isinstance(value, Decimal):
        whole = f.type in (FieldType.INT64, FieldType.BOOL) and value == value.to_integral_value()
        value = int(value) if whole else JsonNumber(value)
    if f.type is FieldType.BOOL and type(value) is int and value in (0, 1):
        return bool(value)
    if f.type is FieldType.TIMESTAMP:
        return _moment(value)
    if f.type is FieldType.DATE and isinstance(value, dt.datetime) and value.time() == dt.time():
        return value.date()
    return str(value) if isinstance(value, UUID) else value


def _moment(value: Any) -> Any:
    """A moment without a zone is UTC."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = dt.datetime.fromisoformat(value)
    if isinstance(value, dt.datetime) and value.tzinfo is None:
        return value.replace(tzinfo=dt.UTC)
    return value
