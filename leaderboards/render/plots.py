"""Trade-off plots as SVG without scripts, drawn with Altair."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from leaderboards.spec import BASIC, UNKNOWN_DATA
from leaderboards.table import (
    DIFFERENCE_ROW,
    FLAGGED,
    HEAD_ROW,
    INTERVAL,
    MEANINGS,
    PRINTED,
    REPRODUCED,
    ROBUSTBENCH,
    SMALL,
    Number,
    Row,
    Table,
)

WIDTH, HEIGHT = 640, 380
# Pixels between the axes and the outermost points, and right of the plot for labels in wide fonts.
MARGIN, RIGHT = 16, 40
# Approximate width of a letter in a label, in pixels.
LETTER = 6.4
# Colours of the page, so that a plot follows its light or dark scheme.
INK, DIM, LINE, OURS, ALERT = (f"var(--{name})" for name in ("ink", "dim", "line", "ours", "alert"))
SHAPES = {PRINTED: "circle", REPRODUCED: "triangle-up", ROBUSTBENCH: "square"}
SHAPE_NAMES = {PRINTED: "circle", REPRODUCED: "triangle", ROBUSTBENCH: "square"}
COLOURS = {PRINTED: DIM, REPRODUCED: OURS, ROBUSTBENCH: ALERT}

# Plots of a table, by its anchor: the columns on the x and y axes, and their titles.
ACCURACIES = (("clean", "aa", "Clean accuracy, percent", "AutoAttack accuracy, percent"),)
FIELD = (("clean", "best-known", "Clean accuracy, percent", "Lowest known accuracy, percent"),)
FIELDS = ("table-field-cifar100", "table-field-cifar10")
GENERATED = "generated data"
PLOTS = {
    "table-2": ACCURACIES,
    **dict.fromkeys(FIELDS, FIELD),
    "table-3": tuple(
        (f"{pair}/time", pair, "Seconds per iteration", f"Top-1 of {student}, percent")
        for pair, student in (
            ("resnet34/resnet18", "ResNet18"),
            ("resnet50/mobilenetv1", "MobileNetV1"),
        )
    ),
    "table-4": ACCURACIES,
}

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """One model in a plot; models with other training ``data`` have their own front."""

    name: str
    x: Number
    y: Number
    data: str = ""

    @property
    def is_flagged(self) -> bool:
        """Whether there is reason to doubt one of its numbers."""
        return bool(self.x.flags or self.y.flags)

    @property
    def text(self) -> str:
        """Name and numbers, with ``?`` if it is flagged."""
        return f"{self.name} ({self.x.value:g}, {self.y.value:g}){FLAGGED * self.is_flagged}"


@dataclass(frozen=True)
class Figure:
    """A plot and its caption."""

    svg: str
    caption: str


def plots_of(table: Table) -> list[Figure]:
    """Return the figures of a table."""
    columns = {column.key: column for column in table.columns}
    figures = []
    for x, y, x_title, y_title in PLOTS.get(table.anchor, ()):
        points = points_of(table, x, y)
        if points:
            across = columns[x]
            lower, ranked = across.lower_is_better, across.comparable
            figures.append(scatter(points, x_title, y_title, x_lower=lower, ranked=ranked))
    return figures


def points_of(table: Table, x: str, y: str) -> list[Point]:
    """Return the rows with both numbers, printed, published or ours, except small scale."""
    points = []
    attacked = y in ("aa", "best-known")
    for row in table.rows:
        if attacked and not row.is_papers_attack:
            continue
        if x in row.cells and y in row.cells and row.kind not in (HEAD_ROW, DIFFERENCE_ROW):
            across, up = row.cells[x], row.cells[y]
            for one, other in ((across.printed, up.printed), (across.ours, up.ours)):
                if one and other and one.badge != SMALL:
                    points.append(Point(table.name_of(row), one, other, _data(table, row)))
    return points


def _data(table: Table, row: Row) -> str:
    """Return the kind of training data that separates the fronts of a plot; empty for Basic."""
    if table.anchor in FIELDS:
        return row.group
    data = row.facts["augmentation"]
    return data if data == UNKNOWN_DATA else GENERATED * bool(data.removeprefix(BASIC))


def pareto_front(
    points: Sequence[tuple[float, float, T]], *, x_lower: bool = False, y_lower: bool = False
) -> list[T]:
    """Return the points that no other equals or beats in both numbers, by ascending x.

    A point is x, y and the object to return for it; ``x_lower`` and ``y_lower`` say whether lower
    is better.
    """
    signs = (1 if x_lower else -1, 1 if y_lower else -1)
    ordered = sorted(points, key=lambda point: (signs[0] * point[0], signs[1] * point[1]))
    kept: list[tuple[float, float, T]] = []
    for point in ordered:
        if not kept or signs[1] * point[1] < signs[1] * kept[-1][1]:
            kept.append(point)
    return [point for *_, point in (kept if x_lower else kept[::-1])]


def scatter(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    *,
    x_lower: bool = False,
    ranked: bool = True,
) -> Figure:
    """Plot points with intervals and their fronts as stepped lines; the caption names the fronts.

    There is a front for each kind of training data, of the points that are not flagged. ``x_lower``
    says whether lower x is better; points that are not ``ranked`` have no front.
    """
    import vl_convert

    able: dict[str, list[tuple[float, float, Point]]] = defaultdict(list)
    for p in points:
        if ranked and not p.is_flagged:
            able[p.data].append((p.x.value, p.y.value, p))
    fronts = {data: pareto_front(own, x_lower=x_lower) for data, own in able.items()}
    chart = _chart(points, fronts, x_title, y_title, x_lower=x_lower)
    svg = vl_convert.vegalite_to_svg(chart.to_dict())
    # On hover, browsers show the title of a mark, but not its description.
    svg = re.sub(r'(<path aria-label="([^"]*)"[^>]*)/>', r"\1><title>\2</title></path>", svg)
    badges = dict.fromkeys(p.y.badge for p in points)
    key = "; ".join(f"{SHAPE_NAMES[badge]}: {MEANINGS[badge]}" for badge in badges)
    if any(p.is_flagged for p in points):
        key += f"; {FLAGGED}: {MEANINGS[FLAGGED]}"
    named = ""
    for data, front in fronts.items():
        names = "; ".join(f"{p.text} {p.y.badge}" for p in front)
        named += f"Pareto front{f' ({data})' * bool(data)}: {names}. "
    caption = f"{len(points)} models. {named}{key[:1].upper()}{key[1:]}."
    if any(p.y.interval for p in points):
        caption += f" Lines: {INTERVAL}."
    return Figure(svg, caption)


def _labels(points: Sequence[Point], front: Sequence[Point]) -> list[str]:
    """Return each point's label: its name if there is room to its right, the front first."""
    xs, ys = [p.x.value for p in points], [p.y.value for p in points]
    ends = [*ys, *(end for p in points for end in p.y.interval or ())]
    x_scale = (WIDTH - 2 * MARGIN) / max(max(xs) - min(xs), 1e-9)
    y_scale = (HEIGHT - 2 * MARGIN) / max(max(ends) - min(ends), 1e-9)
    pixels = [(x_scale * x, y_scale * y) for x, y in zip(xs, ys, strict=True)]
    labels = [""] * len(points)
    taken = [(x - 5, x + 5, y) for x, y in pixels]
    for place in sorted(range(len(points)), key=lambda place: points[place] not in front):
        x, y = pixels[place]
        left, right = x + 6, x + 8 + LETTER * len(points[place].name)
        if all(right < start or left > end or abs(y - at) > 11 for start, end, at in taken):
            labels[place] = points[place].name
            taken.append((left, right, y))
    return labels


def _chart(
    points: Sequence[Point],
    fronts: Mapping[str, Sequence[Point]],
    x_title: str,
    y_title: str,
    *,
    x_lower: bool,
) -> Any:
    """Return the Altair chart."""
    import altair as alt
    import pandas as pd

    front = [point for own in fronts.values() for point in own]
    frame = pd.DataFrame(
        {
            "name": [p.text for p in points],
            "label": _labels(points, front),
            "badge": [p.y.badge for p in points],
            "data": [p.data for p in points],
            "x": [p.x.value for p in points],
            "y": [p.y.value for p in points],
            "low": [p.y.interval[0] if p.y.interval else None for p in points],
            "high": [p.y.interval[1] if p.y.interval else None for p in points],
        }
    )
    badges = list(dict.fromkeys(frame["badge"]))
    scale = alt.Scale(zero=False, nice=False, padding=MARGIN)
    x, y = alt.X("x:Q", title=x_title, scale=scale), alt.Y("y:Q", title=y_title, scale=scale)
    colour = alt.Color("badge:N", legend=None).scale(
        domain=badges, range=[COLOURS[badge] for badge in badges]
    )
    shape = alt.Shape("badge:N", legend=None).scale(
        domain=badges, range=[SHAPES[badge] for badge in badges]
    )
    base = alt.Chart(frame).encode(x=x, color=colour)
    steps = alt.Chart(frame[[p in front for p in points]]).mark_line(
        interpolate="step-after" if x_lower else "step-before", strokeDash=[4, 3], color=DIM
    )
    layers = [
        *[steps.encode(x=x, y=y, detail="data:N")] * bool(front),
        base.mark_rule(opacity=0.45).encode(y=alt.Y("low:Q", title=y_title), y2="high:Q"),
        base.mark_point(size=55, opacity=1).encode(
            y=y, shape=shape, description=alt.Description("name:N")
        ),
        alt.Chart(frame).mark_text(align="left", dx=8, color=INK).encode(x=x, y=y, text="label:N"),
    ]
    title = f"{y_title} against {x_title}, {len(points)} models"
    return (
        alt.layer(*layers)
        .properties(
            width=WIDTH,
            height=HEIGHT,
            description=title,
            background="transparent",
            padding={"right": RIGHT},
        )
        .configure_view(stroke=None)
        .configure(font="system-ui, sans-serif")
        .configure_axis(
            titlePadding=10,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            gridColor=LINE,
            domainColor=LINE,
            tickColor=LINE,
            labelColor=INK,
            titleColor=INK,
        )
    )
