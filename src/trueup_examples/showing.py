"""What the demonstrations show with: progress while working, and the parts of a self-contained HTML page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b2733;background:#fff}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .5rem;text-align:right;border-bottom:1px solid #dde3e9}td{white-space:nowrap}th{font-weight:600}
svg{width:100%;height:auto;margin:.5rem 0 1.5rem}svg text{font:11px system-ui,sans-serif;fill:currentColor}
@media (prefers-color-scheme:dark){body{color:#dbe3ea;background:#14191f}td,th{border-color:#2c3742}}
"""


class Working:
    """Writes to standard error while working; ``result`` is standard output."""

    def __init__(self, steps: Mapping[str, str]) -> None:
        self._began = time.monotonic()
        self._steps = steps
        self.working = Console(stderr=True)
        self.result = Console()

    def say(self, text: str) -> None:
        """One line about what is going on."""
        self.working.print(text, soft_wrap=True)

    def first_booked(self, prediction: UUID) -> None:
        """The ledger holds its first prediction of this run."""
        self.say(f"First prediction booked after {time.monotonic() - self._began:.1f} s: trueup show {prediction}")

    def keep(self, found: Mapping[str, Any], page: str, *, html: Path, out: Path | None) -> None:
        """Writes the page, and the figures as JSON where that is asked for."""
        html.write_text(page, encoding="utf-8")
        if out is not None:
            out.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """A bar; yields what the replay reports to: step, done, total."""
        columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.working) as bar:
            task = bar.add_task("reading history", total=None)

            def show(step: str, done: int, total: int) -> None:
                known = {"completed": done, "total": total} if total else {}
                bar.update(task, description=self._steps[step], **known)  # type: ignore[arg-type]

            yield show


def number(value: float | None) -> str:
    """Three digits after the point."""
    return "-" if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    """Whole per cent."""
    return "-" if value is None else f"{value:.0%}"


def page(title: str, intro: str, parts: Sequence[tuple[str, str]]) -> str:
    """A whole page: its title, a sentence, and sections (heading, HTML)."""
    sections = "".join(f"<h2>{escape(heading)}</h2>{body}" for heading, body in parts)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>"
        f"<p>{escape(intro)}</p>{sections}</html>\n"
    )


def calibration(bins: Sequence[Mapping[str, Any]], happened: str) -> str:
    """A reliability diagram of bins with ``predicted``, ``happened`` and ``rows``."""
    side = 320
    points = "".join(
        f"<circle cx={30 + b['predicted'] * (side - 50):.1f} cy={side - 30 - b['happened'] * (side - 50):.1f} r=5 "
        f"fill='#1769aa'><title>said {b['predicted']:.2f}, happened {b['happened']:.2f}, "
        f"{b['rows']:,} rows</title></circle>"
        for b in bins
    )
    line = f"<line x1=30 y1={side - 30} x2={side - 20} y2=20 stroke='#8a97a3' stroke-dasharray='4 4' />"
    labels = f"<text x=30 y={side - 8}>predicted probability</text><text x=4 y=14>{escape(happened)}</text>"
    return f"<svg viewBox='0 0 {side} {side}' style='max-width:24rem' role=img>{line}{points}{labels}</svg>"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The named columns of the rows."""
    head = "".join(f"<th>{escape(name.replace('_', ' '))}" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(row[name])}" for name in columns) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value if value is not None else "-"))
