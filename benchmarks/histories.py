"""Pictures of the two demonstrations' histories, for the documentation, from what ``trueup demo --out`` wrote.

python benchmarks/histories.py settlement figures.json docs/images
python benchmarks/histories.py queue queue.json docs/images
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from trueup.domain.report import CellKind, Chart, ChartKind, Column, FigureFormat, Result, Shown
from trueup.reports.charts.drawing import pictures

_KINDS = {str: CellKind.TEXT, int: CellKind.INTEGER, float: CellKind.NUMBER}


def settlement(found: dict[str, Any], folder: Path) -> None:
    """Maturity of each half-month when it was first measured and at last; features that had drifted."""
    first, last = _ends(found["half_months"])
    known = [
        {"half-month": row["first"], "known": when, "maturity": row["maturity"]}
        for when, rows in (("when first measured", first), ("at last", last))
        for row in rows
    ]
    _draw(folder / "settlement-maturity.svg", known, Chart("maturity", ChartKind.BAR, "half-month", ("maturity",),
          series="known", title="Share of the outcomes due that were known"))  # fmt: skip
    drifted = [{"half-month": row["first"], "features": row["drifted_features"]} for row in last]
    _draw(folder / "settlement-drift.svg", drifted, Chart("drift", ChartKind.BAR, "half-month", ("features",),
          title="Features that had drifted from the training data"))  # fmt: skip


def queue(found: dict[str, Any], folder: Path) -> None:
    """What was said and what happened, by probability and by week; what CBPE expected."""
    calibration = [{"said": row["predicted"], "happened": row["happened"]} for row in found["calibration"]]
    _draw(folder / "queue-calibration.svg", calibration, Chart("calibration", ChartKind.LINE, "said", ("happened",),
          diagonal=True, title="Share missed, by what was said"))  # fmt: skip
    weeks = [
        {"week": row["week"], "line": line, "AUC": row[column]}
        for row in found["foreseen"]
        if row["figure"] == "auc"
        for line, column in (("estimated by CBPE", "estimated"), ("realised", "realised"))
    ]
    _draw(folder / "queue-foreseen.svg", weeks, Chart("foreseen", ChartKind.LINE, "week", ("AUC",), series="line",
          title="AUC by week of opening, as estimated and as it came"))  # fmt: skip


def _ends(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of each window the first figure that was known, and the last."""
    by_window: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["known_on"]):
        by_window.setdefault(row["first"], []).append(row)
    windows = sorted(by_window)
    return [by_window[one][0] for one in windows], [by_window[one][-1] for one in windows]


def _draw(path: Path, rows: list[dict[str, Any]], chart: Chart) -> None:
    columns = tuple(Column(name, _kind(rows, name)) for name in rows[0])
    result = Result(chart.query, chart.title, "", columns, tuple(tuple(row.values()) for row in rows))
    shown = {name: Shown(FigureFormat.SHARE) for name in ("maturity", "said", "happened")}
    (one,) = pictures(chart, result, shown, path.stem)
    svg = Xml.fromstring(one.svg)
    _, _, width, height = svg.attrib["viewBox"].split()
    svg.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "width": width, "height": height}
    svg.insert(0, Xml.Element("rect", {"width": width, "height": height, "fill": "#fff"}))
    path.write_text(Xml.tostring(svg, encoding="unicode") + "\n", encoding="utf-8")


def _kind(rows: list[dict[str, Any]], name: str) -> CellKind:
    value = next(row[name] for row in rows if row[name] is not None)
    is_day = isinstance(value, str) and len(value) == 10 and value[4] == value[7] == "-"
    return CellKind.DATE if is_day else _KINDS[type(value)]


if __name__ == "__main__":
    which, file, folder = sys.argv[1:]
    {"settlement": settlement, "queue": queue}[which](json.loads(Path(file).read_text()), Path(folder))
