"""`trueup deploy`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.doors.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from trueup.domain.deployment import Serving

MAX_SERVING_BYTES = 100_000


class PlayedRole(StrEnum):
    """The roles of :class:`trueup.domain.batch.Role`, repeated here so that help loads nothing."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    SHADOW = "shadow"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        epilog="Example:  trueup deploy fails --contract contract.yaml --model model.ubj --model model.onnx --version 1"
    )(deploy)


def deploy(
    name: Annotated[str, typer.Argument(help="The name under which the model answers.")],
    contract: Annotated[Path, typer.Option(help="The contract, a YAML file.")],
    model: Annotated[
        list[str],
        typer.Option(
            help="A model: file (.onnx .ubj .json .txt .skops .pkl), MLflow folder, models:/ address or "
            "python:module:function. Give several for several runtimes of one model; their parity is checked."
        ),
    ],
    version: Annotated[str, typer.Option(help="The version's name; it means these artifacts for ever.")],
    role: Annotated[PlayedRole, typer.Option(help="The part it plays.")] = PlayedRole.CHAMPION,
    serving: Annotated[
        Path | None, typer.Option(help="How it answers (threads, reason codes, fallback): a YAML file.")
    ] = None,
    library: Annotated[
        list[str] | None, typer.Option(help="NAME==VERSION of a library at training; repeat as needed.")
    ] = None,
    allow_pickle: Annotated[
        list[str] | None, typer.Option(help="SHA-256 of a pickle that may be loaded. Loading a pickle runs its code.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version of a model answer under a name. The same again changes nothing."""
    import trueup
    from trueup.domain.batch import Role
    from trueup.doors.cli.settings import actor, read_settings

    with trueup.connect(read_settings()) as up:
        deployed = up.deploy(
            name,
            contract=contract,
            model=[_model(m) for m in model],
            version=version,
            serving=_serving(serving, tuple(allow_pickle or ())),
            libraries=_libraries(library or []),
            role=Role(role.value),
            by=actor(),
        )
    played = {
        "champion": [deployed.champion],
        "challenger": list(deployed.challengers),
        "shadow": list(deployed.shadows),
    }
    document: dict[str, Any] = {
        "name": deployed.name,
        "revision": deployed.revision,
        **{part: [v.version for v in versions] for part, versions in played.items()},
        "contract": deployed.champion.contract.name,
        "contract_digest": deployed.champion.contract.digest,
    }
    if as_json:
        print_json(document)
        return
    say(f"{deployed.name} revision {deployed.revision}: {version} is {role.value}")
    for measured in deployed.champion.parity:
        say(f"  {measured.other} differs from {measured.reference} by at most {measured.max_difference:.3g} "
            f"on {measured.rows} rows")  # fmt: skip
    say(f"next: trueup score FILE --deployment {deployed.name}")


def _model(given: str) -> str | Path:
    return given if given.startswith(("python:", "models:/")) else Path(given)


def _libraries(given: list[str]) -> dict[str, str]:
    from trueup.errors import InvalidInput

    pairs = [text.partition("==") for text in given]
    if any(not name or not version for name, _, version in pairs):
        raise InvalidInput("a library is given as NAME==VERSION", next_step="for example --library xgboost==3.2.0")
    return {name: version for name, _, version in pairs}


def _serving(path: Path | None, pickles: tuple[str, ...]) -> Serving | None:
    """Serving of the file, None (keep what the deployment has) where neither is given."""
    if path is None and not pickles:
        return None
    from dataclasses import replace

    import msgspec
    import yaml

    from trueup.domain.deployment import Serving
    from trueup.doors.declared import UnknownKey, serving_of
    from trueup.errors import InvalidFile

    if path is None:
        return Serving(allowed_pickles=pickles)
    try:
        if path.stat().st_size > MAX_SERVING_BYTES:
            raise InvalidFile(f"a serving file may have at most {MAX_SERVING_BYTES} bytes")
        read = serving_of(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except UnknownKey as error:
        raise InvalidFile(f"{path.name}: {error}", next_step="mend the key; docs/reference/cli.md lists them") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError, msgspec.ValidationError) as error:
        why = f": {error.__cause__}" if isinstance(error.__cause__, ValueError) else ""  # of the domain, in its words
        raise InvalidFile(
            f"{path.name} does not say how a deployment answers{why}", next_step="docs/reference/cli.md shows the form"
        ) from None
    return replace(read, allowed_pickles=(*read.allowed_pickles, *pickles))
