"""`trueup show`, `predictions` and `deployments`: looking things up."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from trueup.doors.cli.output import JsonOption, print_json, print_table

_COLUMNS = ("prediction_id", "event_time", "deployment", "model_version", "role", "status", "business_key", "score",
            "decision", "expected_cost")  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example:  trueup show 8a6f0c9e-…")(show)
    app.command(epilog="Example:  trueup predictions --deployment fails --event-from 2026-11-01 --json | jq .")(
        predictions
    )
    app.command(epilog="Example:  trueup deployments --json")(deployments)


def show(
    prediction: Annotated[str, typer.Argument(help="The prediction's id.")],
    as_json: JsonOption = False,
) -> None:
    """Show everything about one prediction: fields, score, reasons, outcome, timing."""
    import trueup
    from trueup.doors.cli.settings import read_settings

    with trueup.connect(read_settings()) as up:
        found = up.prediction(prediction)
    if as_json:
        print_json(found)
        return
    plain = {k: v for k, v in found.items() if k not in ("fields", "reasons", "steps_us")}
    print_table([{"": k, "value": v} for k, v in plain.items()], columns=("", "value"), title="prediction")
    print_table([{"field": k, "value": v} for k, v in found["fields"].items()], columns=("field", "value"))
    if found["reasons"]:
        print_table(found["reasons"], columns=("field", "contribution"), title="reasons, largest first")
    print_table([found["steps_us"]], columns=found["steps_us"], title="microseconds")


def predictions(
    deployment: Annotated[str | None, typer.Option(help="Only of this deployment.")] = None,
    business_key: Annotated[str | None, typer.Option(help="Only of this business item.")] = None,
    event_from: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First event day (YYYY-MM-DD).")
    ] = None,
    event_until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last event day (YYYY-MM-DD).")
    ] = None,
    status: Annotated[str | None, typer.Option(help="scored, abstained or fallback.")] = None,
    decision: Annotated[str | None, typer.Option(help="Only with this decision.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Only with this score or more.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many rows.", min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List predictions, newest events first."""
    import trueup
    from trueup.doors.cli.settings import read_settings
    from trueup.ports import PredictionFilter

    days = [None if moment is None else moment.date() for moment in (event_from, event_until)]
    where = PredictionFilter(deployment, business_key, days[0], days[1], status, decision, min_score, limit)
    with trueup.connect(read_settings()) as up:
        found = up.predictions(where)
    if as_json:
        print_json(found)
    else:
        print_table(found, columns=_COLUMNS)


def deployments(as_json: JsonOption = False) -> None:
    """List what answers now."""
    import trueup
    from trueup.doors.cli.settings import read_settings

    with trueup.connect(read_settings()) as up:
        found = [_document(d) for d in up.deployments()]
    if as_json:
        print_json(found)
    else:
        print_table(found, columns=("name", "revision", "version", "contract", "runtimes", "deployed_at", "by"))


def _document(deployment: Any) -> dict[str, Any]:
    champion = deployment.champion
    return {
        "name": deployment.name,
        "revision": deployment.revision,
        "version": champion.version,
        "contract": f"{champion.contract.name} v{champion.contract.version}",
        "runtimes": ", ".join(a.runtime for a in champion.artifacts),
        "challengers": [v.version for v in deployment.challengers],
        "shadows": [v.version for v in deployment.shadows],
        "deployed_at": deployment.deployed_at,
        "by": deployment.deployed_by,
    }
