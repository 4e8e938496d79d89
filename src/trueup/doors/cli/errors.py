"""The one table from trueup's errors to exit codes, and how an error is shown."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from trueup import errors

OK, FAILURE, USAGE, BAD_INPUT, NOT_FOUND, CONFLICT, FORBIDDEN, UNAVAILABLE, MISSING_EXTRA = range(9)

EXIT_CODES: dict[type[errors.TrueupError], int] = {
    errors.TrueupError: FAILURE,
    errors.InvalidInput: BAD_INPUT,
    errors.NotFound: NOT_FOUND,
    errors.Conflict: CONFLICT,
    errors.Forbidden: FORBIDDEN,
    errors.Unauthenticated: FORBIDDEN,
    errors.Unavailable: UNAVAILABLE,
    errors.MissingExtra: MISSING_EXTRA,
}
# For errors that name no step of their own.
_NEXT_STEP = {
    FAILURE: "run `trueup doctor`",
    BAD_INPUT: "mend the input; the command's --help shows an example",
    NOT_FOUND: "check the name",
    CONFLICT: "choose another name or version",
    FORBIDDEN: "ask for a key of a higher role",
    UNAVAILABLE: "try again; `trueup doctor` tells more",
    MISSING_EXTRA: "install the extra",
}
SHOWN_FIELD_ERRORS = 20


def exit_code(error: errors.TrueupError) -> int:
    """The exit code of an error; a more special class wins."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def show(error: errors.TrueupError) -> int:
    """One line and the next step on standard error; returns the exit code."""
    typer.echo(f"error: {error.message}", err=True)
    if isinstance(error, errors.InstanceErrors):
        for e in error.errors[:SHOWN_FIELD_ERRORS]:
            typer.echo(f"  row {e.row}, field {e.field or '?'}: {e.code}, expected {e.expected}", err=True)
        if error.total > SHOWN_FIELD_ERRORS:
            typer.echo(f"  and {error.total - SHOWN_FIELD_ERRORS} more", err=True)
    code = exit_code(error)
    typer.echo(f"next:  {error.next_step or _NEXT_STEP[code]}", err=True)
    return code


def show_unexpected(error: Exception) -> int:
    """A fault of our own: its kind, never its text (which may hold a caller's values)."""
    typer.echo(f"error: trueup failed unexpectedly ({type(error).__name__})", err=True)
    typer.echo("next:  run it again with TRUEUP_DEBUG=1 to see where, and report that", err=True)
    return FAILURE


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("TRUEUP_DEBUG", "") not in ("", "0")


def show_traceback(error: BaseException) -> None:
    """The whole story, for whoever asked for it."""
    traceback.print_exception(error, file=sys.stderr)
