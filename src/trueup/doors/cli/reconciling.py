"""`trueup reconcile`: whether everything that streams received has an end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from trueup.doors.cli.errors import FAILURE
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

_COLUMNS = ("deployment", "cluster", "topic", "partition", "day", "received", "answered", "repeated", "refused",
            "difference", "replayed", "skipped", "reread")  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Examples:  trueup reconcile;  trueup reconcile --deployment fails --from 2026-11-01 --json")(
        reconcile
    )


def reconcile(
    deployment: Annotated[str | None, typer.Option(help="Only of this deployment.")] = None,
    from_: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="First day of receipt (UTC); yesterday unless given."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day of receipt (UTC); today unless given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count what streams received against what the ledger holds: answers, repeats and refusals.

    A line a partition and day. Exits with 1 when one does not balance.
    """
    from trueup.bootstrap import open_services, utc_now
    from trueup.doors.cli.settings import read_settings
    from trueup.doors.kafka.reconciling import reconciliation

    today = utc_now().date()
    last = today if until is None else until.date()
    first = min(today - timedelta(days=1), last) if from_ is None else from_.date()
    if first > last:
        raise typer.BadParameter("--from is after --until")
    with open_services(read_settings()) as services:
        if deployment is not None:
            services.registry.deployment(deployment)
        lines = list(reconciliation(services.queries, deployment, first, last))
    if as_json:
        print_json(lines)
    else:
        print_table(lines, columns=_COLUMNS)
    wrong = sum(line["difference"] != 0 for line in lines)
    if wrong:
        say(f"{wrong} of {len(lines)} lines do not balance; docs/runbooks/reconciliation.md says what to do")
        raise typer.Exit(FAILURE)
