"""`trueup db`: migrations, status, and psql on the reader role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.doors.cli.errors import FAILURE
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.ledger.embedded import EmbeddedPostgres
    from trueup.ledger.urls import Urls

app = typer.Typer(help="The ledger's database.", no_args_is_help=True)


@app.command(epilog="Example:  trueup db migrate")
def migrate() -> None:
    """Bring the database to this version of trueup. Any number of starters may do it at once."""
    from trueup.ledger import migrating

    with _database() as (urls, _):
        changed = migrating.migrate(urls.owner)
    say("migrated" if changed else "nothing to do: the database is up to date")


@app.command(epilog="Example:  trueup db status --json")
def status(as_json: JsonOption = False) -> None:
    """Show server version and schema version. Exits with 1 when a migration is due."""
    from trueup.ledger import migrating

    with _database() as (urls, embedded):
        found = migrating.status(urls.owner)
    found = {
        "kind": "embedded" if embedded else "external",
        "server": f"{found['server'] // 10_000}.{found['server'] % 10_000}",
        "schema": found["database"] or "none",
        "needed": found["needed"],
        "up_to_date": found["database"] == found["needed"],
    }
    if as_json:
        print_json(found)
    else:
        print_table([found], columns=found)
    if not found["up_to_date"]:
        say("next: trueup db migrate")
        raise typer.Exit(FAILURE)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example:  trueup db psql -c 'SELECT * FROM maturity'",
)
def psql(
    context: typer.Context,
    command: Annotated[str | None, typer.Option("--command", "-c", help="Run this SQL and end.")] = None,
) -> None:
    """Open psql as the reader, who sees the documented views and changes nothing.

    Other arguments are handed to psql (`trueup db psql -- --csv`).
    """
    import os
    import subprocess

    from trueup.errors import NotFound

    with _database() as (urls, embedded):
        program = str(embedded.psql) if embedded else "psql"
        arguments = [*context.args, *(["-c", command] if command is not None else [])]
        # The address goes by the environment: a command line is readable by every user of the machine.
        environment = {**os.environ, **_connection(urls.reader), "PGAPPNAME": "trueup-psql"}
        try:
            done = subprocess.run([program, *arguments], env=environment, check=False)
        except FileNotFoundError:
            raise NotFound("psql is not installed", next_step="install PostgreSQL's client") from None
    raise typer.Exit(done.returncode)


def _connection(url: str) -> dict[str, str]:
    """libpq's environment variables for an address; what psql does not find it asks for."""
    from psycopg.conninfo import conninfo_to_dict

    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE",
             "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "options": "PGOPTIONS"}  # fmt: skip
    given: dict[str, Any] = dict(conninfo_to_dict(url))
    given["options"] = f"{given.get('options', '')} -c search_path=trueup -c default_transaction_read_only=on".strip()
    return {names[k]: str(v) for k, v in given.items() if k in names}


@contextmanager
def _database() -> Iterator[tuple[Urls, EmbeddedPostgres | None]]:
    """The database as it is, without migrating it."""
    from trueup.bootstrap import open_database
    from trueup.doors.cli.settings import read_settings

    urls, embedded = open_database(read_settings())
    try:
        yield urls, embedded
    finally:
        if embedded is not None:
            embedded.stop()
