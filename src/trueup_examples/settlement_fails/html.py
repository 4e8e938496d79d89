"""The report as one self-contained HTML page, its charts inline SVG."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b2733;background:#fff}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .5rem;text-align:right;border-bottom:1px solid #dde3e9}th{font-weight:600}
svg{width:100%;height:auto;margin:.5rem 0 1.5rem}svg text{font:11px system-ui,sans-serif;fill:currentColor}
@media (prefers-color-scheme:dark){body{color:#dbe3ea;background:#14191f}td,th{border-color:#2c3742}}
"""
_COLOURS = {"cost": "#1769aa", "probability": "#8a63b5", "balance": "#b8860b"}
_NAMES = {"cost": "by expected cost", "probability": "by probability", "balance": "by yesterday's balance"}
_SHOWN = ("month", "rows", "base_rate", "auc", "average_precision", "brier", "precision_by_cost", "maturity")


def page(found: dict[str, Any]) -> str:
    """The page for the figures of ``figures.figures``."""
    overall, months = found["overall"], found["months"]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Settlement fails</title><style>{_STYLE}</style><h1>Settlement fails</h1>"
        f"<p>{overall['rows_booked']:,} predictions booked, {overall['outcomes_joined']:,} trued up. "
        "Every figure is a query over the ledger.</p>"
        "<h2>Failing value in the daily top 200, USD bn</h2>"
        + _bars(months)
        + "<h2>Calibration: said and happened</h2>"
        + _calibration(found["calibration"])
        + "<h2>By month</h2>"
        + _table(months)
        + "</html>\n"
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


def _calibration(bins: list[dict[str, Any]]) -> str:
    side = 320
    points = "".join(
        f"<circle cx={30 + b['predicted'] * (side - 50):.1f} cy={side - 30 - b['happened'] * (side - 50):.1f} r=5 "
        f"fill='#1769aa'><title>said {b['predicted']:.2f}, happened {b['happened']:.2f}, "
        f"{b['rows']:,} rows</title></circle>"
        for b in bins
    )
    line = f"<line x1=30 y1={side - 30} x2={side - 20} y2=20 stroke='#8a97a3' stroke-dasharray='4 4' />"
    labels = f"<text x=30 y={side - 8}>predicted probability</text><text x=4 y=14>share that failed</text>"
    return f"<svg viewBox='0 0 {side} {side}' style='max-width:24rem' role=img>{line}{points}{labels}</svg>"


def _table(months: list[dict[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name.replace('_', ' '))}" for name in _SHOWN)
    rows = "".join("<tr>" + "".join(f"<td>{_cell(m[name])}" for name in _SHOWN) for m in months)
    return f"<table><tr>{head}{rows}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value if value is not None else "-"))
