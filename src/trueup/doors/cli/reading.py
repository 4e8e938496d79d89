"""What commands that read files share: the option for the format, and the bar that shows how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from trueup.doors.cli.files import Format, Source


class InputFormat(StrEnum):
    """The formats of :class:`trueup.doors.cli.files.Format`, repeated here so that help loads nothing."""

    CSV = "csv"
    PARQUET = "parquet"
    JSONL = "jsonl"


FormatOption = Annotated[InputFormat | None, typer.Option("--format", help="The file's format, if its suffix lies.")]


def format_of(wanted: InputFormat | None) -> Format | None:
    """The format as the reader of files knows it."""
    from trueup.doors.cli.files import Format

    return None if wanted is None else Format(wanted.value)


@contextmanager
def progress(source: Source, what: str) -> Iterator[Any]:
    """A function to call after each chunk; the bar is on standard error and only at a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar: Progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task(what, total=source.size)
        yield lambda: bar.update(task, completed=source.done())
