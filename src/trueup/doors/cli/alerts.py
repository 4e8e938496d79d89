"""`trueup alert`: what is wrong now, and what people do about it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.doors.cli import alert_rules
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.bootstrap import Services

app = typer.Typer(help="Alerts, silences and the rules behind them.", no_args_is_help=True)
alert_rules.register(app)

_COLUMNS = ("alert_id", "state", "severity", "alertname", "deployment", "value", "summary", "active_at", "fired_at",
            "acknowledged_by", "assigned_to")  # fmt: skip
_LIST = """
    SELECT * FROM alerts
    WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(state)s::text IS NOT NULL OR state <> 'inactive')
      AND (%(rule)s::text IS NULL OR rule = %(rule)s)
      AND (%(deployment)s::text IS NULL OR deployment = %(deployment)s)
    ORDER BY array_position(ARRAY['firing', 'pending', 'inactive'], state),
             array_position(ARRAY['critical', 'warning', 'info'], severity), active_at, alert_id
    LIMIT %(limit)s
"""
_ONE = "SELECT * FROM alerts WHERE starts_with(alert_id, %(alert)s) LIMIT 2"
_MOVED = """
    SELECT transition_id, at, before, after, value, reason FROM alert_transitions WHERE alert_id = %(alert)s
    ORDER BY transition_id DESC LIMIT %(limit)s
"""
_SILENCES = """
    SELECT * FROM silences WHERE %(every)s OR ends_at > %(now)s ORDER BY ends_at DESC, silence_id DESC LIMIT %(limit)s
"""


class State(StrEnum):
    """The states of :class:`trueup.domain.alert.State`, repeated here so that help loads nothing."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"


AlertArgument = Annotated[str, typer.Argument(metavar="ID", help="The alert's id, or as much of it as is unique.")]
ByOption = Annotated[str | None, typer.Option("--by", help="Who does it; the operating system's user unless given.")]
LimitOption = Annotated[int, typer.Option(help="At most so many.", min=1, max=10_000)]


@app.command("list", epilog="Examples:  trueup alert list;  trueup alert list --state firing --json")
def list_alerts(
    state: Annotated[State | None, typer.Option(help="Only in this state; pending and firing unless given.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only of this rule.")] = None,
    deployment: Annotated[str | None, typer.Option(help="Only with this label.")] = None,
    limit: LimitOption = 200,
    as_json: JsonOption = False,
) -> None:
    """List alerts, what fires first."""
    wanted = {"state": None if state is None else state.value, "rule": rule, "deployment": deployment, "limit": limit}
    with _services() as services:
        found = services.queries.rows(_LIST, wanted)
    if as_json:
        print_json(found)
    else:
        print_table(found, columns=_COLUMNS)


@app.command(epilog="Example:  trueup alert show 3f9a --json")
def show(alert_id: AlertArgument, limit: LimitOption = 50, as_json: JsonOption = False) -> None:
    """Show one alert and its latest transitions."""
    with _services() as services:
        found = _named(services, alert_id)
        moved = services.queries.rows(_MOVED, {"alert": found["alert_id"], "limit": limit})
    if as_json:
        print_json({**found, "transitions": moved})
        return
    rows = [{"field": name, "value": value} for name, value in found.items() if value is not None]
    print_table(rows, columns=("field", "value"))
    print_table(moved, columns=("at", "before", "after", "value", "reason"), title="transitions, latest first")


@app.command(epilog='Example:  trueup alert ack 3f9a --comment "looking at the feed"')
def ack(
    alert_id: AlertArgument,
    comment: Annotated[str, typer.Option(help="What is being done.")] = "",
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take an alert in hand: it is neither repeated nor escalated. Its end is still told."""
    from trueup.bootstrap import alert_handling

    with _services() as services:
        full = str(_named(services, alert_id)["alert_id"])
        done = alert_handling(services).acknowledge(full, by=_actor(by), comment=comment)
    if as_json:
        print_json({"alert_id": full, "acknowledged_by": done.acknowledged_by, "acknowledged_at": done.acknowledged_at})
    else:
        say(f"acknowledged by {done.acknowledged_by}")


@app.command(epilog="Example:  trueup alert assign 3f9a ann")
def assign(
    alert_id: AlertArgument,
    to: Annotated[str, typer.Argument(metavar="WHO", help="Whose it is from now on.")],
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whose an alert is."""
    from trueup.bootstrap import alert_handling

    with _services() as services:
        full = str(_named(services, alert_id)["alert_id"])
        done = alert_handling(services).assign(full, to, by=_actor(by))
    if as_json:
        print_json({"alert_id": full, "assigned_to": done.assigned_to})
    else:
        say(f"assigned to {done.assigned_to}")


@app.command(
    epilog='Example:  trueup alert silence alertname=ScoreDrift \'deployment=~"fails.*"\' --for 2h --comment "known"'
)
def silence(
    matchers: Annotated[list[str], typer.Argument(metavar="MATCHER...", help='label="value", !=, =~ or !~.')],
    lasting: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 7d.")],
    comment: Annotated[str, typer.Option(help="Why.")],
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell nobody of alerts that all matchers match, for a while. They are evaluated all the same."""
    from trueup.alerts.durations import parse_duration
    from trueup.alerts.matching import parse_matchers
    from trueup.bootstrap import alert_handling

    found = parse_matchers(matchers)
    with _services() as services:
        handling = alert_handling(services)
        done = handling.silence(found, lasting=parse_duration(lasting, "--for"), by=_actor(by), comment=comment)
    if as_json:
        print_json({"silence_id": done.silence_id, "starts_at": done.starts_at, "ends_at": done.ends_at})
    else:
        say(f"silence {done.silence_id} ends at {done.ends_at:%Y-%m-%d %H:%M:%S} UTC")


@app.command(epilog="Example:  trueup alert unsilence 7")
def unsilence(
    silence_id: Annotated[int, typer.Argument(metavar="ID", help="The id, as `trueup alert silences` shows it.")],
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a silence now."""
    from trueup.bootstrap import alert_handling

    with _services() as services:
        done = alert_handling(services).unsilence(silence_id, by=_actor(by))
    if as_json:
        print_json({"silence_id": silence_id, "ends_at": done.ends_at})
    else:
        say(f"silence {silence_id} ended at {done.ends_at:%Y-%m-%d %H:%M:%S} UTC")


@app.command(epilog="Example:  trueup alert silences --all --json")
def silences(
    every: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    limit: LimitOption = 200,
    as_json: JsonOption = False,
) -> None:
    """List silences."""
    from trueup.bootstrap import utc_now

    with _services() as services:
        found = services.queries.rows(_SILENCES, {"every": every, "now": utc_now(), "limit": limit})
    if as_json:
        print_json(found)
        return
    for row in found:
        row["matchers"] = ", ".join(f"{m['label']}{m['comparison']}{m['value']}" for m in row["matchers"])
    columns = ("silence_id", "matchers", "starts_at", "ends_at", "created_by", "comment")
    print_table(found, columns=columns)


def _named(services: Services, alert_id: str) -> dict[str, Any]:
    """The alert whose id begins so. Raises NotFound, InvalidQuery where several do."""
    from trueup.errors import InvalidQuery, no_alert

    found = services.queries.rows(_ONE, {"alert": alert_id})
    if not found or not alert_id:
        raise no_alert()
    if len(found) > 1:
        raise InvalidQuery("several alerts' ids begin so", next_step="give more of the id")
    return found[0]


def _actor(by: str | None) -> str:
    from trueup.doors.cli.settings import actor
    from trueup.errors import InvalidInput

    if by is None:
        return actor()
    if not 0 < len(by) <= 200 or not by.isprintable():
        raise InvalidInput("--by is a name of at most 200 characters")
    return by if ":" in by else f"user:{by}"


def _services() -> Services:
    from trueup.bootstrap import open_services
    from trueup.doors.cli.settings import read_settings

    return open_services(read_settings())
