"""`trueup report`: running reports, and showing what they had."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.domain.report import ReportFormat
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.bootstrap import Services
    from trueup.domain.report import ReportRun, Result
    from trueup.reports.reading import Report

app = typer.Typer(help="Reports: SQL files whose figures are kept.", no_args_is_help=True)

_RUNS = ("run_id", "name", "as_known_at", "known_by", "asked_by", "started_at", "duration_ms", "row_counts", "error")
_REPORTS = ("name", "title", "audience", "parameters", "schedule", "recipients")
_SHOWN_ROWS = 40  # of a table at a terminal

FormatOption = Annotated[
    ReportFormat | None, typer.Option("--format", help="Make a file of it; the ending of --output says it too.")
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Write there; standard output unless given.")]


@app.command(
    epilog="Examples:  trueup report run daily_mi -p deployment=fails -o mi.html;  "
    "trueup report run daily_mi --as-known-on 2021-02-15 --known-by observed --json"
)
def run(
    name: Annotated[str, typer.Argument(help="The report, as `trueup report list` shows it.")],
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A value; may be repeated.")
    ] = None,
    as_known_on: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Know what was known by the end of this day (UTC).")
    ] = None,
    as_known_at: Annotated[
        str | None, typer.Option(metavar="MOMENT", help="Know what was known at this moment (2021-02-15T06:00:00Z).")
    ] = None,
    known_by: Annotated[
        str, typer.Option(help="recorded: what this ledger had; observed: what sources had said (replayed history).")
    ] = "recorded",
    format_: FormatOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a report now and keep the run. Without a format its tables are shown."""
    from trueup.doors.cli.settings import actor
    from trueup.reports.running import end_of

    if as_known_on is not None and as_known_at is not None:
        raise typer.BadParameter("--as-known-on or --as-known-at, not both")
    at = end_of(as_known_on.date()) if as_known_on is not None else _moment(as_known_at)
    wanted = _format(format_, output, as_json)
    with _services() as services:
        made = services.reports.run(name, _given(parameter or []), by=actor(), as_known_at=at, known_by=known_by)
        say(f"run {made.run_id}; `trueup report show {made.run_id}` shows it again")
        _deliver(services, made, wanted, output)


@app.command(epilog="Examples:  trueup report show 17;  trueup report show 17 --format xlsx -o mi.xlsx")
def show(
    run_id: Annotated[int, typer.Argument(metavar="RUN", help="The run's number.")],
    format_: FormatOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a past run exactly as it was, in any format."""
    with _services() as services:
        _deliver(services, services.reports.show(run_id), _format(format_, output, as_json), output)


@app.command(epilog="Example:  trueup report rows 17 by_day --row 3 --json")
def rows(
    run_id: Annotated[int, typer.Argument(metavar="RUN", help="The run's number.")],
    query: Annotated[str, typer.Argument(help="The query whose figures are asked about.")],
    row: Annotated[int, typer.Option(min=1, help="The row of its figures, from 1.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Show the ledger rows behind one row of figures, as known at the run's moment."""
    with _services() as services:
        found = services.reports.rows(run_id, query, row)
    if as_json:
        print_json(_records(found))
    else:
        _print(found)


@app.command("list", epilog="Examples:  trueup report list;  trueup report list --runs daily_mi --limit 10")
def list_reports(
    name: Annotated[str | None, typer.Argument(help="Only this report's runs.")] = None,
    runs: Annotated[bool, typer.Option("--runs", help="List runs, the latest first, not reports.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many runs.", min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the reports there are, or their runs."""
    lists_runs = runs or name is not None
    with _services() as services:
        reports = services.reports
        found = reports.runs(name, limit) if lists_runs else [_document(one) for one in reports.all().values()]
    if as_json:
        print_json(found)
    elif lists_runs:
        print_table(found, columns=_RUNS)
    else:
        print_table(list(map(_cells, found)), columns=_REPORTS)


@app.command(epilog="Example:  trueup report schedule --json")
def schedule(as_json: JsonOption = False) -> None:
    """Show when reports run by themselves, who is told, and how the last run of each went."""
    with _services() as services:
        found = []
        for report in services.reports.all().values():
            if report.schedule:
                last = next(iter(services.reports.runs(report.name, 1)), {})
                found.append({**_document(report), "missed": str(report.missed), "last_run": last.get("run_id"),
                              "last_started": last.get("started_at"), "last_error": last.get("error")})  # fmt: skip
    if as_json:
        print_json(found)
    else:
        columns = ("name", "schedule", "missed", "recipients", "last_run", "last_started", "last_error")
        print_table(list(map(_cells, found)), columns=columns)


@app.command(epilog="Example:  trueup report check reports/*.sql")
def check(files: Annotated[list[Path], typer.Argument(help="Report files.")]) -> None:
    """Check report files: front matter, SQL, and whether the database has what they name. Nothing is run."""
    from trueup.reports.reading import report_of
    from trueup.sql.files import read_sql_file

    reports = [report_of(read_sql_file(path)) for path in files]
    with _services() as services:
        for report in reports:
            services.reports.check(report)
            say(f"{report.name}: {len(report.file.queries)} queries fit")


def _given(parameters: list[str]) -> dict[str, object]:
    given: dict[str, object] = {}
    for text in parameters:
        name, equals, value = text.partition("=")
        if not equals or name in given:
            raise typer.BadParameter("--parameter is NAME=VALUE, each name once")
        given[name] = value
    return given


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("--as-known-at is a moment such as 2021-02-15T06:00:00Z") from None
    if found.tzinfo is None:
        raise typer.BadParameter("--as-known-at needs its zone: 2021-02-15T06:00:00Z")
    return found.astimezone(UTC)


def _format(given: ReportFormat | None, output: Path | None, as_json: bool) -> ReportFormat | None:
    if as_json:
        return ReportFormat.JSON
    if given is None and output is not None:
        ending = output.suffix.removeprefix(".").lower()
        ending = {"zip": "csv", "htm": "html"}.get(ending, ending)
        if ending not in list(ReportFormat):
            raise typer.BadParameter(f"--output ends with one of {', '.join(ReportFormat)}, or give --format")
        return ReportFormat(ending)
    return given


def _deliver(services: Services, run: ReportRun, wanted: ReportFormat | None, output: Path | None) -> None:
    from trueup.errors import InvalidInput
    from trueup.reports.formats import rendered

    if wanted is None:
        for result in run.results:
            _print(result)
        if run.error:
            say(f"the run failed: {run.error}")
        return
    made = rendered(run, wanted, services.settings.reports.public_url)
    content = made.content
    if output is not None and made.media_type == "application/zip" and output.suffix.lower() != ".zip":
        raise InvalidInput("several queries are a zip of CSV files", next_step=f"name it {output.stem}.zip")
    if output is None:
        _write(content, is_text=wanted in (ReportFormat.JSON, ReportFormat.HTML))
        return
    try:
        output.write_bytes(content)
    except OSError:
        raise InvalidInput(f"{output.name} cannot be written", next_step="check the folder") from None
    say(f"{output} written, {len(content):,} bytes")


def _write(content: bytes, *, is_text: bool) -> None:
    if is_text:
        sys.stdout.write(content.decode())
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _print(result: Result) -> None:
    title = result.title or result.query
    print_table(_records(result)[:_SHOWN_ROWS], columns=[c.name for c in result.columns], title=title)
    left = len(result.rows) - _SHOWN_ROWS
    if left > 0 or result.is_cut:
        say(f"{max(left, 0)} more rows{' and others that a run does not keep' if result.is_cut else ''}; see --json")


def _records(result: Result) -> list[dict[str, Any]]:
    names = [column.name for column in result.columns]
    return [dict(zip(names, row, strict=True)) for row in result.rows]


def _document(report: Report) -> dict[str, Any]:
    from trueup.reports.formats.document import report_document

    return {**report_document(report), "recipients": list(report.recipients)}


def _cells(document: dict[str, Any]) -> dict[str, Any]:
    """A report for a table: parameters as they are given, lists as one text."""
    given = [p["name"] + ("" if p["required"] else f"={p['default'] or ''}") for p in document["parameters"]]
    return {**document, "parameters": ", ".join(given), "recipients": ", ".join(document["recipients"])}


def _services() -> Services:
    from trueup.bootstrap import open_services
    from trueup.doors.cli.settings import read_settings

    return open_services(read_settings())
