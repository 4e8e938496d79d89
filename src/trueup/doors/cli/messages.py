"""`trueup message`: what is told to somebody outside, and what came of it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.doors.cli.errors import FAILURE
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.bootstrap import Services

app = typer.Typer(help="Messages to people and programs outside.", no_args_is_help=True)

_COLUMNS = ("message_id", "added_at", "receiver", "kind", "subject", "state", "attempts", "due_at", "last_error")
_LIST = """
    SELECT * FROM messages
    WHERE (%(receiver)s::text IS NULL OR receiver = %(receiver)s) AND (%(state)s::text IS NULL OR state = %(state)s)
    ORDER BY message_id DESC LIMIT %(limit)s
"""
_GIVEN_UP = """
    SELECT message_id FROM messages WHERE receiver = %(receiver)s AND state = 'given_up' ORDER BY message_id
    LIMIT %(limit)s
"""


class State(StrEnum):
    """What a message is in."""

    WAITING = "waiting"
    SENT = "sent"
    GIVEN_UP = "given_up"


ReceiverOption = Annotated[str | None, typer.Option(help="Only to this receiver.")]


@app.command(
    "list", epilog="Examples:  trueup message list --state given_up;  trueup message list --receiver desk --json"
)
def list_messages(
    receiver: ReceiverOption = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List messages, newest first, without their content."""
    with _services() as services:
        wanted = {"receiver": receiver, "state": None if state is None else state.value, "limit": limit}
        found = services.queries.rows(_LIST, wanted)
    if as_json:
        print_json(found)
    else:
        print_table(found, columns=_COLUMNS)


@app.command(epilog="Example:  trueup message show 17 --json")
def show(
    message_id: Annotated[int, typer.Argument(metavar="ID", help="The id, as `trueup message list` shows it.")],
    as_json: JsonOption = False,
) -> None:
    """Show a message with its content, and the id under which the receiver knows it."""
    from trueup.doors.cli.output import printable

    with _services() as services:
        stored = services.outbox.find(message_id)
        document = _document(services, stored)
    if as_json:
        print_json(document)
        return
    shown = {name: value for name, value in document.items() if name not in ("text", "html", "payload", "attachments")}
    print_table([{"": name, "value": value} for name, value in shown.items()], columns=("", "value"), title="message")
    typer.echo(printable(document["text"]))
    for file in document["attachments"]:
        say(f"file {file['name']} ({file['media_type']}, {file['bytes']} bytes)")


@app.command(epilog="Examples:  trueup message retry 17 18;  trueup message retry --receiver desk")
def retry(
    messages: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Ids of messages.")] = None,
    receiver: Annotated[str | None, typer.Option(help="All that were given up of this receiver.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many of a receiver, oldest first.", min=1)] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """Make messages due at once, with all attempts before them: those given up, and those waiting for another attempt.

    Exits with 1 when some stay as they are: sent, being sent now, or overtaken by a later one of the same order.
    """
    from trueup.doors.cli.settings import actor

    if bool(messages) == bool(receiver):
        raise typer.BadParameter("name ids, or a receiver")
    with _services() as services:
        ids = messages or [
            row["message_id"] for row in services.queries.rows(_GIVEN_UP, {"receiver": receiver, "limit": limit})
        ]
        for message_id in messages or ():
            services.outbox.find(message_id)
        done = services.outbox.retry(ids, actor())
    if as_json:
        print_json({"asked": len(ids), "due": done})
    else:
        say(f"{done} of {len(ids)} messages are due now")
    if done < len(set(ids)):
        raise typer.Exit(FAILURE)


@app.command(epilog="Example:  trueup message send")
def send(as_json: JsonOption = False) -> None:
    """Send what is due now, once. A running `trueup work` does it every few seconds; both at once are safe.

    Exits with 1 when a message was not taken.
    """
    from trueup.bootstrap import open_sending
    from trueup.notifying.jobs import told

    with _services() as services, open_sending(services) as sending:
        counted = sending.drain()
    if as_json:
        print_json(dict(counted))
    else:
        say(told(counted))
    if any(counted[end] for end in ("failed", "given_up", "unopened", "undeclared")):
        raise typer.Exit(FAILURE)


@app.command("test", epilog="Example:  trueup message test desk")
def try_receiver(
    receiver: Annotated[str, typer.Argument(help="A receiver, as TRUEUP_NOTIFY__RECEIVERS declares it.")],
    as_json: JsonOption = False,
) -> None:
    """Tell a receiver something at once, past the outbox, to see whether its settings are right. Needs no database."""
    from trueup.doors.cli.settings import actor, read_settings
    from trueup.notifying import trying

    identity = trying.try_receiver(receiver, read_settings().notify, actor())
    if as_json:
        print_json({"receiver": receiver, "id": identity})
    else:
        say(f"{receiver} has taken message {identity}")


def _document(services: Services, stored: Any) -> dict[str, Any]:
    from trueup.notifying.outbox import identity_of

    message = stored.message
    return {
        "message_id": stored.message_id,
        "id": str(identity_of(message)),
        "key": message.key,
        "receiver": message.receiver,
        "kind": message.kind,
        "ordering": message.ordering,
        "state": stored.state,
        "attempts": stored.attempts,
        "added_at": stored.added_at,
        "ended_at": stored.ended_at,
        "last_error": stored.last_error,
        "subject": message.subject,
        "text": message.text,
        "html": message.html,
        "payload": dict(message.payload),
        "attachments": [
            {"name": file.name, "media_type": file.media_type, "bytes": len(file.content)}
            for file in message.attachments
        ],
    }


def _services() -> Services:
    from trueup.bootstrap import open_services
    from trueup.doors.cli.settings import read_settings

    return open_services(read_settings())
