"""`trueup contract`: checking, comparing, inferring and showing contracts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trueup.doors.cli.errors import BAD_INPUT
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.domain.contract import Contract

app = typer.Typer(help="Contracts: what callers send and what a model answers.", no_args_is_help=True)


@app.command(epilog="Example:  trueup contract check contract.yaml")
def check(
    file: Annotated[Path, typer.Argument(help="A contract in YAML.")],
    as_json: JsonOption = False,
) -> None:
    """Check that a contract is complete and consistent, and print its digest."""
    from trueup.contracts.reading import load_contract

    found = load_contract(file)
    if as_json:
        print_json({"name": found.name, "version": found.version, "digest": found.digest, "fields": len(found.fields)})
    else:
        typer.echo(f"{found.name} version {found.version}: {len(found.fields)} fields, {len(found.features)} features")
        typer.echo(f"digest {found.digest}")


@app.command(epilog="Example:  trueup contract diff old.yaml new.yaml || echo 'callers must change'")
def diff(
    old: Annotated[Path, typer.Argument(help="The contract as it was.")],
    new: Annotated[Path, typer.Argument(help="The contract as it shall be.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two contracts. Exits with 3 when the change breaks callers or stored rows, else with 0."""
    from dataclasses import asdict

    from trueup.contracts.comparing import compare
    from trueup.contracts.reading import load_contract

    changes = compare(load_contract(old), load_contract(new))
    breaking = any(change.breaking for change in changes)
    if as_json:
        print_json({"breaking": breaking, "changes": [asdict(change) for change in changes]})
    elif changes:
        shown = [{**asdict(c), "change": "breaking" if c.breaking else "compatible"} for c in changes]
        print_table(shown, columns=("change", "path", "reason"))
    else:
        typer.echo("no difference")
    if breaking:
        say("the change is breaking; next: raise the contract's version and tell its callers")
        raise typer.Exit(BAD_INPUT)


@app.command(epilog="Example:  trueup contract infer model.onnx > contract.yaml")
def infer(
    model: Annotated[str, typer.Argument(help="An ONNX file, an MLflow model folder or a models:/ address.")],
    as_json: JsonOption = False,
) -> None:
    """Infer a contract from a model's signature, as a start: keys, label and ranges are yours to add."""
    from trueup.contracts import inferring
    from trueup.contracts.reading import contract_to_json, dump_contract

    found = inferring.infer_from_onnx(Path(model)) if model.endswith(".onnx") else inferring.infer_from_mlflow(model)
    if as_json:
        print_json(contract_to_json(found))
    else:
        sys.stdout.write(dump_contract(found))


@app.command(epilog="Example:  trueup contract show settlement_fails")
def show(
    name: Annotated[str, typer.Argument(help="A deployed contract's name, or a YAML file.")],
    version: Annotated[int | None, typer.Option(help="Its version; the newest unless given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each field of a contract expects."""
    found = _found(name, version)
    if as_json:
        from trueup.contracts.reading import contract_to_json

        print_json({"digest": found.digest, "contract": contract_to_json(found)})
        return
    from trueup.contracts.values import expected

    rows = [
        {
            "field": f.name,
            "type": expected(f),
            "role": f.role,
            "null": "allowed" if f.nullable else "never",
            "range": _range(f.minimum, f.maximum),
            "unit": f.unit,
            "description": f.description,
        }
        for f in found.fields
    ]
    title = f"{found.name} version {found.version}, digest {found.digest[:12]}"
    print_table(rows, columns=("field", "type", "role", "null", "range", "unit", "description"), title=title)


def _found(name: str, version: int | None) -> Contract:
    if name.endswith((".yaml", ".yml")):
        from trueup.contracts.reading import load_contract

        return load_contract(Path(name))
    import trueup
    from trueup.doors.cli.settings import read_settings

    with trueup.connect(read_settings()) as up:
        return up.contract(name, version)


def _range(low: object, high: object) -> str:
    if low is None and high is None:
        return ""
    return f"{'' if low is None else low} … {'' if high is None else high}"
