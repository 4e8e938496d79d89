"""The report as one self-contained HTML page, its charts inline SVG."""

from __future__ import annotations

from html import escape
from typing import Any

from trueup_examples.exception_sla.foreseen import ASSUMPTIONS
from trueup_examples.showing import calibration, table
from trueup_examples.showing import page as whole_page

_LINES = {
    "predicted": ("said", "#8a63b5"),
    "base_rate": ("happened", "#b8860b"),
    "ece": ("calibration error (ECE)", "#c0392b"),
    "auc": ("AUC", "#1769aa"),
}
_SHOWN = ("week", "rows", "predicted", "base_rate", "ece", "auc", "brier", "top_precision", "top_caught",
          "delay_median_days", "maturity")  # fmt: skip
_FORESEEN = ("week", "figure", "estimated", "low", "high", "recalibrated", "realised", "as_foreseen", "maturity")
_SEGMENT = ("kind", "segment", "rows", "predicted", "happened")
_KNOWN = ("week", "weeks_after", "maturity", "base_rate", "ece")


def page(found: dict[str, Any]) -> str:
    """The page for the figures of ``figures.figures``."""
    overall = found["overall"]
    return whole_page(
        "Exception queue: which tickets will miss their SLA",
        f"{overall['rows_booked']:,} predictions booked, {overall['outcomes_joined']:,} trued up. "
        "Every figure is a query over the ledger.",
        [
            ("By week of opening", _lines(found["weeks"]) + table(found["weeks"], _SHOWN)),
            ("Calibration: said and happened", calibration(found["calibration"], "share that missed")),
            (
                "Foreseen without outcomes, and what came",
                f"<p>{escape(ASSUMPTIONS)}</p>" + table(found["foreseen"], _FORESEEN),
            ),
            ("The same weeks as they were known earlier", table(found["knowledge"], _KNOWN)),
            (
                "Where it is off most",
                table(found["segments"][:12], _SEGMENT),
            ),
        ],
    )


def _lines(weeks: list[dict[str, Any]]) -> str:
    """Shares between 0 and 1, a line each, the weeks from left to right."""
    width, height, left, floor = 900, 280, 40, 240
    step = (width - left - 60) / max(len(weeks) - 1, 1)
    parts = [
        f"<line x1={left} y1={_up(grid, floor):.1f} x2={width - 20} y2={_up(grid, floor):.1f} stroke='#8a97a3' "
        f"stroke-opacity='.3' /><text x=4 y={_up(grid, floor) + 4:.1f}>{grid:.0%}</text>"
        for grid in (0, 0.25, 0.5, 0.75)
    ]
    for i, (name, (title, colour)) in enumerate(_LINES.items()):
        points = [(left + j * step, _up(w[name], floor)) for j, w in enumerate(weeks) if w[name] is not None]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f"<polyline points='{drawn}' fill='none' stroke='{colour}' stroke-width='2.5' />")
        parts.append(f"<rect x={left + i * 190} y=4 width=10 height=10 fill='{colour}'></rect>")
        parts.append(f"<text x={left + 15 + i * 190} y=13>{title}</text>")
    for j, w in enumerate(weeks):
        parts.append(f"<text x={left - 20 + j * step:.1f} y={floor + 20}>{escape(w['week'])}</text>")
    return f"<svg viewBox='0 0 {width} {height}' role=img>{''.join(parts)}</svg>"


def _up(share: float, floor: int) -> float:
    return floor - share * (floor - 30)
