"""`trueup score`: files in, answers out."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from trueup.doors.cli.errors import BAD_INPUT
from trueup.doors.cli.output import json_line, say
from trueup.doors.cli.reading import FormatOption, format_of, progress

if TYPE_CHECKING:
    from trueup.doors.cli.files import Source
    from trueup.doors.python import Scores, Trueup

_COLUMNS = ("row", "prediction_id", "status", "score", "decision", "expected_cost", "refused", "detail")


class AnswerFormat(StrEnum):
    """How answers are written."""

    JSONL = "jsonl"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(
        epilog="Examples:  trueup score day.csv --deployment fails --out answers.jsonl;  "
        "cat day.jsonl | trueup score - --format jsonl --deployment fails"
    )(score)


def score(
    file: Annotated[str, typer.Argument(help="CSV, Parquet or JSON lines; `-` for standard input.")],
    deployment: Annotated[str, typer.Option("--deployment", "-d", help="Which deployment answers.")],
    file_format: FormatOption = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="A name for the data that stays the same when it is scored again; the file's SHA-256 unless "
                     "given. Under one name nothing is booked twice."),
    ] = None,
    event_time: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%z"], help="When it happened, in UTC unless it has a zone; "
                     "for contracts that name no field for it."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where answers go; else standard output.")] = None,
    out_format: Annotated[AnswerFormat, typer.Option(help="How answers are written.")] = AnswerFormat.JSONL,
) -> None:  # fmt: skip
    """Score and book every row of a file. Running it again changes nothing and gives the same answers.

    Exits with 3 when any row was refused; the others are booked and answered all the same.
    """
    import trueup
    from trueup.doors.cli import files
    from trueup.doors.cli.settings import read_settings

    totals = _Totals()
    with (
        files.opened(file, format_of(file_format)) as source,
        trueup.connect(read_settings()) as up,
        _answers(out, out_format) as write,
        progress(source, "scoring") as tick,
    ):
        name = dataset or f"sha256:{source.digest}"
        for start, scores in _scored(up, deployment, source, name, event_time):
            for document in _documents(scores, start):
                write(document)
            totals.add(scores)
            tick()
    say(f"{totals.rows} rows: {totals.new} booked, {totals.repeated} booked before, {totals.refused} refused")
    if totals.refused:
        say("next: the refused rows are in the answers and in the view `refusals`, each with its reason")
        raise typer.Exit(BAD_INPUT)


def _scored(
    up: Trueup, deployment: str, source: Source, dataset: str, event_time: datetime | None
) -> Iterator[tuple[int, Scores]]:
    """Scores chunk by chunk, each committed before it is yielded; with the first row's number."""
    import numpy as np

    from trueup.doors.python import Batch
    from trueup.errors import InvalidQuery

    limits = up.services.settings.limits
    contract = up.services.scoring.resolve(deployment).contract
    if event_time is not None and contract.event_time:
        raise InvalidQuery(
            f"the contract takes the event time from the field {contract.event_time}",
            next_step="leave out --event-time",
        )

    def batches() -> Iterator[Batch]:
        for chunk in source.chunks(contract, limits):
            when = None if event_time is None else np.full(chunk.rows, _utc(event_time), "datetime64[us]")
            yield Batch.of(dataset, chunk.data, start=chunk.start, event_time=when)

    start = 0
    for scores in up.score_batches(deployment, batches()):
        yield start, scores
        start += len(scores)


def _utc(moment: datetime) -> datetime:
    from datetime import UTC

    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


class _Totals:
    def __init__(self) -> None:
        self.rows = self.new = self.repeated = self.refused = 0

    def add(self, scores: Scores) -> None:
        self.rows += len(scores)
        self.new += scores.new
        self.repeated += scores.repeated
        self.refused += len(scores.refused)


def _documents(scores: Scores, start: int) -> Iterator[dict[str, Any]]:
    """One document a row, in order; a refused row has its reason instead of an answer."""
    refused = {row: (str(reason), detail) for row, reason, detail in scores.refused}
    for i, answer in enumerate(scores.rows()):
        if i in refused:
            yield {"row": start + i, "refused": refused[i][0], "detail": refused[i][1]}
        else:
            yield {"row": start + i, **answer}


@contextmanager
def _answers(out: Path | None, kind: AnswerFormat) -> Iterator[Any]:
    """A function that writes one document. Raises InvalidFile when the file cannot be written."""
    if out is None:
        yield _writer(sys.stdout, kind)
        return
    from trueup.errors import InvalidFile

    try:
        file = out.open("w", encoding="utf-8", newline="")
    except OSError:
        raise InvalidFile(f"{out.name} cannot be written", next_step="name another file with --out") from None
    with file:
        yield _writer(file, kind)


def _writer(file: TextIO, kind: AnswerFormat) -> Any:
    if kind is AnswerFormat.JSONL:
        return lambda document: file.write(json_line(document) + "\n")
    table = csv.DictWriter(file, _COLUMNS, restval="", extrasaction="ignore")
    table.writeheader()
    return table.writerow
