"""What the demonstration shows: progress, the report in the terminal, as JSON and as HTML."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import trueup
from trueup_examples.settlement_fails.figures import figures
from trueup_examples.settlement_fails.html import page
from trueup_examples.settlement_fails.replay import Progress as Report
from trueup_examples.settlement_fails.replay import Totals

_STEPS = {"learn": "reading history", "train": "training", "score": "scoring and booking"}


class Screen:
    """Writes to standard error while working and to standard output at the end."""

    def __init__(self) -> None:
        self._working = Console(stderr=True)
        self._result = Console()

    def say(self, text: str) -> None:
        """One line about what is going on."""
        self._working.print(text)

    @contextmanager
    def progress(self) -> Iterator[Report]:
        """A bar over all files; yields what the replay reports to."""
        columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._working) as bar:
            task = bar.add_task("reading history", total=None)

            def show(step: str, done: int, total: int) -> None:
                known = {"completed": done, "total": total} if total else {}
                bar.update(task, description=_STEPS[step], **known)  # type: ignore[arg-type]

            yield show

    def report(self, up: trueup.Trueup, totals: Totals, *, out: Path | None, html: Path | None) -> None:
        """Queries the ledger and shows the figures; writes them to ``out`` and ``html``."""
        found = figures(up)
        overall = found["overall"]
        self._result.print(_months(found["months"]))
        rate = totals.scored / totals.score_s if totals.score_s else 0
        self._result.print(
            f"{overall['rows_booked']:,} predictions booked ({totals.booked:,} new, {totals.repeated:,} repeated), "
            f"{overall['outcomes_joined']:,} outcomes joined, maturity {_share(overall['maturity'])}, "
            f"AUC {_number(overall['auc'])}, Brier {_number(overall['brier'])}, "
            f"{rate:,.0f} rows/s scored and booked"
        )
        for reason, lines in totals.dirty.items():
            self._result.print(f"{lines:,} line(s) of the files left out: {reason}")
        target = html or up.services.settings.data_dir / "settlement-fails.html"
        target.write_text(page(found), encoding="utf-8")
        if out is not None:
            out.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
        self._result.print(
            "\nLook next at:\n"
            f"  trueup show {overall['example']}\n"
            "  trueup db psql            # then, for example: TABLE settlement_fails_v1 LIMIT 5;\n"
            "  trueup up                 # the API, with its documentation at /docs\n"
            f"  {target}",
            soft_wrap=True,
            highlight=False,
        )


def _months(months: list[dict[str, Any]]) -> Table:
    table = Table(title="Settlement fails, replayed in order of publication", title_justify="left")
    heads = ("month", "rows", "base", "AUC", "AP", "Brier", "P@200 cost", "prob.", "balance")
    for head in (*heads, "USD bn caught cost", "prob.", "balance", "maturity"):
        table.add_column(head, justify="right", overflow="fold")
    for m in months:
        table.add_row(
            m["month"],
            f"{m['rows']:,}",
            _share(m["base_rate"]),
            *(_number(m[k]) for k in ("auc", "average_precision", "brier")),
            *(_share(m[f"precision_by_{k}"]) for k in ("cost", "probability", "balance")),
            *(_billions(m[f"caught_by_{k}"]) for k in ("cost", "probability", "balance")),
            _share(m["maturity"]),
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _billions(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.2f}"
