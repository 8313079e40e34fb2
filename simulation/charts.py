"""The reports' charts, as inline SVG: text stays text, colours follow the page, print stays sharp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from simulation.axes import (
    BOTTOM,
    COLOURS,
    LEFT,
    RIGHT,
    ROW,
    TOP,
    WIDTH,
    Frame,
    grid,
    marker,
    room,
    svg,
    text,
    ticks,
    whole_ticks,
)
from simulation.wording import gain_text

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
class Point:
    """A place on a learning curve: the mean over repetitions at x, and their range."""

    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Band:
    """A learning curve: a line through means, in a band from the lowest to the highest."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Difference:
    """A row of a forest plot: a difference and its interval, None where it has none."""

    name: str
    value: float
    interval: tuple[float, float] | None
    strong: bool = False


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
    y_ticks = ticks(min(0.0, *values), max(values), 5)
    frame = Frame((first_x, max(last_x, first_x + 1)), (y_ticks[0], y_ticks[-1]), height)
    body = [*grid(frame, y_ticks, whole_ticks(first_x, last_x), x_label=x_label, y_label=y_label)]
    for index, line in enumerate(series):
        body += _line(frame, line, index, first_x=first_x)
    ends = [
        (known[-1], line)
        for line in series
        if (known := [value for value in line.values if value is not None])
    ]
    body += _end_names(frame, [(value, series.index(line), line.name, line.strong) for value, line in ends])
    return svg(body, height, summary)


def band_chart(
    bands: Sequence[Band], *, x_label: str, y_label: str, summary: str, height: int = 300
) -> Markup:
    """Learning curves over steps, epochs or rounds, each named at its end; what has no point is left out.

    Args:
        bands: their points in the order of x.
        x_label: with its unit.
        y_label: with its unit.
        summary: what the chart shows, for those who do not see it.
        height: of the chart, pixels.
    """
    points = [point for band in bands for point in band.points]
    if not points:
        return Markup("")
    first, last = min(point.x for point in points), max(point.x for point in points)
    whole = all(float(point.x).is_integer() for point in points)
    x_ticks = [tick for tick in ticks(first, last, 8, whole=whole) if first <= tick <= last]
    y_ticks = ticks(min(0.0, *(p.low for p in points)), max(p.high for p in points), 5)
    frame = Frame(
        (first, max(last, first + 1e-9)),
        (y_ticks[0], y_ticks[-1]),
        height,
        right=room([band.name for band in bands], least=RIGHT),
    )
    body = [*grid(frame, y_ticks, x_ticks, x_label=x_label, y_label=y_label)]
    for draw in (_shade, _curve):
        for index, band in enumerate(bands):
            body += draw(frame, band, index)
    ends = [
        (band.points[-1].mean, index, band.name, False) for index, band in enumerate(bands) if band.points
    ]
    body += _end_names(frame, ends)
    return svg(body, height, summary)


def dot_chart(
    groups: Mapping[str, Sequence[Dots]], *, x_label: str, summary: str, left: float = LEFT + 40
) -> Markup:
    """Rows of dots in groups: a dot for each case, a bar at their mean; x from 0 to 1.

    Args:
        groups: heading -> rows.
        x_label: with its unit.
        summary: what the chart shows, for those who do not see it.
        left: room for the names, pixels; `room_for` gives it.
    """
    rows = sum(len(group) for group in groups.values())
    height = TOP + BOTTOM + rows * ROW + len(groups) * (ROW + 4)
    frame = Frame((0, 1), (0, 1), height, left=left)
    body = [*grid(frame, (), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), x_label=x_label, y_label="")]
    y = float(TOP)
    for name, group in groups.items():
        y += ROW + 4
        body.append(text(4, y - 6, name, "group"))
        for index, dots in enumerate(group):
            body += _dots_row(frame, dots, y + ROW / 2 - 2, index)
            y += ROW
    return svg(body, height, summary)


def forest_chart(
    groups: Mapping[str, Sequence[Difference]],
    *,
    x_label: str,
    summary: str,
    margin: float | None = None,
    digits: int = 3,
) -> Markup:
    """Differences with their intervals about a line at 0, in groups; nothing where there is none.

    Args:
        groups: heading -> rows.
        x_label: with its unit.
        summary: what the chart shows, for those who do not see it.
        margin: of non-inferiority, drawn at minus this; None for no such line.
        digits: of the numbers beside the rows.
    """
    rows = [row for group in groups.values() for row in group]
    if not rows:
        return Markup("")
    limits = [limit for row in rows for limit in (row.value, *(row.interval or ()))]
    x_ticks = ticks(min(0.0, *limits), max(0.0, *limits), 6)
    height = TOP + BOTTOM + len(rows) * ROW + len(groups) * (ROW + 4)
    words = {id(row): _difference_words(row, digits) for row in rows}
    frame = Frame(
        (x_ticks[0], x_ticks[-1]),
        (0, 1),
        height,
        left=room_for([row.name for row in rows]),
        right=room(list(words.values()), least=RIGHT),
    )
    body = [*grid(frame, (), x_ticks, x_label=x_label, y_label="")]
    body += _upright_lines(frame, margin)
    y = float(TOP)
    for name, group in groups.items():
        y += ROW + 4
        body.append(text(4, y - 6, name, "group"))
        for row in group:
            body += _difference_row(frame, row, y + ROW / 2 - 2, words[id(row)])
            y += ROW
    return svg(body, height, summary)


def room_for(names: Sequence[str]) -> float:
    """Room at the left for the names of rows, pixels."""
    return 20 + room(names, least=LEFT)


def _difference_words(row: Difference, digits: int) -> str:
    if row.interval is None:
        return gain_text(row.value, digits)
    low, high = (gain_text(limit, digits) for limit in row.interval)
    return f"{gain_text(row.value, digits)} [{low}, {high}]"


def _upright_lines(frame: Frame, margin: float | None) -> Iterator[Markup]:
    line = Markup('<path class="{}" d="M{:.1f} {}V{}"/>')
    yield line.format("mean", frame.at_x(0), TOP, frame.height - BOTTOM)
    if margin is not None and frame.x[0] < -margin:
        yield line.format("margin", frame.at_x(-margin), TOP, frame.height - BOTTOM)


def _difference_row(frame: Frame, row: Difference, y: float, words: str) -> Iterator[Markup]:
    strong = " strong" if row.strong else ""
    yield text(frame.left - 10, y + 4, row.name, "end" + strong)
    if row.interval is not None:
        low, high = (frame.at_x(limit) for limit in row.interval)
        bar = Markup('<path class="line c0" d="M{:.1f} {:.1f}v8m0 -4H{:.1f}m0 -4v8"/>')
        yield bar.format(low, y - 4, high)
    yield marker(frame.at_x(row.value), y, 0, f"{row.name}: {words}")
    yield text(WIDTH - frame.right + 14, y + 4, words, strong.strip())


def _dots_row(frame: Frame, dots: Dots, y: float, index: int) -> Iterator[Markup]:
    at = frame.at_x
    yield text(frame.left - 10, y + 4, dots.name, "end strong" if dots.strong else "end")
    yield Markup('<path class="rule" d="M{:.1f} {:.1f}H{:.1f}"/>').format(at(0), y, at(1))
    mean = fmean(dots.values) if dots.values else None
    if mean is not None and len(dots.values) > 1:
        yield Markup('<path class="mean" d="M{:.1f} {:.1f}v{:.1f}"/>').format(at(mean), y - 7, 14)
    for number, value in enumerate(dots.values, start=1):
        yield marker(at(value), y, index, f"{dots.name}, test case {number}: {value:.3f}")
    if mean is not None:
        yield text(WIDTH - frame.right + 14, y + 4, f"{mean:.3f}", "strong" if dots.strong else "")


def _shade(frame: Frame, band: Band, index: int) -> Iterator[Markup]:
    if any(point.high > point.low for point in band.points):
        there = [f"{frame.at_x(p.x):.1f} {frame.at_y(p.high):.1f}" for p in band.points]
        back = [f"{frame.at_x(p.x):.1f} {frame.at_y(p.low):.1f}" for p in reversed(band.points)]
        shape = Markup('<path class="band c{}" d="M{}z"/>')
        yield shape.format(index % COLOURS, "L".join([*there, *back]))


def _curve(frame: Frame, band: Band, index: int) -> Iterator[Markup]:
    places = [(frame.at_x(point.x), frame.at_y(point.mean), point) for point in band.points]
    if places:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
        yield Markup('<path class="line c{}" d="M{}"/>').format(index % COLOURS, path)
    for x, y, point in places:
        words = f"{band.name} at {point.x:g}: {point.mean:.3g} ({point.low:.3g} to {point.high:.3g})"
        yield marker(x, y, index, words)


def _line(frame: Frame, line: Series, index: int, *, first_x: int) -> Iterator[Markup]:
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
            yield marker(x, y, index, f"{line.name}, round {number}: {value:.3g}")


def _end_names(frame: Frame, ends: Sequence[tuple[float, int, str, bool]]) -> Iterator[Markup]:
    """(last value, index, name, strong) as names at the lines' ends, moved apart where they would overlap."""
    ordered = sorted(ends, key=lambda end: -end[0])
    places: list[float] = []
    for value, *_ in ordered:
        places.append(max(frame.at_y(value), places[-1] + 15 if places else 0.0))
    lowest = frame.height - BOTTOM + 15.0
    for number in reversed(range(len(places))):
        lowest = places[number] = min(places[number], lowest - 15)
    for y, (_, index, name, strong) in zip(places, ordered, strict=True):
        x = WIDTH - frame.right + 14
        if not strong:
            yield marker(x, y, index, name)
        yield text(x + 9, y + 4, name, "strong" if strong else "")
