"""`trueup action`: what was done about items."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from trueup.doors.cli.output import JsonOption, print_json, print_table, say

app = typer.Typer(help="What was done about items, by whom and why.", no_args_is_help=True)

_COLUMNS = ("acted_at", "deployment", "business_key", "event_day", "action", "is_treatment", "reason", "actor", "key")
_LIST = """
    SELECT * FROM actions
    WHERE (%(deployment)s::text IS NULL OR deployment = %(deployment)s)
      AND (%(key)s::text IS NULL OR business_key = %(key)s)
      AND (%(day)s::date IS NULL OR event_day = %(day)s)
      AND (%(actor)s::text IS NULL OR actor = %(actor)s)
    ORDER BY action_id DESC LIMIT %(limit)s
"""
DayOption = Annotated[
    datetime | None, typer.Option("--event-day", formats=["%Y-%m-%d"], help="The item's day (YYYY-MM-DD).")
]


@app.command(
    epilog="Example:  trueup action add fails --business-key 037833100 --event-day 2026-11-20 "
    "--action 'borrowed the securities' --reason 'first on the list'"
)
def add(
    deployment: Annotated[str, typer.Argument(help="On whose prediction was acted.")],
    action: Annotated[str, typer.Option(help="What was done.")],
    business_key: Annotated[str | None, typer.Option(help="The item, with --event-day.")] = None,
    event_day: DayOption = None,
    prediction: Annotated[str | None, typer.Option(help="A prediction's id, which names the item instead.")] = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    actor: Annotated[str | None, typer.Option(help="Who did it; you unless given.")] = None,
    acted_at: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z"], help="When; now unless given.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Its identity: the same key again is the same action. Drawn unless given.")
    ] = None,
    no_treatment: Annotated[
        bool, typer.Option("--no-treatment", help="It cannot have changed the outcome, as looking at an item.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Record what was done about an item. The truth then shows the item as treated."""
    from uuid import UUID, uuid4

    import trueup
    from trueup.doors.cli.settings import actor as user
    from trueup.doors.cli.settings import read_settings
    from trueup.errors import InvalidInput

    try:
        done = trueup.Action(
            key=key or str(uuid4()),
            action=action,
            actor=actor or user(),
            business_key=business_key,
            event_day=None if event_day is None else event_day.date(),
            prediction_id=None if prediction is None else UUID(prediction),
            reason=reason,
            acted_at=acted_at,
            is_treatment=not no_treatment,
        )
    except ValueError as error:
        why = "a prediction id is a UUID" if "UUID" in str(error) else str(error)
        raise InvalidInput(why, next_step="name the item by --business-key and --event-day, or --prediction") from None
    with trueup.connect(read_settings()) as up:
        receipt = up.act(deployment, [done], by=user())
    if as_json:
        print_json({"key": done.key, "added": receipt.added, "repeated": receipt.repeated})
    else:
        say(f"recorded under the key {done.key}" if receipt.added else "known already")


@app.command("list", epilog="Example:  trueup action list --deployment fails --json")
def list_actions(
    deployment: Annotated[str | None, typer.Option(help="Only of this deployment.")] = None,
    business_key: Annotated[str | None, typer.Option(help="Only about this item.")] = None,
    event_day: DayOption = None,
    actor: Annotated[str | None, typer.Option(help="Only by them.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many rows.", min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List what was done, newest first."""
    import trueup
    from trueup.doors.cli.settings import read_settings

    day = None if event_day is None else event_day.date()
    asked = {"deployment": deployment, "key": business_key, "day": day, "actor": actor, "limit": limit}
    with trueup.connect(read_settings()) as up:
        found = up.services.queries.rows(_LIST, asked)
    if as_json:
        print_json(found)
    else:
        print_table(found, columns=_COLUMNS)
