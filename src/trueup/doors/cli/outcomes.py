"""`trueup outcomes`: recording what really happened, looking it up, and pulling it from source databases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from trueup.doors.cli.errors import BAD_INPUT
from trueup.doors.cli.output import JsonOption, print_json, print_table, say
from trueup.doors.cli.reading import FormatOption, format_of

if TYPE_CHECKING:
    from trueup.domain.batch import OutcomeState

_COLUMNS = ("contract_name", "label", "event_day", "revision", "state", "value", "source", "observed_at", "recorded_at",
            "is_latest")  # fmt: skip
_SHOW = """
    SELECT h.contract_name, h.label, h.business_key, h.event_day, h.revision, h.state, h.value_number, h.value_text,
           h.source, h.observed_at, h.recorded_at,
           h.revision = first_value(h.revision) OVER (
               PARTITION BY h.contract_name, h.label, h.event_day ORDER BY h.observed_at DESC, h.revision DESC
           ) AS is_latest
    FROM outcome_history h
    WHERE h.business_key = %(key)s AND (%(contract)s::text IS NULL OR h.contract_name = %(contract)s)
      AND (%(label)s::text IS NULL OR h.label = %(label)s)
    ORDER BY h.contract_name, h.label, h.event_day DESC, h.revision LIMIT %(limit)s
"""


class _Commands(TyperGroup):
    """`trueup outcomes FILE` is short for `trueup outcomes record FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command's name where it was left out."""
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["record", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Commands,
    help="Record what really happened (`trueup outcomes FILE` is short for `record FILE`), and look it up.",
    epilog="Example:  trueup outcomes outcomes.csv --contract settlement_fails",
    no_args_is_help=True,
)
ContractOption = Annotated[str, typer.Option("--contract", "-c", help="The contract whose labels these are.")]


@app.command(
    epilog="Examples:  trueup outcomes outcomes.csv --contract settlement_fails;  "
    "trueup outcomes cancelled.csv -c settlement_fails --censored --dry-run"
)
def record(
    file: Annotated[str, typer.Argument(help="CSV, Parquet or JSON lines; `-` for standard input.")],
    contract: ContractOption,
    label: Annotated[str | None, typer.Option(help="Whose values these are; the first label unless given.")] = None,
    retract: Annotated[bool, typer.Option("--retract", help="The source takes back what it said of these.")] = False,
    censored: Annotated[bool, typer.Option("--censored", help="These left observation: no outcome will come.")] = False,
    source: Annotated[str | None, typer.Option(help="Where they come from; the file's name unless given.")] = None,
    file_format: FormatOption = None,
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", help="Record what fits; the other rows and their faults go to this file."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row and record none.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Record real outcomes: the business-key columns, event_day, value and, optionally, observed_at and state.

    Of a contract with several labels a file may have a column a label instead. The whole file is checked first; if
    any row is wrong, none is recorded, or with --rejects those that fit. Recording again changes nothing.

    Exits with 3 when any row was wrong.
    """
    import trueup
    from trueup.domain.batch import NOTHING_RECORDED
    from trueup.doors.cli import files
    from trueup.doors.cli.outcome_files import OutcomeFile, rejects_of
    from trueup.doors.cli.settings import read_settings

    state = _state(retract=retract, censored=censored)
    total, rejected = NOTHING_RECORDED, 0
    with files.opened(file, format_of(file_format)) as opened, trueup.connect(read_settings()) as up:
        given = OutcomeFile(opened, up.contract(contract), up.services.settings.limits, label, state)
        if rejects is None:
            rows = given.check()
        else:
            with rejects_of(file, rejects) as refused:
                rows, rejected = given.reject(refused)
        if not dry_run:
            total = given.record(up, source or opened.name)
    told: dict[str, Any] = {"rows": rows} if dry_run else {}
    told |= {"first": total.first, "revised": total.revised, "unchanged": total.unchanged}
    told |= {} if rejects is None else {"rejected": rejected}
    if as_json:
        print_json({**told, "dry_run": dry_run} if dry_run else told)
    elif dry_run:
        say(f"{rows - rejected} rows fit; none was recorded")
    else:
        say(f"{total.first} first outcomes, {total.revised} revised, {total.unchanged} known already")
    if rejects is not None and rejected:
        say(f"{rejected} of {rows} rows do not fit: {rejects.name} has each with its faults")
        say("next: mend them and record the file again, which changes nothing of what is recorded")
        raise typer.Exit(BAD_INPUT)


@app.command(epilog="Example:  trueup outcomes show 037833100 --contract settlement_fails --json")
def show(
    business_key: Annotated[str, typer.Argument(help="The item, as `trueup predictions` shows it.")],
    contract: Annotated[str | None, typer.Option("--contract", "-c", help="Only of this contract.")] = None,
    label: Annotated[str | None, typer.Option(help="Only of this label.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many rows.", min=1, max=10_000)] = 200,
    as_json: JsonOption = False,
) -> None:
    """Show everything that was ever said about one item, in the order of recording."""
    import trueup
    from trueup.doors.cli.settings import read_settings
    from trueup.errors import NotFound

    with trueup.connect(read_settings()) as up:
        asked = {"key": business_key.replace("\0", ""), "contract": contract, "label": label, "limit": limit}
        found = up.services.queries.rows(_SHOW, asked)
    if not found:
        raise NotFound("nothing was said about such an item", next_step="`trueup predictions` shows items")
    rows = [_shown(row) for row in found]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, columns=_COLUMNS, title=f"outcomes of {business_key}")


@app.command(epilog="Example:  TRUEUP_PULLS='{\"csd\": {...}}' trueup outcomes pull csd --json")
def pull(
    name: Annotated[str, typer.Argument(help="Which of the pulls that TRUEUP_PULLS declares.")],
    as_json: JsonOption = False,
) -> None:
    """Pull what is new from a source database now. Running it again, or twice at once, records nothing twice.

    Exits with 3 when rows were no outcomes; they are in the view `outcome_refusals`, the others are recorded.
    """
    import trueup
    from trueup.doors.cli.settings import read_settings

    with trueup.connect(read_settings()) as up:
        pulled = up.services.pulls.run(name)
    if as_json:
        print_json({name: getattr(pulled, name) for name in ("rows", "first", "revised", "refused")})
    else:
        say(str(pulled))
    if pulled.refused:
        raise typer.Exit(BAD_INPUT)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    number, word = row.pop("value_number"), row.pop("value_text")
    return {**row, "value": number if word is None else word}


def _state(*, retract: bool, censored: bool) -> OutcomeState | None:
    from trueup.domain.batch import OutcomeState
    from trueup.errors import InvalidInput

    if retract and censored:
        raise InvalidInput("outcomes are retracted or censored, not both", next_step="give one of the two")
    return OutcomeState.RETRACTED if retract else OutcomeState.CENSORED if censored else None
