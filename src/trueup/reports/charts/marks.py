"""The marks of each kind of chart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

from trueup.domain.report import ChartKind
from trueup.reports.charts.scales import Bands, Scale
from trueup.reports.charts.series import Drawn, Point, Series

# Apart in hue and in darkness, so that they stay apart in grey and for the colour-blind.
_COLOURS = ("#1f4e79", "#c7802b", "#3c8d71", "#8a3b5c", "#6f73b4", "#5d6b78", "#2c9fb3", "#a79a34")
_VERDICTS = {"ok": "#3c8d71", "drift": "#c7802b", "breach": "#a3324a", "broken": "#a3324a", "refused": "#a3324a"}
_HEAT_FROM, _HEAT_TO = (238, 243, 248), (20, 66, 110)
_DOTTED = 45  # a line of at most so many points has a dot on each


@dataclass(frozen=True, slots=True)
class Frame:
    """Where marks are placed, and how a figure is written in words."""

    x: Scale | Bands
    y: Scale | Bands
    left: float
    right: float
    top: float
    bottom: float
    tell: Callable[[float], str]

    def at_x(self, point: Point) -> float:
        """The place of a point."""
        return self.x(int(point.x)) if isinstance(self.x, Bands) else self.x(point.x)

    def at_y(self, value: float) -> float:
        """The place of a figure."""
        return self.y(int(value)) if isinstance(self.y, Bands) else self.y(value)


def add(parent: Xml.Element, name: str, **attributes: object) -> Xml.Element:
    """A new element within ``parent``; figures have one decimal, which is finer than any screen."""
    texts = {
        key.replace("_", "-"): f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
        for key, value in attributes.items()
    }
    return Xml.SubElement(parent, name, texts)


def colour(index: int, name: str = "") -> str:
    """The colour of a series by its place; what is good or bad by its name has that colour everywhere."""
    return _VERDICTS.get(name, _COLOURS[index % len(_COLOURS)])


def _lines(svg: Xml.Element, picture: Drawn, frame: Frame) -> None:
    for i, series in enumerate(picture.series):
        _band(svg, series, frame, i)
    for i, series in enumerate(picture.series):
        runs = _runs(series)
        path = " ".join(_path(run, frame) for run in runs)
        dashed = {"stroke_dasharray": "5 3"} if i >= len(_COLOURS) else {}
        if path:
            line = {"stroke": colour(i, series.name), "stroke_width": 1.8, "stroke_linejoin": "round", **dashed}
            add(svg, "path", d=path, fill="none", **line)
        lonely = {run[0] for run in runs if len(run) == 1}
        shown = series.points if len(series.points) <= _DOTTED else lonely
        _dots(svg, [p for p in shown if p.y is not None], series.name, frame, i, radius=2.6)


def _area(svg: Xml.Element, picture: Drawn, frame: Frame) -> None:
    base = frame.at_y(0)
    for i, series in enumerate(picture.series):
        for run in _runs(series):
            d = f"{_path(run, frame)} L {frame.at_x(run[-1]):.1f} {base:.1f} L {frame.at_x(run[0]):.1f} {base:.1f} Z"
            add(svg, "path", d=d, fill=colour(i, series.name), fill_opacity=0.18)
    _lines(svg, picture, frame)


def _bars(svg: Xml.Element, picture: Drawn, frame: Frame) -> None:
    step = frame.x.step if isinstance(frame.x, Bands) else 8.0
    width = min(step * 0.78 / max(len(picture.series), 1), 56.0)
    whole = width * len(picture.series)
    for i, series in enumerate(picture.series):
        for p in series.points:
            if p.y is not None:
                x = frame.at_x(p) - whole / 2 + i * width
                across = (x, max(width - (1.0 if width > 4 else 0.0), 0.6))
                _bar(svg, across, (0.0, p.y), frame, colour(i, series.name), series, p)


def _stacked(svg: Xml.Element, picture: Drawn, frame: Frame) -> None:
    step = frame.x.step if isinstance(frame.x, Bands) else 8.0
    width = min(step * 0.78, 56.0)
    tops: dict[tuple[float, bool], float] = {}
    for i, series in enumerate(picture.series):
        for p in series.points:
            if p.y:
                side = (p.x, p.y > 0)
                below = tops.get(side, 0.0)
                tops[side] = below + p.y
                across = (frame.at_x(p) - width / 2, width)
                _bar(svg, across, (below, below + p.y), frame, colour(i, series.name), series, p)


def _scatter(svg: Xml.Element, picture: Drawn, frame: Frame) -> None:
    for i, series in enumerate(picture.series):
        _whiskers(svg, series, frame, i)
        _dots(svg, [p for p in series.points if p.y is not None], series.name, frame, i, radius=3.6)


def _heat(svg: Xml.Element, picture: Drawn, frame: Frame) -> None:
    values = [p.y for s in picture.series for p in s.points if p.y is not None]
    low, high = (min(0.0, *values), max(values)) if values else (0.0, 1.0)
    wide = frame.x.step if isinstance(frame.x, Bands) else 8.0
    tall = frame.y.step if isinstance(frame.y, Bands) else 8.0
    for row, series in enumerate(picture.series):
        for p in series.points:
            if p.y is None:
                continue
            part = (p.y - low) / (high - low) if high > low else 0.5
            cell = {"x": frame.at_x(p) - wide / 2 + 0.5, "y": frame.at_y(row) - tall / 2 + 0.5}
            mark = add(svg, "rect", **cell, width=max(wide - 1, 0.6), height=tall - 1, fill=_shade(part))
            _told(mark, series.name, _x_name(p, frame), p.y, frame)


def _bar(
    svg: Xml.Element,
    across: tuple[float, float],
    between: tuple[float, float],
    frame: Frame,
    fill: str,
    series: Series,
    point: Point,
) -> None:
    ends = sorted(frame.at_y(value) for value in between)
    mark = add(svg, "rect", x=across[0], y=ends[0], width=across[1], height=max(ends[1] - ends[0], 0.4), fill=fill)
    _told(mark, series.name, _x_name(point, frame), between[1] - between[0], frame)


def _dots(svg: Xml.Element, points: list[Point], name: str, frame: Frame, index: int, *, radius: float) -> None:
    for p in points:
        if p.y is not None:
            mark = add(svg, "circle", cx=frame.at_x(p), cy=frame.at_y(p.y), r=radius, fill=colour(index, name))
            _told(mark, name, _x_name(p, frame), p.y, frame)


def _band(svg: Xml.Element, series: Series, frame: Frame, index: int) -> None:
    bounded = [p for p in series.points if p.low is not None and p.high is not None]
    if len(bounded) < 2:
        return
    upper = " L ".join(f"{frame.at_x(p):.1f} {frame.at_y(p.high or 0.0):.1f}" for p in bounded)
    lower = " L ".join(f"{frame.at_x(p):.1f} {frame.at_y(p.low or 0.0):.1f}" for p in reversed(bounded))
    add(svg, "path", d=f"M {upper} L {lower} Z", fill=colour(index, series.name), fill_opacity=0.14)


def _whiskers(svg: Xml.Element, series: Series, frame: Frame, index: int) -> None:
    for p in series.points:
        if p.low is not None and p.high is not None:
            x = frame.at_x(p)
            add(
                svg,
                "line",
                x1=x,
                x2=x,
                y1=frame.at_y(p.low),
                y2=frame.at_y(p.high),
                stroke=colour(index, series.name),
                stroke_width=1.2,
            )


def _runs(series: Series) -> list[list[Point]]:
    """The points between gaps."""
    runs: list[list[Point]] = [[]]
    for p in series.points:
        if p.y is None:
            runs.append([])
        else:
            runs[-1].append(p)
    return [run for run in runs if run]


def _path(run: list[Point], frame: Frame) -> str:
    return "M " + " L ".join(f"{frame.at_x(p):.1f} {frame.at_y(p.y or 0.0):.1f}" for p in run)


def _x_name(point: Point, frame: Frame) -> str:
    return frame.x.values[int(point.x)] if isinstance(frame.x, Bands) else ""


def _told(mark: Xml.Element, name: str, x: str, value: float, frame: Frame) -> None:
    """What a mark says to the pointer."""
    text = ", ".join(filter(None, (name, x))) + ": " + frame.tell(value)
    add(mark, "title").text = "".join(c for c in text if c >= " ")


def _shade(part: float) -> str:
    mixed = (round(a + (b - a) * part) for a, b in zip(_HEAT_FROM, _HEAT_TO, strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)


MARKS: dict[ChartKind, Callable[[Xml.Element, Drawn, Frame], None]] = {
    ChartKind.LINE: _lines,
    ChartKind.AREA: _area,
    ChartKind.BAR: _bars,
    ChartKind.STACKED: _stacked,
    ChartKind.SCATTER: _scatter,
    ChartKind.HEAT: _heat,
}
