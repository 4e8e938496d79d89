"""The command line: `trueup`. Every heavy import waits inside its command, so that help is instant."""

from __future__ import annotations

import sys
import warnings
from typing import NoReturn

import typer

from trueup.doors.cli import (
    actions,
    contracts,
    database,
    deploying,
    keys,
    letters,
    listing,
    monitoring,
    outcomes,
    reconciling,
    running,
    scoring,
    spooling,
    streaming,
)
from trueup.doors.cli.errors import FAILURE, debugging, show, show_traceback, show_unexpected
from trueup.errors import TrueupError

_HELP = """Serve models, book every prediction exactly once, true it up with the outcome.

Without configuration trueup runs its own PostgreSQL in your data directory; TRUEUP_DATABASE_URL
names another one.

Start with:  trueup demo
"""
_EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad input, 4 not found, 5 conflict, "
    "6 forbidden, 7 unavailable, 8 an optional extra is missing."
)


def application() -> typer.Typer:
    """The whole tree of commands."""
    app = typer.Typer(
        name="trueup",
        help=_HELP,
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for group in (running, deploying, scoring, streaming, reconciling, listing):
        group.register(app)
    app.add_typer(contracts.app, name="contract")
    app.add_typer(database.app, name="db")
    app.add_typer(keys.app, name="keys")
    app.add_typer(monitoring.app, name="monitor")
    app.add_typer(spooling.app, name="spool")
    app.add_typer(letters.app, name="dlq")
    app.add_typer(outcomes.app, name="outcomes")
    app.add_typer(actions.app, name="action")
    return app


def main() -> NoReturn:
    """Runs one command and exits with its code; an error is one line and a next step."""
    if not debugging() and not sys.warnoptions:
        warnings.simplefilter("ignore")  # a library's warnings are for its callers' authors
    sys.exit(_run())


def _run() -> int:
    try:
        application()(prog_name="trueup")
    except TrueupError as error:
        if debugging():
            show_traceback(error)
        return show(error)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing may be written any more.
        sys.stderr.close()
        return FAILURE
    except Exception as error:
        if debugging():
            show_traceback(error)
        return show_unexpected(error)
    return 0
