"""What the demonstration shows: progress, the report in the terminal, as JSON and as HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

import trueup
from trueup_examples.settlement_fails.figures import figures
from trueup_examples.settlement_fails.html import page
from trueup_examples.settlement_fails.replay import Totals
from trueup_examples.showing import Working, number, share

_STEPS = {"learn": "reading history", "train": "training", "score": "scoring and booking", "measure": "measuring"}


class Screen(Working):
    """Writes to standard error while working and to standard output at the end."""

    def __init__(self) -> None:
        super().__init__(_STEPS)

    def report(self, up: trueup.Trueup, totals: Totals, *, out: Path | None, html: Path | None) -> None:
        """Queries the ledger and shows the figures; writes them to ``out`` and ``html``."""
        with self.working.status("querying the ledger for the report"):
            found = figures(up)
        overall = found["overall"]
        self.result.print(_months(found["months"]))
        rate = f", {totals.scored / totals.score_s:,.0f} rows/s scored and booked" if totals.booked else ""
        self.result.print(
            f"{overall['rows_booked']:,} predictions booked ({totals.booked:,} new, {totals.repeated:,} repeated), "
            f"{overall['outcomes_joined']:,} outcomes joined, maturity {share(overall['maturity'])}, "
            f"AUC {number(overall['auc'])}, Brier {number(overall['brier'])}{rate}"
        )
        self.result.print(_half_months(found["half_months"]))
        self.result.print(_alerts(found["alerts"]))
        for reason, lines in totals.dirty.items():
            self.result.print(f"{lines:,} line(s) of the files left out: {reason}")
        settings = up.services.settings
        target = html or settings.data_dir / "settlement-fails.html"
        self.keep(found, page(found), html=target, out=out)
        self.result.print(
            "\nLook next at:\n"
            f"  trueup show {overall['example']}\n"
            "  trueup db psql            # then, for example: TABLE settlement_fails_v1 LIMIT 5;\n"
            f"  trueup up                 # then the API is at http://{settings.host}:{settings.port}/docs\n"
            f"  {target}",
            soft_wrap=True,
            highlight=False,
        )


def _months(months: list[dict[str, Any]]) -> Table:
    """A row a month, 80 characters wide. P and $ are of the daily top 200, by each ranking."""
    table = Table(
        title="Settlement fails by month. P@ and $ bn: precision and failing value in the\n"
        "daily top 200, ranked by expected cost, probability and yesterday's balance.",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    heads = ("month", "rows", "base", "AUC", "AP", "Brier", "P@\ncost", "P@\nprob", "P@\nbal.")
    for head in (*heads, "$ bn\ncost", "$ bn\nprob", "$ bn\nbal.", "mature"):
        table.add_column(head, justify="right", no_wrap=True)
    for m in months:
        table.add_row(
            m["month"],
            f"{m['rows']:,}",
            share(m["base_rate"]),
            *(number(m[k]) for k in ("auc", "average_precision", "brier")),
            *(share(m[f"precision_by_{k}"]) for k in ("cost", "probability", "balance")),
            *(_billions(m[f"caught_by_{k}"]) for k in ("cost", "probability", "balance")),
            share(m["maturity"]),
        )
    return table


def _billions(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.2f}"


def _half_months(rows: list[dict[str, Any]]) -> Table:
    """What was known when: a row a half-month and publication that told something of it."""
    table = Table(
        title="Half-months as they became known. Before they are mature figures are\n"
        "provisional (prov.): low and high are then what outcomes to come leave open.\n"
        "CBPE is the AUC by scores alone; PSI is of the scores; drifted are features.",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for head in ("from", "known on", "mature", "AUC", "low", "high", "CBPE", "ECE", "PSI", "drifted", ""):
        table.add_column(head, justify="right", no_wrap=True)
    for r in rows:
        table.add_row(
            r["first"][2:],
            r["known_on"][2:],
            share(r["maturity"]),
            *(number(r[k]) for k in ("auc", "auc_low", "auc_high", "estimated_auc", "ece", "score_psi")),
            str(r["drifted_features"]),
            "prov." if r["verdict"] == "provisional" else "",
        )
    return table


def _alerts(lives: list[dict[str, Any]]) -> Table | str:
    """What would have been raised, evaluated day by day over the history."""
    if not lives:
        return "No alert would have been raised."
    table = Table(title="Alerts that this history raises", title_justify="left", box=None, padding=(0, 1, 0, 0),
                  pad_edge=False)  # fmt: skip
    for head in ("alert", "of", "fired", "ended", "value"):
        table.add_column(head, no_wrap=True)
    for one in lives:
        ended = "lasts" if one["ended"] is None else f"{one['ended']:%Y-%m-%d}"
        table.add_row(one["alert"], one["of"], f"{one['fired']:%Y-%m-%d}", ended, number(one["value"]))
    return table
