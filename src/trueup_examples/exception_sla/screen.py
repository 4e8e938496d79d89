"""What the demonstration shows: progress, the report in the terminal, as JSON and as HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

import trueup
from trueup_examples.exception_sla.figures import figures
from trueup_examples.exception_sla.html import page
from trueup_examples.exception_sla.replay import Totals
from trueup_examples.showing import Working, number, share

_STEPS = {"train": "training", "score": "scoring and booking"}


class Screen(Working):
    """Writes to standard error while working and to standard output at the end."""

    def __init__(self) -> None:
        super().__init__(_STEPS)

    def report(self, up: trueup.Trueup, totals: Totals, *, out: Path | None, html: Path | None) -> None:
        """Queries the ledger and shows the figures; writes them to ``out`` and ``html``."""
        with self.working.status("querying the ledger for the report"):
            found = figures(up)
        overall = found["overall"]
        self.result.print(_weeks(found["weeks"]))
        rate = f", {totals.scored / totals.score_s:,.0f} rows/s scored and booked" if totals.booked else ""
        self.result.print(
            f"{overall['rows_booked']:,} predictions booked ({totals.booked:,} new, {totals.repeated:,} repeated), "
            f"{overall['outcomes_joined']:,} outcomes joined, maturity {share(overall['maturity'])}, "
            f"said {share(overall['predicted'])}, happened {share(overall['base_rate'])}, "
            f"AUC {number(overall['auc'])}, label after {overall['delay_median_days']:.1f} days (median){rate}"
        )
        self.result.print(_foreseen(found["foreseen"]))
        for reason, rows in totals.dirty.items():
            self.result.print(f"{rows:,} row(s) of the log left out: {reason}")
        settings = up.services.settings
        target = html or settings.data_dir / "exception-sla.html"
        self.keep(found, page(found), html=target, out=out)
        self.result.print(
            "\nLook next at:\n"
            f"  trueup show {overall['example']}\n"
            "  trueup db psql            # then, for example: TABLE exception_sla_v1 LIMIT 5;\n"
            f"  {target}",
            soft_wrap=True,
            highlight=False,
        )


def _foreseen(rows: list[dict[str, Any]]) -> str:
    """What scores alone promised of the AUC, and what came, over the weeks."""
    auc = [r for r in rows if r["figure"] == "auc" and r["realised"] is not None and r["estimated"] is not None]
    if not auc:
        return "No week can be compared with what its scores promised."
    promised, came = (sorted(r[name] for r in auc) for name in ("estimated", "realised"))
    held = sum(bool(r["as_foreseen"]) for r in auc)
    return (
        f"By their scores alone (CBPE) the weeks' AUC was to be {number(promised[0])} to {number(promised[-1])}; "
        f"it came to {number(came[0])} to {number(came[-1])}, as foreseen in {held} of {len(auc)} weeks."
    )


def _weeks(weeks: list[dict[str, Any]]) -> Table:
    """A row a week, 80 characters wide."""
    table = Table(
        title="Tickets by week of opening: what the model said and what happened.\n"
        "P@10%: missed in the top tenth; caught: what of all missed is in it.",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for head in ("week", "rows", "said", "happened", "ECE", "AUC", "Brier", "P@10%", "caught", "delay", "mature"):
        table.add_column(head, justify="right", no_wrap=True)
    for w in weeks:
        delay = w["delay_median_days"]
        table.add_row(
            w["week"],
            f"{w['rows']:,}",
            share(w["predicted"]),
            share(w["base_rate"]),
            *(number(w[k]) for k in ("ece", "auc", "brier")),
            share(w["top_precision"]),
            share(w["top_caught"]),
            "-" if delay is None else f"{delay:.1f} d",
            share(w["maturity"]),
        )
    return table
