"""A chart as SVG: frame, axes, grid, legend, and what is read aloud in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

from trueup.domain.report import CellKind, Chart, ChartKind, Result, Shown
from trueup.reports.charts.marks import MARKS, Frame, add, colour
from trueup.reports.charts.scales import Bands, Scale, linear, moments
from trueup.reports.charts.series import Drawn, drawn
from trueup.reports.writing import short, writer

_CHAR = 6.0  # width of a character of a label, about
_WIDE, _HALF, _SMALL = (1000.0, 290.0), (440.0, 215.0), (330.0, 185.0)
_LINE = 18.0
_GRID, _BASE, _INK = "#e4eaf0", "#9aa8b5", "#44525f"
_FONT = {"font_family": "Inter, Segoe UI, Helvetica Neue, Arial, Liberation Sans, sans-serif", "font_size": 11}
_MAX_LABEL = 26
_HEAT_ROW = 24.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One SVG, and the facet it is of."""

    svg: str
    facet: str


def pictures(
    chart: Chart, result: Result, columns: Mapping[str, Shown], identity: str, *, is_alone: bool = True
) -> list[Picture]:
    """The chart's pictures; ``identity`` begins the ids within them. None where there are no rows.

    ``columns`` is how columns are shown; ``is_alone``: no other chart stands beside it. Raises InvalidQuery where the
    rows do not fit the chart.
    """
    found = drawn(chart, result)
    size = _SMALL if len(found) > 1 else _WIDE if is_alone or chart.kind is ChartKind.HEAT else _HALF
    if chart.diagonal:
        size = (size[0], size[0] * 0.8) if size is _SMALL else (_HALF[0], _HALF[0] * 0.8)
    shown = columns.get(chart.y[0], Shown())
    tell = writer(
        result.columns[result.place(chart.y[0])], shown, [row[result.place(chart.y[0])] for row in result.rows]
    )
    return [
        Picture(_picture(chart, one, shown, f"{identity}-{i}", size, tell), one.facet)
        for i, one in enumerate(found)
        if one.series
    ]


def _picture(
    chart: Chart, picture: Drawn, shown: Shown, identity: str, size: tuple[float, float], tell: Callable[[float], str]
) -> str:
    width, height = size
    if chart.kind is ChartKind.HEAT:
        height = 60 + _HEAT_ROW * len(picture.series)
    svg = Xml.Element("svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img"})
    svg.set("aria-labelledby", f"{identity}-t {identity}-d")
    title = add(svg, "title", id=f"{identity}-t")
    title.text = _clean(" – ".join(filter(None, (chart.title or chart.query, picture.facet))))
    add(svg, "desc", id=f"{identity}-d").text = _clean(_described(chart, picture, tell))
    top = _legend(svg, chart, picture, width)
    frame = _frame(svg, chart, picture, shown, (width, height, top), tell)
    MARKS[chart.kind](svg, picture, frame)
    return Xml.tostring(svg, encoding="unicode")


def _frame(
    svg: Xml.Element,
    chart: Chart,
    picture: Drawn,
    shown: Shown,
    room: tuple[float, float, float],
    tell: Callable[[float], str],
) -> Frame:
    width, height, top = room
    bottom = height - 26
    y, left = _y_axis(chart, picture, shown, bottom, top)
    x: Scale | Bands
    right = width - 14
    if picture.categories is not None:
        x = Bands(picture.categories, left, right)
    else:
        values = [p.x for s in picture.series for p in s.points]
        is_time = picture.x_kind in (CellKind.DATE, CellKind.TIMESTAMP)
        x = (
            moments(values, left + 6, right - 6)
            if is_time
            else linear(
                values, left + 6, right - 6, lambda v: short(v, shown.format if chart.diagonal else None), zero=False
            )
        )
    frame = Frame(x, y, left, right, top, bottom, tell)
    _axes(svg, frame, chart)
    return frame


def _y_axis(chart: Chart, picture: Drawn, shown: Shown, bottom: float, top: float) -> tuple[Scale | Bands, float]:
    """The scale, and where its labels end."""
    if chart.kind is ChartKind.HEAT:
        names = tuple(s.name for s in picture.series)
        return Bands(names, top, bottom), 12 + _width(max(names, key=len, default=""))
    values = _extent(chart, picture)
    zero = chart.kind in (ChartKind.BAR, ChartKind.STACKED, ChartKind.AREA)
    y = linear(values, bottom, top, lambda v: short(v, shown.format), zero=zero)
    return y, 12 + max(_width(tick.label) for tick in y.ticks)


def _extent(chart: Chart, picture: Drawn) -> list[float]:
    if chart.kind is ChartKind.STACKED:
        sums: dict[tuple[float, bool], float] = {}
        for series in picture.series:
            for p in series.points:
                sums[p.x, (p.y or 0) >= 0] = sums.get((p.x, (p.y or 0) >= 0), 0.0) + (p.y or 0.0)
        return list(sums.values())
    points = [p for s in picture.series for p in s.points]
    found = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    return found + ([p.x for p in points] if chart.diagonal and picture.categories is None else [])


def _axes(svg: Xml.Element, frame: Frame, chart: Chart) -> None:
    grid = add(svg, "g", stroke=_GRID)
    labels = add(svg, "g", fill=_INK, **_FONT)
    if isinstance(frame.y, Scale):
        for tick in frame.y.ticks:
            at = frame.y(tick.value)
            is_base = tick.value == 0 or tick is frame.y.ticks[0]
            add(grid, "line", x1=frame.left, x2=frame.right, y1=at, y2=at, **({"stroke": _BASE} if is_base else {}))
            _label(labels, tick.label, frame.left - 6, at + 3.5, "end")
    else:
        for i, name in enumerate(frame.y.values):
            _label(labels, name, frame.left - 6, frame.y(i) + 3.5, "end")
    if isinstance(frame.x, Scale):
        for tick in frame.x.ticks:
            at = frame.x(tick.value)
            add(grid, "line", x1=at, x2=at, y1=frame.bottom, y2=frame.bottom + 4, stroke=_BASE)
            _label(labels, tick.label, at, frame.bottom + 17, "middle")
    else:
        for i in frame.x.shown(_width):
            _label(labels, frame.x.values[i], frame.x(i), frame.bottom + 17, "middle")
    if chart.diagonal and isinstance(frame.x, Scale) and isinstance(frame.y, Scale):
        low, high = max(frame.x.low, frame.y.low), min(frame.x.high, frame.y.high)
        ends = {"x1": frame.x(low), "y1": frame.y(low), "x2": frame.x(high), "y2": frame.y(high)}
        add(grid, "line", **ends, stroke=_BASE, stroke_dasharray="4 4")


def _legend(svg: Xml.Element, chart: Chart, picture: Drawn, width: float) -> float:
    """Names of the lines above them, where there are several; returns where the picture begins."""
    names = [s.name for s in picture.series]
    if chart.kind is ChartKind.HEAT or (len(names) < 2 and not picture.left_out):
        return 12.0
    group = add(svg, "g", fill=_INK, **_FONT)
    x, y = 8.0, 12.0
    for i, name in enumerate(names):
        if x > 8 and x + 20 + _width(name) > width:
            x, y = 8.0, y + _LINE
        add(group, "rect", x=x, y=y - 8, width=10, height=10, rx=2, fill=colour(i, name))
        _label(group, name, x + 15, y + 1, "start")
        x += 32 + _width(name)
    if picture.left_out:
        _label(group, f"and {picture.left_out} more", x, y + 1, "start")
    return y + _LINE


def _label(parent: Xml.Element, text: str, x: float, y: float, anchor: str) -> None:
    label = add(parent, "text", x=x, y=y, **{"text-anchor": anchor})
    text = _clean(text)
    label.text = text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"


def _width(text: str) -> float:
    return _CHAR * min(len(text), _MAX_LABEL)


def _described(chart: Chart, picture: Drawn, tell: Callable[[float], str]) -> str:
    """The picture in a sentence a line, for who does not see it."""
    said = [f"{chart.kind} chart of {', '.join(chart.y)} by {chart.x}."]
    for series in picture.series:
        values = [p.y for p in series.points if p.y is not None]
        if values:
            said.append(
                f"{series.name}: {len(values)} values, first {tell(values[0])}, last {tell(values[-1])}, "
                f"smallest {tell(min(values))}, largest {tell(max(values))}."
            )
    return " ".join(said).replace("_", " ")


def _clean(text: str) -> str:
    """Without control characters, which XML cannot hold."""
    return "".join(c for c in text if c >= " " and c not in "\x7f\ufffe\uffff")
