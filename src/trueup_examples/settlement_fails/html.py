"""The report as one self-contained HTML page, its charts inline SVG."""

from __future__ import annotations

from html import escape
from typing import Any

from trueup_examples.showing import calibration, table
from trueup_examples.showing import page as whole_page

_COLOURS = {"cost": "#1769aa", "probability": "#8a63b5", "balance": "#b8860b"}
_NAMES = {"cost": "by expected cost", "probability": "by probability", "balance": "by yesterday's balance"}
_SHOWN = ("month", "rows", "base_rate", "auc", "average_precision", "brier", "precision_by_cost", "maturity")


def page(found: dict[str, Any]) -> str:
    """The page for the figures of ``figures.figures``."""
    overall, months = found["overall"], found["months"]
    return whole_page(
        "Settlement fails",
        f"{overall['rows_booked']:,} predictions booked, {overall['outcomes_joined']:,} trued up. "
        "Every figure is a query over the ledger.",
        [
            ("Failing value in the daily top 200, USD bn", _bars(months)),
            ("Calibration: said and happened", calibration(found["calibration"], "share that failed")),
            ("By month", table(months, _SHOWN)),
        ],
    )


def _bars(months: list[dict[str, Any]]) -> str:
    width, height, floor = 900, 260, 220
    largest = max((m[f"caught_by_{k}"] or 0 for m in months for k in _COLOURS), default=0) or 1
    group = (width - 20) / max(len(months), 1)
    parts = []
    for i, m in enumerate(months):
        for j, kind in enumerate(_COLOURS):
            value = m[f"caught_by_{kind}"] or 0
            tall = value / largest * (floor - 30)
            x = 10 + i * group + j * group / 3.6
            parts.append(
                f"<rect x={x:.1f} y={floor - tall:.1f} width={group / 4:.1f} height={tall:.1f} fill='{_COLOURS[kind]}'>"
                f"<title>{escape(m['month'])} {_NAMES[kind]}: {value / 1e9:.2f}</title></rect>"
            )
        parts.append(f"<text x={10 + i * group:.1f} y={floor + 16}>{escape(m['month'])}</text>")
    for j, kind in enumerate(_COLOURS):
        parts.append(f"<rect x={10 + j * 190} y=4 width=10 height=10 fill='{_COLOURS[kind]}'></rect>")
        parts.append(f"<text x={25 + j * 190} y=13>{_NAMES[kind]}</text>")
    return f"<svg viewBox='0 0 {width} {height}' role=img>{''.join(parts)}</svg>"
