"""The report's charts, as inline SVG: text stays text, colours follow the page, print stays sharp.

Colours are those of Okabe and Ito (2008), which most colour-blind people tell apart; a marker's shape says
the same again. Colours and fonts are given by the page's style sheet, by class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

WIDTH = 720
LEFT, RIGHT, TOP, BOTTOM = 58, 118, 14, 42
ROW = 19
COLOURS = 7
"""Classes c0 to c6 of the style sheet; a further series begins again with another marker."""

Value = float | None


@dataclass(frozen=True)
class Series:
    """A line of a chart: one value for each x, None where there is none; `strong` for a mean."""

    name: str
    values: tuple[Value, ...]
    strong: bool = False


@dataclass(frozen=True)
class Dots:
    """A row of a dot chart: a value for each case."""

    name: str
    values: tuple[float, ...]
    strong: bool = False


@dataclass(frozen=True)
class _Frame:
    """Data to pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int

    def at_x(self, value: float) -> float:
        low, high = self.x
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    def at_y(self, value: float) -> float:
        low, high = self.y
        return self.height - BOTTOM - (value - low) / ((high - low) or 1) * (self.height - TOP - BOTTOM)


def line_chart(
    series: Sequence[Series], *, first_x: int, x_label: str, y_label: str, summary: str, height: int = 270
) -> Markup:
    """Lines over rounds, each named at its end.

    Args:
        series: all of one length; a gap where a value is None.
        first_x: x of the first value.
        x_label: with its unit.
        y_label: with its unit.
        summary: what the chart shows, for those who do not see it.
        height: of the chart, pixels.
    """
    values = [value for line in series for value in line.values if value is not None]
    if not values:
        return Markup("")
    last_x = first_x + max(len(line.values) for line in series) - 1
    y_ticks = _ticks(min(0.0, *values), max(values), 5)
    frame = _Frame((first_x, max(last_x, first_x + 1)), (y_ticks[0], y_ticks[-1]), height)
    body = [*_grid(frame, y_ticks, _whole_ticks(first_x, last_x), x_label=x_label, y_label=y_label)]
    for index, line in enumerate(series):
        body += _line(frame, line, index, first_x=first_x)
    body += _end_names(frame, series)
    return _svg(body, height, summary)


def dot_chart(groups: Mapping[str, Sequence[Dots]], *, x_label: str, summary: str) -> Markup:
    """Rows of dots in groups: a dot for each case, a bar at their mean; x from 0 to 1."""
    rows = sum(len(group) for group in groups.values())
    height = TOP + BOTTOM + rows * ROW + len(groups) * (ROW + 4)
    frame = _Frame((0, 1), (0, 1), height)
    body = [*_grid(frame, (), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), x_label=x_label, y_label="", left=LEFT + 40)]
    y = float(TOP)
    for name, group in groups.items():
        y += ROW + 4
        body.append(_text(4, y - 6, name, "group"))
        for index, dots in enumerate(group):
            body += _dots_row(dots, y + ROW / 2 - 2, index)
            y += ROW
    return _svg(body, height, summary)


def _dots_row(dots: Dots, y: float, index: int) -> Iterator[Markup]:
    def at(value: float) -> float:
        return LEFT + 40 + value * (WIDTH - LEFT - 40 - RIGHT)

    yield _text(LEFT + 30, y + 4, dots.name, "end strong" if dots.strong else "end")
    yield Markup('<path class="rule" d="M{:.1f} {:.1f}H{:.1f}"/>').format(at(0), y, at(1))
    mean = fmean(dots.values) if dots.values else None
    if mean is not None and len(dots.values) > 1:
        yield Markup('<path class="mean" d="M{:.1f} {:.1f}v{:.1f}"/>').format(at(mean), y - 7, 14)
    for number, value in enumerate(dots.values, start=1):
        yield _marker(at(value), y, index, f"{dots.name}, test case {number}: {value:.3f}")
    if mean is not None:
        yield _text(WIDTH - RIGHT + 14, y + 4, f"{mean:.3f}", "strong" if dots.strong else "")


def _grid(
    frame: _Frame,
    y_ticks: Sequence[float],
    x_ticks: Sequence[float],
    *,
    x_label: str,
    y_label: str,
    left: float = LEFT,
) -> Iterator[Markup]:
    bottom, right = frame.height - BOTTOM, WIDTH - RIGHT
    low, high = frame.x
    for tick in y_ticks:
        yield Markup('<path class="rule" d="M{} {:.1f}H{}"/>').format(left, frame.at_y(tick), right)
        yield _text(left - 8, frame.at_y(tick) + 4, f"{tick:g}", "end")
    for tick in x_ticks:
        x = left + (tick - low) / (high - low) * (right - left)
        yield Markup('<path class="rule" d="M{:.1f} {}V{}"/>').format(
            x, bottom, TOP if not y_ticks else bottom + 5
        )
        yield _text(x, bottom + 18, f"{tick:g}", "middle")
    yield _text((left + right) / 2, frame.height - 6, x_label, "middle label")
    if y_label:
        middle = (TOP + bottom) / 2
        turned = Markup('<g transform="translate(14 {:.1f}) rotate(-90)">{}</g>')
        yield turned.format(middle, _text(0, 0, y_label, "middle label"))


def _line(frame: _Frame, line: Series, index: int, *, first_x: int) -> Iterator[Markup]:
    points = [
        (frame.at_x(first_x + place), frame.at_y(value), first_x + place, value)
        for place, value in enumerate(line.values)
        if value is not None
    ]
    known = {place for place, value in enumerate(line.values) if value is not None}
    path = ""
    for x, y, number, _ in points:
        joined = (number - first_x - 1) in known
        path += f"{'L' if joined else 'M'}{x:.1f} {y:.1f}"
    kind = "line mean" if line.strong else f"line c{index % COLOURS}"
    yield Markup('<path class="{}" d="{}"/>').format(kind, path)
    if not line.strong:
        for x, y, number, value in points:
            yield _marker(x, y, index, f"{line.name}, round {number}: {value:.3g}")


def _end_names(frame: _Frame, series: Sequence[Series]) -> Iterator[Markup]:
    """Names at the lines' ends, moved apart where they would lie on each other."""
    ends = []
    for index, line in enumerate(series):
        known = [value for value in line.values if value is not None]
        if known:
            ends.append((frame.at_y(known[-1]), index, line))
    lowest = -1e9
    for y, index, line in sorted(ends, key=lambda end: end[0]):
        lowest = max(y, lowest + 15)
        x = WIDTH - RIGHT + 14
        if not line.strong:
            yield _marker(x, lowest, index, line.name)
        yield _text(x + 9, lowest + 4, line.name, "strong" if line.strong else "")


def _marker(x: float, y: float, index: int, words: str) -> Markup:
    """A small sign with a tooltip; four shapes in turn."""
    shapes: tuple[Callable[[float, float], str], ...] = (
        lambda x, y: f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        lambda x, y: f"M{x - 3.5:.1f} {y - 3.5:.1f}h7v7h-7z",
        lambda x, y: f"M{x:.1f} {y - 4.8:.1f}l4.6 8h-9.2z",
        lambda x, y: f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
    )
    drawn = shapes[index % len(shapes)](x, y)
    mark = Markup('<path class="mark c{}" d="{}"><title>{}</title></path>')
    return mark.format(index % COLOURS, drawn, words)


def _text(x: float, y: float, words: str, kind: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, kind, words)


def _svg(body: Sequence[Markup], height: int, summary: str) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return head.format(WIDTH, height, summary) + Markup("").join(body) + Markup("</svg>")


def _ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    if high <= low:
        high = low + 1
    return tuple(float(tick) for tick in MaxNLocator(nbins=count).tick_values(low, high))


def _whole_ticks(first: int, last: int) -> tuple[float, ...]:
    ticks = MaxNLocator(nbins=10, integer=True).tick_values(first, max(last, first + 1))
    return tuple(float(tick) for tick in ticks if first <= tick <= max(last, first + 1))
