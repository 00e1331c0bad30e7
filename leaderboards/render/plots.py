"""Trade-offs as SVG that stands in a page by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from leaderboards.render.text import method_of
from leaderboards.table import FLAGGED, INTERVAL, MEANINGS, SMALL, Number, Table

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 16, 46
# About the width of a letter.
LETTER = 6.4
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Point:
    """One model in a plot; ``badge`` is its shape."""

    name: str
    x: Number
    y: Number

    @property
    def badge(self) -> str:
        """Where its numbers come from."""
        return self.y.badge

    @property
    def is_flagged(self) -> bool:
        """Whether there is reason to doubt one of its numbers."""
        return bool(self.x.flags or self.y.flags)


def points_of(table: Table, x: str, y: str) -> list[Point]:
    """The rows with both numbers, printed, published and ours; small scale is left out."""
    points = []
    for row in table.rows:
        across, up = row.cells.get(x), row.cells.get(y)
        if across is None or up is None or row.kind in ("head", "difference"):
            continue
        for one, other in ((across.printed, up.printed), (across.ours, up.ours)):
            if one and other and one.badge != SMALL:
                points.append(Point(method_of(table, row), one, other))
    return points


def front(points: Sequence[Point], *, less_is_better: bool = False) -> list[Point]:
    """The points that no other equals or beats in both numbers, from left to right."""
    sign = -1 if less_is_better else 1
    ordered = sorted(points, key=lambda p: (sign * p.x.value, p.y.value), reverse=True)
    kept: list[Point] = []
    for point in ordered:
        if not kept or point.y.value > kept[-1].y.value:
            kept.append(point)
    return sorted(kept, key=lambda p: p.x.value)


def scatter(
    points: Sequence[Point], x_title: str, y_title: str, *, less_is_better: bool = False
) -> str:
    """A figure: points with intervals, the front as a stepped line, and in words who is on it.

    Empty where there are no points.
    """
    if not points:
        return ""
    across = _Scale([p.x.value for p in points], LEFT, WIDTH - RIGHT)
    up = _Scale([p.y.value for p in points], HEIGHT - BOTTOM, TOP)
    best = front(points, less_is_better=less_is_better)
    drawn = [*_axes(across, up, x_title, y_title), _line(best, across, up)]
    # Boxes that a label must not cover, as left, right and middle: the points, then labels too.
    taken = [(across(p.x.value) - 5, across(p.x.value) + 5, up(p.y.value)) for p in points]
    for point in sorted(points, key=lambda p: p not in best):
        drawn += _point(point, across, up, taken)
    names = "; ".join(
        f"{p.name} ({p.x.value:g}, {p.y.value:g}) {p.badge}{FLAGGED * p.is_flagged}" for p in best
    )
    shapes = {"P": "circle", "R": "triangle", "RB": "square"}
    present = dict.fromkeys(p.badge for p in points)
    key = "; ".join(f"{shapes[badge]}: {MEANINGS[badge]}" for badge in present)
    if any(p.is_flagged for p in points):
        key += f"; {FLAGGED}: {MEANINGS[FLAGGED]}"
    words = f"{len(points)} models. None is better in both than: {names}. {key.capitalize()}."
    if any(number.low is not None for p in points for number in (p.x, p.y)):
        words += f" Lines: {INTERVAL}."
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(y_title)} against {escape(x_title)}, {len(points)} models">'
        f'{"".join(drawn)}</svg><figcaption class="dim">{escape(words)}</figcaption></figure>'
    )


class _Scale:
    """From values to pixels, over round numbers."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        span = max(high - low, 1e-6)
        self.step = next((step for step in STEPS if span / step <= 8), 100)
        self._low = math.floor((low - 0.04 * span) / self.step) * self.step
        self._high = math.ceil((high + 0.04 * span) / self.step) * self.step
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    @property
    def ticks(self) -> list[float]:
        count = round((self._high - self._low) / self.step)
        return [round(self._low + place * self.step, 6) for place in range(count + 1)]


def _axes(across: _Scale, up: _Scale, x_title: str, y_title: str) -> list[str]:
    floor, drawn = HEIGHT - BOTTOM, []
    for tick in across.ticks:
        x = across(tick)
        drawn.append(f'<line class="axis" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{floor}"/>')
        drawn.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in up.ticks:
        y = up(tick)
        drawn.append(
            f'<line class="axis" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        )
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>'
    )
    drawn.append(
        f'<text transform="translate(14 {(TOP + floor) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_title)}</text>'
    )
    return drawn


def _line(best: Sequence[Point], across: _Scale, up: _Scale) -> str:
    path = ""
    for number, point in enumerate(best):
        x, y = across(point.x.value), up(point.y.value)
        path += f"M{x:.1f} {y:.1f}" if number == 0 else f"V{y:.1f}H{x:.1f}"
    return f'<path class="front" d="{path}"/>'


def _point(
    point: Point, across: _Scale, up: _Scale, taken: list[tuple[float, float, float]]
) -> list[str]:
    x, y = across(point.x.value), up(point.y.value)
    drawn = []
    if point.y.low is not None and point.y.high is not None:
        low = min(up(point.y.low), HEIGHT - BOTTOM)
        high = max(up(point.y.high), TOP)
        drawn.append(
            f'<line class="{point.badge}" stroke-opacity=".45" x1="{x:.1f}" y1="{low:.1f}" '
            f'x2="{x:.1f}" y2="{high:.1f}"/>'
        )
    mark = FLAGGED * point.is_flagged
    numbers = f"{point.x.value:g}, {point.y.value:g}{mark}"
    title = f"<title>{escape(point.name)}: {numbers}</title>"
    drawn.append(f'<g class="{point.badge}">{title}{_shape(point.badge, x, y)}</g>')
    # A label that would cover something is left to the title that pointing shows.
    width = LETTER * len(point.name)
    for left, anchor in ((x + 9, "start"), (x - 9 - width, "end")):
        inside = left > LEFT and left + width < WIDTH - RIGHT
        free = all(
            left > end or left + width < start or abs(y - at) > 11 for start, end, at in taken
        )
        if inside and free:
            taken.append((left, left + width, y))
            edge = left if anchor == "start" else left + width
            drawn.append(
                f'<text x="{edge:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">'
                f"{escape(point.name)}</text>"
            )
            break
    return drawn


def _shape(badge: str, x: float, y: float) -> str:
    if badge == "R":
        return f'<path d="M{x:.1f} {y - 6:.1f}l6 11h-12z"/>'
    if badge == "RB":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
