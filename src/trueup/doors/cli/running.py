"""`trueup up`, `demo`, `doctor`, `openapi` and `version`: running trueup and seeing how it is."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.doors.cli.errors import FAILURE
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.settings import Settings

DEMOS = "trueup.demos"
FIRST_DEMO = "settlement_fails"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Examples:  trueup up --port 8321;  trueup up --workers 4")(up)
    app.command(
        epilog="Examples:  trueup demo;  trueup demo --data ./sec_fails --train-until 2021-01-31 --html report.html"
    )(demo)
    app.command(epilog="Example:  trueup doctor --json")(doctor)
    app.command(epilog="Example:  trueup version")(version)
    app.command(epilog="Example:  trueup openapi > openapi.json")(openapi)


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on; TRUEUP_HOST unless given.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; TRUEUP_PORT unless given, 0 for any.", min=0, max=65_535)
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(help="After SIGTERM: answer so long while saying 'not ready'.", min=0, max=300)
    ] = 2.0,
    workers: Annotated[
        int | None, typer.Option(help="Processes that share the port; TRUEUP_WORKERS unless given.", min=1, max=64)
    ] = None,
) -> None:
    """Run the HTTP API until interrupted. Makes an admin key where there is none, and shows it once.

    Exits with 1 when something that was accepted could not be answered, or a worker failed for good.
    """
    from trueup.doors.cli.settings import read_settings

    settings = read_settings()
    if workers is not None:
        settings.workers = workers
    settings.host, settings.port = host or settings.host, settings.port if port is None else port
    clean = (_one if settings.workers == 1 else _several)(settings, drain_seconds)
    say("trueup has stopped")
    if not clean:
        raise typer.Exit(FAILURE)


def _one(settings: Settings, drain_s: float) -> bool:
    from trueup.bootstrap import open_services
    from trueup.doors.api.server import serve

    with open_services(settings) as services:
        _first_key(services.urls.owner)
        return serve(services, host=settings.host, port=settings.port, drain_s=drain_s, started=_listens)


def _several(settings: Settings, drain_s: float) -> bool:
    """Opens the database once, for all workers, and holds it until they have ended."""
    from trueup.bootstrap import open_ledger
    from trueup.doors.workers.supervisor import Supervisor

    urls, embedded = open_ledger(settings)
    try:
        _first_key(urls.owner)
        _check_connections(urls.owner, settings)
        return Supervisor(settings, drain_s, _listens).run()
    finally:
        if embedded is not None:
            embedded.stop()


def _listens(addresses: list[str]) -> None:
    for address in addresses:
        more = f" (documentation: {address}/docs)" if address.startswith("http") else ""
        say(f"trueup listens on {address}{more}")


def _check_connections(url: str, settings: Settings) -> None:
    """Says so where the workers together may want more connections than the database has."""
    from trueup.bootstrap import connections_of
    from trueup.postgres import Pool

    pool = Pool(url, size=1, application="trueup-supervisor")
    try:
        with pool.connection() as connection:
            found = connection.execute("SHOW max_connections").fetchone()
    finally:
        pool.close()
    there, wanted = int(found[0]) if found else 0, settings.workers * connections_of(settings)
    if wanted > there:
        say(
            f"{settings.workers} workers may need {wanted} connections, the database allows {there}: "
            "lower TRUEUP_LIMITS__POOL_CONNECTIONS or raise max_connections"
        )


def _first_key(url: str) -> None:
    from trueup.doors.auth import open_keys
    from trueup.doors.cli.settings import actor

    with open_keys(url) as keys:
        made = keys.create_first(by=actor())
    if made is not None:
        say("an admin key was made; keep it safe, it is not shown again:")
        typer.echo(made[1])


def demo(
    name: Annotated[str, typer.Argument(help="Which demonstration.")] = FIRST_DEMO,
    data: Annotated[Path | None, typer.Option(help="A folder of the regulator's files; else generated.")] = None,
    train_until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Train on what was published until this day.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report's figures here, as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report here, with pictures.")] = None,
) -> None:  # fmt: skip
    """Run the whole line on example data: train, deploy, score, book, true up, report."""
    import trueup
    from trueup.doors.cli.settings import read_settings

    main = _demo(name)
    with trueup.connect(read_settings()) as opened:
        day = None if train_until is None else train_until.date()
        main(opened, data=data, train_until=day, out=out, html=html)


def _demo(name: str) -> Any:
    """The demonstration's main function. Raises NotFound, MissingExtra."""
    from importlib.metadata import entry_points

    from trueup.errors import MissingExtra, NotFound

    found = {point.name: point for point in entry_points(group=DEMOS)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none is installed"
        raise NotFound("no such demonstration", next_step=f"there are: {known}")
    try:
        return found[name].load()
    except ImportError:
        raise MissingExtra("demo", "the demonstration") from None


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(installed("trueup"))


def openapi() -> None:
    """Print the HTTP API's OpenAPI document, for generators of clients. Needs no database."""
    from trueup.doors.api.openapi import document

    print_json(document())


def doctor(as_json: JsonOption = False) -> None:
    """Check settings, data directory, database and optional extras. Exits with 1 when something needed fails."""
    checks = list(_checks())
    if as_json:
        print_json(checks)
    else:
        print_table(checks, columns=("check", "state", "detail"))
    if any(check["state"] == "failed" for check in checks):
        raise typer.Exit(FAILURE)


def _checks() -> Any:
    """One document a check: good, missing (optional) or failed."""
    from trueup.doors.cli.settings import read_settings
    from trueup.errors import TrueupError

    python = ".".join(map(str, sys.version_info[:3]))
    yield _check("python", sys.version_info >= (3, 11), python)
    try:
        settings = read_settings()
    except TrueupError as error:
        yield _check("settings", False, f"{error.message}; {error.next_step}")
        return
    yield _check("settings", True, "external database" if settings.database_url else "embedded database")
    yield _folder(settings.data_dir)
    yield _database(settings)
    yield from _extras()


def _check(name: str, good: bool, detail: str) -> dict[str, str]:
    return {"check": name, "state": "good" if good else "failed", "detail": detail}


def _folder(data_dir: Path) -> dict[str, str]:
    import os
    import shutil

    nearest = next((p for p in (data_dir, *data_dir.parents) if p.exists()), data_dir)
    if not os.access(nearest, os.W_OK | os.X_OK):
        return _check("data directory", False, f"{data_dir} cannot be written; set TRUEUP_DATA_DIR")
    free = shutil.disk_usage(nearest).free / 1e9
    return _check("data directory", free > 1, f"{data_dir}, {free:.0f} GB free")


def _database(settings: Any) -> dict[str, str]:
    from trueup.bootstrap import open_database
    from trueup.errors import TrueupError
    from trueup.ledger import migrating

    try:
        urls, embedded = open_database(settings)
        try:
            found = migrating.status(urls.owner)
        finally:
            if embedded is not None:
                embedded.stop()
    except TrueupError as error:
        return _check("database", False, f"{error.message}; {error.next_step}")
    version_text = f"PostgreSQL {found['server'] // 10_000}"
    if found["database"] == found["needed"]:
        return _check("database", True, f"{version_text}, up to date")
    return _check("database", found["server"] >= migrating.MIN_SERVER, f"{version_text}, migrated by the next command")


def _extras() -> Any:
    from importlib.util import find_spec

    modules = {"onnx": "onnxruntime", "xgboost": "xgboost", "lightgbm": "lightgbm", "sklearn": "skops",
               "mlflow": "mlflow", "grpc": "grpc_health", "kafka": "confluent_kafka", "iso20022": "lxml",
               "oidc": "joserfc", "client": "httpx2",
               "arrow": "pyarrow", "pandas": "pandas", "polars": "polars"}  # fmt: skip
    for extra, module in modules.items():
        there = find_spec(module) is not None
        detail = "installed" if there else f"pip install 'trueup[{extra}]'"
        yield {"check": f"extra {extra}", "state": "good" if there else "missing", "detail": detail}
