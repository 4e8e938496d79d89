"""`trueup dlq`: records of streams that got no answer, and scoring them again."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.doors.cli.errors import FAILURE
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.bootstrap import Services
    from trueup.domain.stream import Letter
    from trueup.doors.kafka.replaying import Replayed

app = typer.Typer(help="Records of streams that got no answer.", no_args_is_help=True)

_COLUMNS = ("letter_id", "received_at", "deployment", "topic", "partition", "record_offset", "instances", "reason",
            "detail", "value_bytes", "replayed_at")  # fmt: skip
_LIST = """
    SELECT * FROM dead_letters
    WHERE (%(deployment)s::text IS NULL OR deployment = %(deployment)s)
      AND (%(reason)s::text IS NULL OR reason = %(reason)s)
      AND (%(topic)s::text IS NULL OR topic = %(topic)s)
      AND (%(since)s::date IS NULL OR received_at >= %(since)s::date::timestamp AT TIME ZONE 'UTC')
      AND (%(replayed)s::boolean IS NULL OR (replayed_at IS NOT NULL) = %(replayed)s)
    ORDER BY letter_id {order} LIMIT %(limit)s
"""
_ATTEMPTS = """
    SELECT source_key, reason, detail, attempt, booked_at FROM refusals
    WHERE deployment = %(deployment)s AND source = %(source)s
      AND (source_key = %(key)s OR source_key LIKE %(key)s || '/%%')
    ORDER BY refusal_id
"""
_KNOWN = "SELECT * FROM dead_letters WHERE letter_id = ANY (%(letters)s) ORDER BY letter_id"


class Reason(StrEnum):
    """The reasons of :class:`trueup.domain.batch.RefusalReason`, repeated here so that help loads nothing."""

    CONTRACT = "contract"
    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    OVERLOADED = "overloaded"
    REQUEST = "request"
    CONFLICT = "conflict"


DeploymentOption = Annotated[str | None, typer.Option(help="Only of this deployment.")]
ReasonOption = Annotated[Reason | None, typer.Option(help="Only those refused for this reason.")]


@app.command("list", epilog="Example:  trueup dlq list --deployment fails --not-replayed --json")
def list_letters(
    deployment: DeploymentOption = None,
    reason: ReasonOption = None,
    topic: Annotated[str | None, typer.Option(help="Only of this topic.")] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Received on this day (UTC, YYYY-MM-DD) or later.")
    ] = None,
    replayed: Annotated[
        bool | None, typer.Option("--replayed/--not-replayed", help="Only those answered since, or not.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, newest first, without their content."""
    with _services() as services:
        where = {"topic": topic, "since": None if since is None else since.date(), "replayed": replayed}
        found = _listed(services, deployment, reason, limit, "DESC", **where)
    if as_json:
        print_json(found)
    else:
        print_table(found, columns=_COLUMNS)


@app.command(epilog="Examples:  trueup dlq show 17;  trueup dlq show 17 --value > record.json")
def show(
    letter_id: Annotated[int, typer.Argument(metavar="ID", help="The id, as `trueup dlq list` shows it.")],
    value: Annotated[bool, typer.Option("--value", help="Write the record's value, byte for byte.")] = False,
    key: Annotated[bool, typer.Option("--key", help="Write the record's key, byte for byte.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of a dead letter. Its content is confidential: it is shown only when asked for."""
    if value and key:
        raise typer.BadParameter("--value or --key, not both")
    with _services() as services:
        _, letter = services.ledger.letter(letter_id)
        if value or key:
            _write(letter.value if value else letter.key)
            return
        (known,) = services.queries.rows(_KNOWN, {"letters": [letter_id]})
        where = {
            "deployment": known["deployment"],
            "source": f"kafka:{known['cluster']}/{known['topic']}",
            "key": f"{known['partition']}/{known['record_offset']}",
        }
        document = {**known, **_sizes(letter), "refusals": services.queries.rows(_ATTEMPTS, where)}
    if as_json:
        print_json(document)
        return
    plain = {k: v for k, v in document.items() if k != "refusals"}
    print_table([{"": k, "value": v} for k, v in plain.items()], columns=("", "value"), title="dead letter")
    if document["refusals"]:
        print_table(document["refusals"], columns=("source_key", "attempt", "reason", "detail", "booked_at"))


@app.command(
    epilog="Examples:  trueup dlq replay 17 18;  trueup dlq replay --deployment fails --reason contract --limit 500"
)
def replay(
    letters: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Ids of letters.")] = None,
    deployment: DeploymentOption = None,
    reason: ReasonOption = None,
    limit: Annotated[int, typer.Option(help="At most so many of a deployment, oldest first.", min=1)] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """Score dead letters again, under their own identity; may be run twice, and beside the stream.

    Exits with 1 when some stay refused; nothing is changed of those but another attempt in the refusals.
    """
    from trueup.doors.cli.settings import actor

    if bool(letters) == bool(deployment) or (letters and reason):
        raise typer.BadParameter("name ids, or a deployment (and a reason)")
    with _services() as services:
        found = (
            _named(services, letters)
            if letters
            else _listed(services, deployment, reason, limit, "ASC", topic=None, since=None, replayed=False)
        )
        done = _replayed(services, [letter for letter in found if letter["replayed_at"] is None], actor())
    before = len(found) - len(done)
    left = [one for one in done if one.reason is not None]
    if as_json:
        print_json([{"letter_id": one.letter_id, "reason": one.reason, "detail": one.detail} for one in done])
    else:
        said = f"{len(done) - len(left)} of {len(done)} dead letters are answered now"
        say(said + (f"; {before} were before" if before else ""))
        if left:
            rows = [{"letter_id": one.letter_id, "reason": one.reason, "detail": one.detail} for one in left]
            print_table(rows, columns=("letter_id", "reason", "detail"), title="refused again")
    if left:
        raise typer.Exit(FAILURE)


def _replayed(services: Services, letters: list[dict[str, Any]], by: str) -> list[Replayed]:
    from trueup.doors.kafka.replaying import Replaying

    of: dict[str, list[int]] = {}
    for letter in letters:
        of.setdefault(letter["deployment"], []).append(letter["letter_id"])
    return [one for name, numbers in of.items() for one in Replaying(services, name, by).replay(numbers)]


def _named(services: Services, letters: list[int]) -> list[dict[str, Any]]:
    """Raises NotFound where one is none."""
    from trueup.errors import no_letter

    found = services.queries.rows(_KNOWN, {"letters": letters})
    if {letter["letter_id"] for letter in found} != set(letters):
        raise no_letter()
    return found


def _listed(
    services: Services, deployment: str | None, reason: Reason | None, limit: int, order: str, **where: Any
) -> list[dict[str, Any]]:
    """Raises NotFound where the deployment is none."""
    if deployment is not None:
        services.registry.deployment(deployment)
    wanted = {"deployment": deployment, "reason": None if reason is None else reason.value, "limit": limit, **where}
    return services.queries.rows(_LIST.format(order=order), wanted)


def _sizes(letter: Letter) -> dict[str, Any]:
    """What may be told of the content: sizes, the value's digest, and names of headers."""
    import hashlib

    value = letter.value
    return {
        "value_digest": None if value is None else hashlib.blake2b(value, digest_size=16).hexdigest(),
        "key_bytes": None if letter.key is None else len(letter.key),
        "headers": [name for name, _ in letter.headers],
    }


def _write(content: bytes | None) -> None:
    from trueup.errors import NotFound

    if content is None:
        raise NotFound("the record has none", next_step="`trueup dlq show` without it tells what there is")
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _services() -> Services:
    from trueup.bootstrap import open_services
    from trueup.doors.cli.settings import read_settings

    return open_services(read_settings())
