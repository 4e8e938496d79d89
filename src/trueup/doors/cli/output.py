"""What commands print: tables for people, JSON for programs, both on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_UNSAFE = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def say(text: str) -> None:
    """A line for the person at the terminal, on standard error."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """One JSON document. NaN becomes null; ids, days and moments become text."""
    json.dump(_finite(value), sys.stdout, default=_plain, ensure_ascii=False, indent=None if is_long(value) else 2)
    sys.stdout.write("\n")


def is_long(value: Any) -> bool:
    """Whether the value is a list too long to be read by a person."""
    return isinstance(value, list) and len(value) > 100


def json_line(value: Any) -> str:
    """One JSON value on one line."""
    return json.dumps(_finite(value), default=_plain, ensure_ascii=False)


def print_table(rows: Sequence[Mapping[str, Any]], *, columns: Iterable[str], title: str = "") -> None:
    """A table of the named columns. Texts are shown as they are, without the terminal's control codes."""
    from rich.console import Console
    from rich.table import Table

    wanted = list(columns)
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for name in wanted:
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=name.endswith("_id"))
    for row in rows:
        table.add_row(*(cell(row.get(name)) for name in wanted))
    console = Console()
    if console.width < 60 or not console.is_terminal:
        console = Console(width=max(console.width, 160))
    console.print(table, markup=False, highlight=False)


def cell(value: Any) -> Any:
    """One value as text for a terminal."""
    from rich.text import Text

    if value is None:
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(f"{value:.6g}", justify="right")
    if isinstance(value, datetime):
        return Text(value.strftime("%Y-%m-%d %H:%M:%S"))
    return Text(printable(str(value)))


def printable(text: str) -> str:
    """The text without control characters, which could rewrite what the terminal shows."""
    return text.translate(_UNSAFE)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
