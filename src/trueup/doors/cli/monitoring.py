"""`trueup monitor`: predictions against their reference and their outcomes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.doors.cli.errors import FAILURE
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.domain.monitoring import Window
    from trueup.monitoring.service import Measured, Told

app = typer.Typer(no_args_is_help=True, help="Measure predictions against their reference and their outcomes.")

_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
_COLUMNS = ("window_kind", "window_first", "window_last", "model_version", "role", "metric", "field", "slice", "value",
            "low", "high", "n", "critical", "q_value", "floor", "verdict", "maturity")  # fmt: skip

Deployment = Annotated[str, typer.Argument(help="The deployment's name.")]
KnownByOption = Annotated[
    str,
    typer.Option(help="What makes a fact known: `recorded` in the ledger, or `observed` by its source, for history."),
]


@app.command(
    epilog="Examples:  trueup monitor run fails;  trueup monitor run fails --at 2021-02-01 --known-by observed"
)
def run(
    deployment: Deployment,
    at: Annotated[
        datetime | None,
        typer.Option(formats=_MOMENTS, help="The instant (UTC) whose knowledge counts; now by default."),
    ] = None,
    known_by: KnownByOption = "recorded",
    window: Annotated[
        list[str] | None,
        typer.Option(help="Only this window, stale or not: KIND:DAY, such as half-month:2021-01-16; repeat as needed."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count what was booked, and measure every window of which something new is known.

    Exits with 1 when a window could not be measured.
    """
    import trueup
    from trueup.doors.cli.settings import read_settings

    with trueup.connect(read_settings()) as up, _Progress() as told:
        done = up.monitor(deployment, at=_utc(at), known_by=known_by, windows=_windows(window), told=told)
    _tell(done, as_json=as_json)


@app.command(epilog="Examples:  trueup monitor profile fails;  trueup monitor profile fails --json")
def profile(deployment: Deployment, as_json: JsonOption = False) -> None:
    """Freeze references that are complete, and count what was booked, without measuring."""
    import trueup
    from trueup.doors.cli.settings import read_settings

    with trueup.connect(read_settings()) as up, _Progress() as told:
        done = up.services.measuring.profile(deployment, told)
    _tell(done, as_json=as_json)


@app.command(
    epilog="Examples:  trueup monitor reference fails training.csv;  "
    "trueup monitor reference fails t.parquet --version 2"
)
def reference(
    deployment: Deployment,
    file: Annotated[str, typer.Argument(help="CSV or Parquet with the contract's features, and the score if known.")],
    version: Annotated[str | None, typer.Option(help="Which model version's; the champion's unless given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Freeze training data as the reference of a version. A version keeps the reference that it has."""
    import trueup
    from trueup.doors.cli import files
    from trueup.doors.cli.settings import read_settings
    from trueup.monitoring.references import reference_contract

    with files.opened(file, None) as opened, trueup.connect(read_settings()) as up:
        rows_like = reference_contract(*up.services.measuring.declared(deployment, version))
        pieces = [chunk.data for chunk in opened.chunks(rows_like, up.services.settings.limits)]
        found = up.reference(deployment, *pieces, version=version)
    document = {"reference": found.origin, "fields": sorted(found.fields), "slices": list(found.slices)}
    if as_json:
        print_json(document)
    else:
        say(f"{deployment}: {found.origin}, {len(found.fields)} fields, {len(found.slices)} slices")


@app.command(
    epilog="Examples:  trueup monitor show fails;  trueup monitor show fails --metric psi --field amount --json;  "
    "trueup monitor show fails --window half-month:2021-01-16 --history"
)
def show(
    deployment: Deployment,
    metric: Annotated[str | None, typer.Option(help="Only this metric.")] = None,
    field: Annotated[str | None, typer.Option(help="Only of this field; `score` for answers.")] = None,
    slice_: Annotated[str | None, typer.Option("--slice", help="Only of this slice, FIELD=VALUE.")] = None,
    verdict: Annotated[str | None, typer.Option(help="Only with this verdict, such as drift or breach.")] = None,
    window: Annotated[str | None, typer.Option(help="Only of this window, KIND:DAY.")] = None,
    at: Annotated[
        datetime | None, typer.Option(formats=_MOMENTS, help="As known at this instant (UTC); now if not given.")
    ] = None,
    known_by: KnownByOption = "recorded",
    history: Annotated[bool, typer.Option(help="All that was ever known, not the latest alone.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """List measurements, latest windows first."""
    import trueup
    from trueup.domain.monitoring import MeasurementFilter
    from trueup.doors.cli.settings import read_settings
    from trueup.doors.windows import known_by_of, window_of

    chosen = window_of(window) if window else None
    where = MeasurementFilter(
        deployment,
        metric=metric,
        field=field,
        slice=slice_,
        verdict=verdict,
        window_kind=str(chosen.kind) if chosen else None,
        first=chosen.first if chosen else None,
        last=chosen.last if chosen else None,
        at=_utc(at),
        known_by=known_by_of(known_by),
        history=history,
        limit=limit,
    )
    with trueup.connect(read_settings()) as up:
        found = up.measurements(where)
    if as_json:
        print_json(found)
    else:
        print_table(found, columns=_COLUMNS)
        for text in sorted({one["assumes"] for one in found if one["assumes"]}):
            say(text)


def _tell(done: Measured, *, as_json: bool) -> None:
    from dataclasses import asdict

    from trueup.monitoring.jobs import told

    if as_json:
        print_json(asdict(done))
    else:
        say(told(done))
        for failed in done.failed:
            say(f"failed: {failed}")
    if done.failed:
        raise typer.Exit(FAILURE)


def _windows(given: list[str] | None) -> list[Window] | None:
    from trueup.doors.windows import window_of

    return None if not given else [window_of(text) for text in given]


def _utc(moment: datetime | None) -> datetime | None:
    from datetime import UTC

    return None if moment is None else moment.replace(tzinfo=UTC)


class _Progress:
    """A line on the terminal that says how far the work is; nothing where nobody looks."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._shown = Progress(
            SpinnerColumn(),
            TextColumn("{task.completed:,.0f} {task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Told:
        self._shown.start()
        return self._told

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def _told(self, what: str, done: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._shown.add_task(what, total=None)
        task = self._tasks[what]
        if what == "windows":
            self._shown.update(task, completed=done)
        else:
            self._shown.advance(task, done)
