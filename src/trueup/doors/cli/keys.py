"""`trueup keys`: making, listing and revoking API keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.doors.auth import ApiKey, PostgresApiKeys

app = typer.Typer(help="API keys of the HTTP door.", no_args_is_help=True)


class Role(StrEnum):
    """The roles of :class:`trueup.doors.auth.ApiRole`, repeated here so that help loads nothing."""

    READER = "reader"
    SCORER = "scorer"
    OPERATOR = "operator"
    ADMIN = "admin"


@app.command(epilog="Example:  trueup keys create 'order system' --role scorer --deployment fails")
def create(
    name: Annotated[str, typer.Argument(help="Who or what will use the key.")],
    role: Annotated[Role, typer.Option(help="reader reads; scorer also scores; operator also deploys and records "
                                            "outcomes; admin also manages keys.")] = Role.READER,
    deployment: Annotated[list[str] | None, typer.Option(help="Limit the key to this deployment; "
                                                              "repeat for more.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Make a key. Its text is shown once and cannot be shown again."""
    from trueup.doors.auth import ApiRole

    with _keys() as (keys, actor):
        key, text = keys.create(name, ApiRole(role.value), by=actor, deployments=deployment or None)
    if as_json:
        print_json({**_document(key), "key": text})
        return
    where = "" if key.deployments is None else f" of {', '.join(key.deployments)}"
    say(f"key {key.key_id} ({key.role}{where}) for {key.name}; keep it safe, it is not shown again:")
    typer.echo(text)


@app.command("list", epilog="Example:  trueup keys list --json")
def list_keys(as_json: JsonOption = False) -> None:
    """List keys, revoked ones too. The secrets are not stored."""
    with _keys() as (keys, _):
        found = [_document(key) for key in keys.listed()]
    if as_json:
        print_json(found)
    else:
        shown = [
            {**f, "deployments": "all" if f["deployments"] is None else ", ".join(f["deployments"])} for f in found
        ]
        print_table(shown, columns=("key_id", "name", "role", "deployments", "created_at", "revoked_at"))


@app.command(epilog="Example:  trueup keys revoke 5f3c9a1e2b7d4c60")
def revoke(key_id: Annotated[str, typer.Argument(help="The id, as `trueup keys list` shows it.")]) -> None:
    """End a key for good. Running servers notice within seconds."""
    with _keys() as (keys, actor):
        key = keys.revoke(key_id, by=actor)
    say(f"key {key.key_id} ({key.name}) is revoked")


@contextmanager
def _keys() -> Iterator[tuple[PostgresApiKeys, str]]:
    from trueup.bootstrap import open_services
    from trueup.doors.auth import open_keys
    from trueup.doors.cli.settings import actor, read_settings

    with open_services(read_settings()) as services, open_keys(services.urls.owner) as keys:
        yield keys, actor()


def _document(key: ApiKey) -> dict[str, Any]:
    return {**asdict(key), "role": str(key.role)}
