"""Bringing the database to this version of trueup, and saying where it stands.

Tables change by Alembic migrations. Views and functions are derived from the tables:
after the migrations they are all dropped and made again from ``ddl/``, in the same
transaction, so that there is one place to read them.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

import psycopg

from trueup.errors import LedgerUnavailable
from trueup.ledger.migrations import HEAD

LOCK = 7_238_145  # any number, the same in every trueup: guards migrations
MIN_SERVER = 150_000
_CLOSED_YEARS = (1990, 2070)  # of due days that the database finds itself
# In this order, then the contracts' own views, then the grants.
DERIVED = (
    "functions.sql",
    "views.sql",
    "outcomes.sql",
    "monitoring.sql",
    "alerts.sql",
    "messages.sql",
    "reports.sql",
    "clock.sql",
)


def sql_file(name: str) -> str:
    """One of the `.sql` files of the ledger."""
    return files("trueup.ledger").joinpath("ddl", name).read_text(encoding="utf-8")


def stamp() -> str:
    """What a database of this version carries: the last migration and a digest of the derived objects."""
    derived = "".join(sql_file(n) for n in (*DERIVED, "grants.sql"))
    return f"{HEAD} {hashlib.sha256(derived.encode()).hexdigest()[:16]}"


def status(owner_url: str) -> dict[str, Any]:
    """Server version, what the database carries, and what this version of trueup needs."""
    try:
        with psycopg.connect(owner_url, connect_timeout=10) as connection:
            return {
                "server": connection.info.server_version,
                "database": _carried(connection),
                "needed": stamp(),
            }
    except psycopg.OperationalError:
        raise LedgerUnavailable(
            "the database does not answer", next_step="check TRUEUP_DATABASE_URL and that it runs"
        ) from None


def migrate(owner_url: str) -> bool:
    """Upgrades to HEAD; returns whether anything changed. Safe for any number of starters at once.

    Raises LedgerUnavailable when the database does not answer or is older than 15.
    """
    now = status(owner_url)
    if now["server"] < MIN_SERVER:
        raise LedgerUnavailable("PostgreSQL 15 or later is needed", next_step="point TRUEUP_DATABASE_URL at one")
    if now["database"] == now["needed"]:
        return False
    upgrade(owner_url)
    return True


def upgrade(owner_url: str, revision: str = "head") -> None:
    """Runs migrations up to ``revision`` and re-makes what is derived, under an advisory lock."""
    _alembic(owner_url, "upgrade", revision)


def downgrade(owner_url: str, revision: str) -> None:
    """Runs migrations down to ``revision``. Loses what the later tables held.

    What is derived is not made: views and functions are of the newest tables, and an older trueup makes its own.
    """
    _alembic(owner_url, "downgrade", revision)


def _alembic(owner_url: str, verb: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", "trueup.ledger:migrations")
    config.set_main_option("path_separator", "os")
    engine = create_engine(owner_url.replace("postgres://", "postgresql://", 1), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        raw = connection.connection.driver_connection
        assert raw is not None
        _drop_derived(raw)
        config.attributes["connection"] = connection
        getattr(command, verb)(config, revision)
        if revision in ("head", HEAD):
            _make_derived(raw)


def _drop_derived(connection: Any) -> None:
    connection.execute("DROP SCHEMA IF EXISTS trueup CASCADE")


def _make_derived(connection: Any) -> None:
    from trueup.contracts.reading import contract_from_json
    from trueup.ledger.views import make_contract_view

    for name in DERIVED:
        connection.execute(sql_file(name))
    _close_days(connection)
    for contract_id, body in connection.execute("SELECT contract_id, body FROM ledger.contracts").fetchall():
        make_contract_view(connection, contract_from_json(body), contract_id)
    connection.execute(sql_file("grants.sql"))
    connection.execute(f"COMMENT ON SCHEMA trueup IS 'Views over the ledger, for reading. Made by trueup {stamp()}'")


def _close_days(connection: Any) -> None:
    """Writes down when calendars are closed, as the library says it now."""
    from trueup.contracts.horizon import CALENDARS, holidays_of

    connection.execute("TRUNCATE ledger.closed_days")
    with connection.cursor().copy("COPY ledger.closed_days (calendar, day) FROM STDIN") as copy:
        for calendar in CALENDARS:
            for day in holidays_of(calendar, *_CLOSED_YEARS).tolist():
                copy.write_row((calendar, day))


def _carried(connection: psycopg.Connection[Any]) -> str:
    row = connection.execute(
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'trueup'"
    ).fetchone()
    return str(row[0]).rpartition("Made by trueup ")[2] if row and row[0] else ""
