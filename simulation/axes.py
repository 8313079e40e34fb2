"""What the charts are drawn with, as inline SVG: axes, marks, words.

Colours are those of Okabe and Ito (2008), which most colour-blind people tell apart; a marker's shape says
the same again. Colours and fonts are given by the page's style sheet, by class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from simulation.wording import MINUS

WIDTH = 720
LEFT, RIGHT, TOP, BOTTOM = 58, 118, 14, 42
ROW = 19
COLOURS = 7
"""Classes c0 to c6 of the style sheet; a further series begins again with another marker."""

LETTER = 6.8
"""About how wide a letter is in a chart, pixels; rather too wide, so that words have room."""


@dataclass(frozen=True)
class Frame:
    """Data to pixels.

    Attributes:
        x, y: limits of the axes.
        height: of the chart, pixels.
        left, right: room beside the plot, pixels.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    height: int
    left: float = LEFT
    right: float = RIGHT

    def at_x(self, value: float) -> float:
        """Pixels from the left edge."""
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1) * (WIDTH - self.left - self.right)

    def at_y(self, value: float) -> float:
        """Pixels from the upper edge."""
        low, high = self.y
        return self.height - BOTTOM - (value - low) / ((high - low) or 1) * (self.height - TOP - BOTTOM)


def grid(
    frame: Frame, y_ticks: Sequence[float], x_ticks: Sequence[float], *, x_label: str, y_label: str
) -> Iterator[Markup]:
    """Rules and their numbers; without `y_ticks` the rules stand upright."""
    left, bottom, right = frame.left, frame.height - BOTTOM, WIDTH - frame.right
    for tick in y_ticks:
        yield Markup('<path class="rule" d="M{} {:.1f}H{}"/>').format(left, frame.at_y(tick), right)
        yield text(left - 8, frame.at_y(tick) + 4, _number(tick), "end")
    for tick in x_ticks:
        x = frame.at_x(tick)
        end = TOP if not y_ticks else bottom + 5
        yield Markup('<path class="rule" d="M{:.1f} {}V{}"/>').format(x, bottom, end)
        yield text(x, bottom + 18, _number(tick), "middle")
    yield text((left + right) / 2, frame.height - 6, x_label, "middle label")
    if y_label:
        middle = (TOP + bottom) / 2
        turned = Markup('<g transform="translate(14 {:.1f}) rotate(-90)">{}</g>')
        yield turned.format(middle, text(0, 0, y_label, "middle label"))


def marker(x: float, y: float, index: int, words: str) -> Markup:
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


def text(x: float, y: float, words: str, kind: str) -> Markup:
    """Words at a place; `kind` are classes of the style sheet."""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, kind, words)


def svg(body: Sequence[Markup], height: int, summary: str) -> Markup:
    """The whole chart; `summary` is what those hear who do not see it."""
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return head.format(WIDTH, height, summary) + Markup("").join(body) + Markup("</svg>")


def room(names: Sequence[str], *, least: float) -> float:
    """Pixels beside the plot that the longest of these names needs."""
    return max(least, 24 + LETTER * max((len(name) for name in names), default=0))


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> tuple[float, ...]:
    """About `count` round numbers around both limits, whole ones if asked for."""
    if high <= low:
        high = low + 1
    return tuple(float(tick) for tick in MaxNLocator(nbins=count, integer=whole).tick_values(low, high))


def whole_ticks(first: int, last: int) -> tuple[float, ...]:
    """Whole numbers between the limits."""
    found = MaxNLocator(nbins=10, integer=True).tick_values(first, max(last, first + 1))
    return tuple(float(tick) for tick in found if first <= tick <= max(last, first + 1))


def _number(value: float) -> str:
    return f"{value:g}".replace("-", MINUS)
