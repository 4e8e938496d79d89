"""`trueup spool`: what deployments of mode `spooled` answered and the ledger has not got yet."""

from __future__ import annotations

import typer

from trueup.doors.cli.errors import FAILURE
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

app = typer.Typer(help="Answers on their way to the ledger.", no_args_is_help=True)

_COLUMNS = ("spool", "held", "rows", "bytes", "oldest_age_s", "dead_letters")


@app.command(epilog="Example:  trueup spool status --json")
def status(as_json: JsonOption = False) -> None:
    """Show the spools of the data directory; needs no database. Exits with 1 when there are dead letters."""
    from trueup.doors.cli.settings import read_settings
    from trueup.ledger.spool_survey import survey

    found = survey(read_settings().data_dir / "spool")
    if as_json:
        print_json(found)
    else:
        print_table(found, columns=_COLUMNS)
    for reason, spool in ((reason, one["spool"]) for one in found for reason in one["reasons"]):
        say(f"dead letters in {spool}: {reason}")
    if any(one["dead_letters"] for one in found):
        raise typer.Exit(FAILURE)


@app.command(epilog="Example:  trueup spool drain")
def drain(as_json: JsonOption = False) -> None:
    """Book now what processes that ended have left. A running server drains its own spool by itself."""
    from trueup.bootstrap import open_services
    from trueup.doors.cli.settings import read_settings
    from trueup.ledger.spool_survey import survey

    settings = read_settings()
    with open_services(settings) as services:
        spool = services.open_spool(draining=False)
        assert services.drainer is not None
        services.drainer.drain_patiently()
        counts = spool.stats()
    left = [one for one in survey(settings.data_dir / "spool") if one["rows"]]
    document = {
        "drained_rows": counts["drained_rows"],
        "conflicts": counts["conflicts"],
        "set_aside": counts["set_aside"],
        "left_rows": sum(one["rows"] for one in left),
    }
    if as_json:
        print_json(document)
        return
    say(f"{document['drained_rows']} rows booked, {document['set_aside']} records set aside")
    if left:
        say(f"{document['left_rows']} rows are in spools of running servers")
