"""Charts as HTML: marks in an SVG that is stretched to the width there is, and labels around it, which are not."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from bulkpull.record import record

WIDTH = 1000  # of every SVG, in its own units


def text(value: Any) -> str:
    """Return a value escaped for HTML, in text and attributes."""
    return html.escape(str(value), quote=True)


@record
class Axis:
    """A linear axis from 0 to `end`, with labels at some positions."""

    end: float
    labels: Sequence[tuple[float, str]]

    def share(self, value: float) -> float:
        """Where a value is, from 0 to 1."""
        return min(1.0, max(0.0, value / self.end)) if self.end else 0.0


@record
class Plot:
    """An SVG of `height` pixels between two axes."""

    x: Axis
    y: Axis
    height: int

    def at_x(self, value: float) -> float:
        """The x of a value."""
        return round(self.x.share(value) * WIDTH, 1)

    def at_y(self, value: float) -> float:
        """The y of a value."""
        return round((1 - self.y.share(value)) * self.height, 1)

    def render(self, marks: Iterable[str], label: str) -> str:
        """Return the plot with these marks. `label` describes it to a screen reader."""
        lines = "".join(
            f'<line class="grid" x1="0" x2="{WIDTH}" y1="{self.at_y(value)}" y2="{self.at_y(value)}"/>'
            for value, _ in self.y.labels
        )
        y_labels = "".join(
            f'<span style="bottom:{self.y.share(value):.2%}">{text(name)}</span>' for value, name in self.y.labels
        )
        x_labels = "".join(
            f'<span style="left:{self.x.share(value):.2%}"{_edge(self.x.share(value))}>{text(name)}</span>'
            for value, name in self.x.labels
        )
        return (
            f'<div class="plot"><div class="y" style="height:{self.height}px" aria-hidden="true">{y_labels}</div>'
            f'<svg role="img" aria-label="{text(label)}" viewBox="0 0 {WIDTH} {self.height}" '
            f'preserveAspectRatio="none" style="height:{self.height}px">{lines}{"".join(marks)}</svg>'
            f'<div class="x" aria-hidden="true">{x_labels}</div></div>'
        )


def _edge(share: float) -> str:
    """Labels at the ends of an axis stay within it."""
    return ' class="first"' if share < 0.03 else ' class="last"' if share > 0.97 else ""


def rectangle(x: float, y: float, width: float, height: float, style: str, title: str = "") -> str:
    """Return a rectangle of a class, with a tooltip."""
    shape = f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{max(width, 0.5):.4g}" height="{height:.4g}"'
    return f"{shape}><title>{text(title)}</title></rect>" if title else f"{shape}/>"


def line(points: Iterable[tuple[float, float]], style: str) -> str:
    """Return a line of a class."""
    return f'<polyline class="{style}" points="{" ".join(f"{x:g},{y:g}" for x, y in points)}"/>'


def steps(points: Sequence[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """Return the corners of values that stay the same until the next point, and until `end`."""
    corners: list[tuple[float, float]] = []
    for x, y in points:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    if corners:
        corners.append((end, corners[-1][1]))
    return corners


def thinned(points: Sequence[tuple[float, float]], end: float, most: int = 400) -> list[tuple[float, float]]:
    """Return at most two of the points in each of `most` equal parts up to `end`: the lowest and the highest."""
    if len(points) <= 2 * most or not end:
        return list(points)
    parts: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        parts.setdefault(int(point[0] / end * most), []).append(point)
    found: list[tuple[float, float]] = []
    for some in parts.values():
        ends = {min(some, key=lambda point: point[1]), max(some, key=lambda point: point[1])}
        found += sorted(ends)
    return found


def count_axis(highest: float, labels: int = 4) -> Axis:
    """Return an axis for numbers up to `highest`, which are whole."""
    step = max(1.0, nice_step(max(highest, 1) / labels))
    end = math.ceil(max(highest, 1) / step) * step
    return Axis(end, [(value * step, short(value * step)) for value in range(round(end / step) + 1)])


def bytes_axis(highest: float, labels: int = 4) -> Axis:
    """Return an axis for bytes up to `highest`."""
    step = nice_step(max(highest, 1) / labels)
    end = math.ceil(max(highest, 1) / step) * step
    return Axis(end, [(value * step, short(value * step) + "B") for value in range(round(end / step) + 1)])


def time_axis(end: float, labels: int = 6) -> Axis:
    """Return an axis for seconds."""
    end = max(end, 0.001)
    choices = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400]
    step: float = next((choice for choice in choices if choice * labels >= end), 0)
    if end < choices[0] * labels / 2:
        step = nice_step(end / labels)
    elif not step:
        step = 86_400 * math.ceil(end / labels / 86_400)
    if step < 60:
        unit, name = 1.0, "s"
    elif step < 3600:
        unit, name = 60.0, "min"
    else:
        unit, name = 3600.0, "h"
    values = [number * step for number in range(int(end / step + 1e-9) + 1)]
    return Axis(end, [(value, f"{value / unit:g} {name}" if value else "0") for value in values])


def nice_step(least: float) -> float:
    """Return the lowest of 1, 2 and 5 times a power of ten that is not less than `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def short(number: float) -> str:
    """Return a number with a letter for thousands and more."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:g}{letter}"
    return f"{number:g}"
