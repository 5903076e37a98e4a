"""Line charts as inline SVG: they take the page's colours, in the dark too, and stay sharp."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vit_jax.page.html import Html, element, join

# In units that are about a pixel on a phone; a desktop shows them a little larger.
_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 12, 12, 38
_FEW = 30  # points up to which each is marked
_COLOURS = 8  # of the style sheet; further ones are taken from the colour wheel
_TOLD = 12  # lines that the alternative text tells of


@dataclass(frozen=True)
class Line:
    """Points in order of x. `style`: solid, dashed, dotted or faint; `colour`: which of the page's series."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    colour: int
    style: str = "solid"


def series_colour(index: int) -> str:
    """A style attribute that sets the colour of the index-th series."""
    if index < _COLOURS:
        return f"--series: var(--series-{index})"
    return f"--series: hsl({index * 137.5 % 360:.0f} 60% var(--series-lightness))"  # golden angle: none is near another


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About `count` round numbers from `low` to `high`, multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def chart(title: str, x_label: str, lines: Sequence[Line], start: float | None = None) -> Html:
    """A figure of all lines that have points; `start`: a value of y that is shown in any case."""
    drawn = [line for line in lines if line.x]
    heading = element("figcaption", title)
    if not drawn:
        return element("figure", heading, element("p", "There are no such figures.", class_="note"), class_="chart")
    left, right = min(0.0, *(min(line.x) for line in drawn)), max(max(line.x) for line in drawn)
    values = [y for line in drawn for y in line.y] + ([] if start is None else [start])
    low, high = _widened(min(values), max(values), 0.0 if min(values) == start else 0.05, 0.05)
    left, right = _widened(left, right, 0.0, 0.0)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - left) / (right - left), (y - low) / (high - low)
        return (
            round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    axes = []
    for value in ticks(low, high):
        x, y = place(left, value)
        axes.append(element("line", x1=x, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        axes.append(element("text", _number(value), x=x - 6, y=y + 4, text_anchor="end"))
    for value in ticks(left, right):
        x, y = place(value, low)
        axes.append(element("line", x1=x, x2=x, y1=y, y2=y + 4, class_="axis"))
        axes.append(element("text", _number(value), x=x, y=y + 17, text_anchor="middle"))
    (x, y), (end, _) = place(left, low), place(right, low)
    axes.append(element("line", x1=x, x2=end, y1=y, y2=y, class_="axis"))
    axes.append(element("text", x_label, x=end, y=_HEIGHT - 5, text_anchor="end", class_="label"))
    told = [f"{line.name}: {_number(line.y[-1])} at {_number(line.x[-1])}" for line in drawn[:_TOLD]]
    svg = element(
        "svg",
        *axes,
        *(_line(line, [place(*point) for point in zip(line.x, line.y, strict=True)]) for line in drawn),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title}. At the end, {'; '.join(told)}.",
    )
    return element("figure", heading, svg, class_="chart")


def _line(line: Line, points: list[tuple[float, float]]) -> Html:
    """The path and, where there are few points or only one, a mark on each with its values."""
    parts = [element("polyline", points=" ".join(f"{x},{y}" for x, y in points), class_=f"line {line.style}")]
    if len(points) == 1 or (len(points) < _FEW and line.style != "faint"):
        for (x, y), (a, b) in zip(points, zip(line.x, line.y, strict=True), strict=True):
            told = element("title", f"{line.name}: {_number(b)} at {_number(a)}")
            parts.append(element("circle", told, cx=x, cy=y, r=3.5, class_=f"mark {line.style}"))
    return element("g", join(parts), style=series_colour(line.colour))


def _widened(low: float, high: float, below: float, above: float) -> tuple[float, float]:
    """A range that isn't empty, with shares of itself added below and above."""
    if high <= low:
        margin = abs(low) * 0.05 or 0.5
        return low - margin, high + margin
    return low - below * (high - low), high + above * (high - low)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
