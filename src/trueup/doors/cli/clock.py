"""`trueup work` and `trueup jobs`: scheduled work, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from trueup.doors.cli.errors import FAILURE
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.bootstrap import Services
    from trueup.doors.clock.server import ClockServer

app = typer.Typer(
    name="jobs",
    help="Scheduled work: what there is, and what became of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_JOBS = ("name", "subject", "schedule", "missed", "last_due", "last_outcome", "last_duration_s", "next_due", "state",
         "is_late")  # fmt: skip
_RUNS = ("run_id", "name", "subject", "due", "outcome", "started_at", "duration_s", "attempts", "worker", "said",
         "error")  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds the command that works."""
    app.command(epilog="Examples:  trueup work;  trueup work --only upkeep --once")(work)


def work(
    once: Annotated[bool, typer.Option("--once", help="End when all that is due now was run.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Only jobs of this kind; may be repeated.")] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port for health and metrics; TRUEUP_CLOCK__PORT unless given.", min=0, max=65_535),
    ] = None,
) -> None:
    """Do scheduled work until interrupted. Run as many as you like: each due moment is run once.

    A first signal takes nothing more and waits for what runs, a second one ends at once. Exits with 1 when
    something was still running, or with --once when a run failed.
    """
    from trueup.bootstrap import gathering, open_services
    from trueup.doors.cli.settings import read_settings
    from trueup.doors.clock.opening import open_clock
    from trueup.doors.telling import Telling

    settings = read_settings()
    settings.clock.port = settings.clock.port if port is None else port
    with open_services(settings) as services:
        opened = open_clock(services, gathering(services), only=only or ())
        told = None
        if settings.clock.port is not None:
            told = Telling(services, settings.host, settings.clock.port, lambda: opened.server.is_ready, opened.figures)
            say(f"health and metrics on {told.address}")
        say(f"trueup works on {len(opened.gathering.jobs)} jobs")
        clean = _run(opened.server, once=once)
        if told is not None:
            told.close()
    say("trueup has stopped")
    if not clean:
        _leave_threads_behind()
    if once and any(outcome == "failed" for *_, outcome in opened.handlers.ended):
        raise typer.Exit(FAILURE)


@app.command("list", epilog="Example:  trueup jobs list --json")
def list_jobs(
    name: Annotated[str | None, typer.Argument(help="Only of this kind.")] = None,
    late: Annotated[bool, typer.Option("--late", help="Only those that have not run for three periods.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the jobs that were declared: their last run, when they are due next, and whether they are late."""
    found = _rows(
        "SELECT * FROM clock_jobs WHERE (%(name)s::text IS NULL OR name = %(name)s) AND (is_late OR NOT %(late)s)"
        " ORDER BY name, subject LIMIT %(most)s",
        {"name": name, "late": late},
    )
    if as_json:
        print_json(found)
    else:
        print_table(found, columns=_JOBS)


@app.command(epilog="Example:  trueup jobs history alert --outcome failed")
def history(
    name: Annotated[str | None, typer.Argument(help="Only of this kind.")] = None,
    subject: Annotated[str | None, typer.Argument(help="Only of this subject.")] = None,
    outcome: Annotated[str | None, typer.Option(help="queued, running, ok, failed or missed.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many rows.", min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List what became of due moments, those planned last first."""
    found = _rows(
        "SELECT * FROM clock_runs WHERE (%(name)s::text IS NULL OR name = %(name)s)"
        " AND (%(subject)s::text IS NULL OR subject = %(subject)s)"
        " AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s) ORDER BY run_id DESC LIMIT %(limit)s",
        {"name": name, "subject": subject, "outcome": outcome, "limit": limit},
    )
    if as_json:
        print_json(found)
    else:
        print_table(found, columns=_RUNS)


@app.command(epilog="Example:  trueup jobs run upkeep partitions")
def run(
    name: Annotated[str, typer.Argument(help="The kind of work.")],
    subject: Annotated[str, typer.Argument(help="Which one; left out where there is only one.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Run a job now, in its turn: never beside another run of it. Exits with 1 when it fails."""
    from trueup.bootstrap import gathering, open_services
    from trueup.doors.cli.settings import actor, read_settings
    from trueup.doors.clock.opening import open_clock

    with open_services(read_settings()) as services:
        opened = open_clock(services, gathering(services), only=[name], subject=subject)
        run_id = opened.runs.ask(name, subject, actor())
        clean = _run(opened.server, once=True)
        found = _ended(services, run_id) if clean else None
    if found is None:
        say("it is still at work, and will be taken up by a worker")
        _leave_threads_behind()
    if as_json:
        print_json(found)
    else:
        print_table([found], columns=_RUNS)
    if found["outcome"] == "failed":
        raise typer.Exit(FAILURE)


def _rows(sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    from trueup.bootstrap import open_services
    from trueup.doors.cli.settings import read_settings

    with open_services(read_settings()) as services:
        return services.queries.rows(sql, {"most": services.settings.limits.listed_rows, **parameters})


def _run(server: ClockServer, *, once: bool) -> bool:
    """Until a signal says stop; a second one ends the process."""
    import signal
    from types import FrameType

    stopping = False

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            _leave_threads_behind()
        stopping = True
        server.stop()

    before = {sig: signal.signal(sig, stop) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        return server.run(once=once)
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


def _ended(services: Services, run_id: int) -> dict[str, Any]:
    """The run, when it has ended: another worker may have taken it."""
    import time

    while True:
        run = services.queries.rows("SELECT * FROM clock_runs WHERE run_id = %(run)s", {"run": run_id})[0]
        if run["finished_at"] is not None:
            return run
        time.sleep(services.settings.clock.poll_s)


def _leave_threads_behind() -> NoReturn:
    """Ends the process with what it runs: as after a kill, others take that up when the heartbeat is stale."""
    import os
    import sys

    sys.stdout.flush()
    os._exit(FAILURE)
