"""Charts as pure functions of frames: each returns an Altair chart, which is testable JSON.

Colours are those of Okabe and Ito, which colour-blind readers can distinguish, with a blue that
is visible on dark and light backgrounds; every colour is repeated by a shape, a dash or a word.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import pandas as pd

# Altair's methods and operators have wider type annotations than what they return.
Picture = Any
Side = Literal["top", "bottom"]

BLUE, ORANGE, RED = "#2A87C0", "#E69F00", "#D55E00"
PALETTE = [BLUE, ORANGE, "#009E73", RED, "#CC79A7", "#56B4E9"]
GREY = "#8a939c"
# Without an explicit colour, a legend's marks are black, which is invisible on dark pages.
GREY_MARKS: dict[str, Any] = {"symbolFillColor": GREY, "symbolStrokeColor": GREY}
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
# Narrower plots are on phones; the second width is for plots that may be side by side.
WIDE_PIXELS, HALF_PIXELS = 500, 400
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]


def lines(
    frame: pd.DataFrame, *, y_title: str, series: Sequence[str], height: int = 260
) -> Picture:
    """Curves over epochs, each of ``series`` in its own colour and dash.

    ``frame`` has the columns ``epoch``, ``series`` and ``value``.
    """
    dashes = (DASHES * (1 + len(series) // len(DASHES)))[: len(series)]
    # The axis names a single series.
    legend = alt.Undefined if len(series) > 1 else None
    return (
        alt.Chart(frame)
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=14) if len(frame) < 60 else False)
        .encode(
            x=alt.X("epoch:Q", title="Epoch", axis=alt.Axis(format="d", tickMinStep=1)),
            y=alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=False)),
            color=_coloured("series", series, symbol="stroke"),
            strokeDash=alt.StrokeDash(
                "series:N",
                title=None,
                scale=alt.Scale(domain=list(series), range=dashes),
                legend=legend,
            ),
            tooltip=["series:N", "epoch:Q", alt.Tooltip("value:Q", format=".4g")],
        )
        .properties(height=height)
    )


def waterfall(stages: pd.DataFrame) -> Picture:
    """Accuracy left after each attack stage, with its interval.

    ``stages`` has the columns ``stage`` (in order), ``left``, ``low``, ``high`` (percent) and
    ``broken``.
    """
    order = stages["stage"].tolist()
    base = alt.Chart(stages).encode(
        x=alt.X("stage:N", sort=order, title=None, axis=alt.Axis(labelAngle=0))
    )
    bars = base.mark_bar(color=BLUE, opacity=0.85, size=34).encode(
        y=alt.Y("left:Q", title="Accuracy after the stage (%)", scale=alt.Scale(domain=[0, 100])),
        tooltip=[
            alt.Tooltip("stage:N", title="Stage"),
            alt.Tooltip("left:Q", title="Left %", format=".2f"),
            alt.Tooltip("broken:Q", title="Images broken"),
        ],
    )
    spans = base.mark_rule(color=ORANGE, strokeWidth=3).encode(y="low:Q", y2="high:Q")
    words = base.mark_text(dy=-12, fontSize=13, fontWeight="bold").encode(
        y="high:Q", text=alt.Text("left:Q", format=".1f")
    )
    return alt.layer(bars, spans, words).properties(height=280)


def per_class(frame: pd.DataFrame) -> Picture:
    """Clean and robust accuracy by class, the least robust first.

    ``frame`` has the columns ``name``, ``kind`` (clean, under attack) and ``value`` (percent).
    """
    robust = frame[frame["kind"] == "under attack"].sort_values("value")["name"].tolist()
    return (
        alt.Chart(frame)
        .mark_point(size=70, filled=True, opacity=0.9)
        .encode(
            y=alt.Y("name:N", sort=robust, title=None, axis=alt.Axis(grid=True)),
            x=alt.X("value:Q", title="Accuracy (%)", scale=alt.Scale(domain=[0, 100])),
            color=_coloured("kind", ["clean", "under attack"]),
            shape=_shaped("kind", ["clean", "under attack"], orient="top"),
            tooltip=["name:N", "kind:N", alt.Tooltip("value:Q", format=".1f")],
        )
        .properties(height=alt.Step(22 if len(robust) <= 20 else 13))
    )


def tradeoff(
    points: pd.DataFrame,
    fronts: Mapping[str, pd.DataFrame],
    *,
    x_title: str,
    y_title: str,
    x_lower: bool,
    colours: Mapping[str, str] | None = None,
    formats: tuple[str, str] = (".2f", ".2f"),
) -> Picture:
    """A scatter of two numbers with intervals, names and Pareto fronts as steps.

    ``points`` has the columns ``name``, ``label`` (empty if it has no room), ``short_label``
    (the same on a phone), ``arch``, ``family`` (colour), ``source`` (shape), ``size``,
    ``training_data``, ``note``, ``x``, ``y``, ``y_low`` and ``y_high``. ``fronts`` are by training
    data, each sorted by ``x``; ``x_lower`` says whether small x is good and reverses their steps.
    ``colours`` are the colours of some families; the other families get their own.
    """
    families, sources = sorted(points["family"].unique()), sorted(points["source"].unique())
    x = alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False, nice=True))
    y = alt.Y("y:Q", title=y_title, scale=alt.Scale(zero=False, nice=True))
    base = alt.Chart(points).encode(x=x, color=_coloured("family", families, colours or {}))
    spans = base.mark_rule(strokeWidth=1.5, opacity=0.45).encode(
        y=alt.Y("y_low:Q", title=y_title), y2="y_high:Q"
    )
    brush = alt.selection_interval(name="brush")
    marks = (
        base.mark_point(filled=True)
        .encode(
            y=y,
            size=alt.Size("size:Q", scale=None),
            shape=_shaped("source", sources),
            opacity=alt.condition(brush, alt.value(0.95), alt.value(0.25)),
            tooltip=[
                alt.Tooltip("name:N", title="Method"),
                alt.Tooltip("family:N", title="Family"),
                alt.Tooltip("arch:N", title="Architecture"),
                alt.Tooltip("training_data:N", title="Training data"),
                alt.Tooltip("source:N", title="Source"),
                alt.Tooltip("x:Q", title=x_title, format=formats[0]),
                alt.Tooltip("y:Q", title=y_title, format=formats[1]),
                alt.Tooltip("note:N", title="Measured on"),
            ],
        )
        .add_params(brush)
    )
    # Text that is merely hidden would still make the plot narrower.
    text = alt.ExprRef(f"width >= {WIDE_PIXELS} ? datum.label : datum.short_label")
    names = alt.Chart(points).mark_text(align="left", dx=8, fontSize=11, text=text).encode(x=x, y=y)
    steps = _steps(fronts, x, y, after=x_lower)
    return alt.layer(*steps, spans, marks, names).properties(height=560)


def _steps(fronts: Mapping[str, pd.DataFrame], x: alt.X, y: alt.Y, *, after: bool) -> list[Picture]:
    """A line for each front, in its own dashes, that steps after or before each point."""
    dashes = [[6, 3], [2, 2], [10, 3, 2, 3], [1, 4], [14, 4]]
    return [
        alt.Chart(front.reset_index(drop=True).assign(step=range(len(front)), front=data))
        .mark_line(
            color=GREY,
            strokeDash=dashes[place % len(dashes)],
            interpolate="step-after" if after else "step-before",
        )
        # Without an order, points with the same x would be joined in arbitrary order.
        .encode(x=x, y=y, order=alt.Order("step:Q"), tooltip=alt.Tooltip("front:N", title="Front"))
        for place, (data, front) in enumerate(fronts.items())
    ]


def forest(frame: pd.DataFrame) -> Picture:
    """Differences with their intervals, one per row, and a line at zero.

    ``frame`` has the columns ``title`` (in order), ``difference``, ``low``, ``high`` and ``text``.
    A difference whose interval contains zero is hollow.
    """
    order = frame["title"].tolist()
    shown = frame.assign(clear=(frame["low"] > 0) | (frame["high"] < 0))
    axis = alt.Axis(grid=True, labelLimit=220, labelFlush=False)
    base = alt.Chart(shown).encode(
        y=alt.Y("title:N", sort=order, title=None, axis=axis),
        tooltip=[alt.Tooltip("title:N", title="Accuracy"), alt.Tooltip("text:N", title="A - B")],
    )
    ends = [float(min(frame["low"].min(), -0.5)), float(max(frame["high"].max(), 0.5))]
    scale = alt.Scale(domain=ends, nice=True)
    zero = alt.Chart(pd.DataFrame({"x": [0.0]})).mark_rule(color=GREY, strokeDash=[4, 3])
    spans = base.mark_rule(strokeWidth=3, color=BLUE).encode(
        x=alt.X("low:Q", title="A - B, points", scale=scale), x2="high:Q"
    )
    marks = base.mark_point(size=90, color=BLUE, opacity=1, strokeWidth=2).encode(
        x="difference:Q", fill=alt.condition("datum.clear", alt.value(BLUE), alt.value("white"))
    )
    height = alt.Step(30)
    return alt.layer(zero.encode(x="x:Q"), spans, marks).properties(height=height)


def running(frame: pd.DataFrame) -> Picture:
    """A difference and its interval by number of images drawn, and a line at zero.

    ``frame`` has the columns ``n``, ``difference``, ``low`` and ``high``, in points.
    """
    tooltip = [alt.Tooltip("n:Q", title="Images")]
    tooltip += [alt.Tooltip(f"{end}:Q", format="+.2f") for end in ("difference", "low", "high")]
    base = alt.Chart(frame).encode(x=alt.X("n:Q", title="Images drawn"), tooltip=tooltip)
    band = base.mark_area(color=BLUE, opacity=0.2).encode(
        y=alt.Y("low:Q", title="A - B, points"), y2="high:Q"
    )
    line = base.mark_line(color=BLUE, point=True, strokeWidth=2).encode(y="difference:Q")
    zero = alt.Chart(pd.DataFrame({"y": [0.0]})).mark_rule(color=GREY, strokeDash=[4, 3])
    return alt.layer(band, zero.encode(y="y:Q"), line).properties(height=260)


def bars_by_class(frame: pd.DataFrame, *, title: str, limit: float) -> Picture:
    """A gradient by class.

    ``frame`` has the columns ``label`` (class) and ``value``; ``limit`` is the end of the scale on
    both sides, the same for all panels of a row.
    """
    scale = alt.Scale(domain=[-limit, limit], nice=True)
    return (
        alt.Chart(frame)
        .mark_bar(size=18)
        .encode(
            x=alt.X("label:N", title="Class", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("value:Q", title="Gradient", scale=scale, axis=alt.Axis(tickCount=5)),
            color=alt.condition("datum.value < 0", alt.value(RED), alt.value(BLUE)),
            tooltip=["label:N", alt.Tooltip("value:Q", format=".4g")],
        )
        .properties(height=190, title=title)
    )


def simplex(marks: pd.DataFrame) -> Picture:
    """A triangle of predictions of three classes: arrows, paths and two predictions.

    ``marks`` has the columns ``kind``, ``x``, ``y``, ``x2``, ``y2``, ``order``, ``angle`` and
    ``text``, as ``field_marks`` and ``descent_marks`` of ``app.simplex`` make them.
    """
    scale = alt.Scale(domain=[-0.06, 1.06], nice=False)
    x = alt.X("x:Q", axis=None, scale=scale)
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.1, 0.98], nice=False))
    base = alt.Chart(marks).encode(x=x, y=y)

    def only(kind: str) -> Picture:
        return base.transform_filter(alt.datum.kind == kind)

    ends = {"x2": "x2:Q", "y2": "y2:Q"}
    head = {"angle": alt.Angle("angle:Q", scale=None)}
    colours = {"reference": ORANGE, "other": BLUE}
    layers = [only("edge").mark_rule(color=GREY).encode(**ends)]
    layers += [only("corner").mark_text(fontSize=12, fontWeight="bold").encode(text="text:N")]
    for side, colour in colours.items():
        arrow, wide = f"{side}-arrow", side == "reference"
        layers += [
            only(arrow).mark_rule(color=colour, strokeWidth=3 if wide else 1.4).encode(**ends),
            only(f"{arrow}-head")
            .mark_point(shape="triangle", size=90 if wide else 26, filled=True, color=colour)
            .encode(**head),
            only(f"{side}-path")
            .mark_line(color=colour, strokeWidth=2.5, strokeDash=[1, 0] if wide else [4, 2])
            .encode(order="order:Q"),
        ]
    for side, shape, colour in (
        ("reference", "square", ORANGE), ("detached", "square", "white"), ("other", "circle", BLUE)
    ):  # fmt: skip
        layers.append(
            only(side)
            .mark_point(
                shape=shape, size=170, fill=colour, opacity=1, strokeWidth=2.5,
                stroke=BLUE if side == "other" else ORANGE,
            )
            .encode(tooltip=alt.Tooltip("text:N", title="Prediction"))
        )  # fmt: skip
    return alt.layer(*layers).properties(height=250)


def embedding(frame: pd.DataFrame) -> Picture:
    """A t-SNE map: filled circles are clean images, hollow triangles adversarial ones.

    Colours and numbers are the classes. ``frame`` has the columns ``x``, ``y``, ``label`` and
    ``kind`` (clean, adversarial).
    """
    axis = alt.Axis(labels=False, ticks=False, title=None, grid=False, domain=False)
    colours = alt.Scale(scheme="tableau20")
    points = (
        alt.Chart(frame)
        .mark_point(size=48, opacity=0.85, strokeWidth=1.6)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False)),
            stroke=alt.Stroke("label:N", legend=None, scale=colours),
            fill=alt.Fill("label:N", legend=None, scale=colours),
            fillOpacity=alt.condition(alt.datum.kind == "clean", alt.value(0.75), alt.value(0)),
            shape=alt.Shape(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=["clean", "adversarial"], range=["circle", "triangle-up"]),
                legend=alt.Legend(
                    orient="top", symbolSize=80, symbolStrokeColor=GREY, symbolFillColor=GREY
                ),
            ),
            tooltip=["label:N", "kind:N"],
        )
    )
    centres = frame.groupby("label", as_index=False)[["x", "y"]].median()
    # White with a dark rim is readable on every class's colour, on light and dark pages.
    rims = {"color": "black", "stroke": "black", "strokeWidth": 3, "opacity": 0.75}
    numbers = [
        alt.Chart(centres)
        .mark_text(fontSize=15, fontWeight="bold", **style)
        .encode(x="x:Q", y="y:Q", text="label:N")
        for style in (rims, {"color": "white"})
    ]
    return alt.layer(points, *numbers).properties(height=430)


def _coloured(
    field: str,
    domain: Sequence[str],
    fixed: Mapping[str, str] | None = None,
    symbol: str | Any = alt.Undefined,
) -> alt.Color:
    fixed = fixed or {}
    free = itertools.cycle(colour for colour in PALETTE if colour not in fixed.values())
    colours = [fixed[name] if name in fixed else next(free) for name in domain]
    return alt.Color(
        f"{field}:N",
        title=None,
        scale=alt.Scale(domain=list(domain), range=colours),
        legend=_legend("top", symbolType=symbol) if len(domain) > 1 else None,
    )


def _shaped(field: str, domain: Sequence[str], orient: Side = "bottom") -> alt.Shape:
    """Shapes; their legend merges with that of the same field's colours if both are on top."""
    return alt.Shape(
        f"{field}:N",
        title=None,
        scale=alt.Scale(domain=list(domain), range=SHAPES[: len(domain)]),
        legend=_legend(orient, **({} if orient == "top" else GREY_MARKS)),
    )


def _legend(orient: Side, **options: Any) -> alt.Legend:
    """A legend in rows, or in one column on a phone."""
    columns = alt.ExprRef(f"width >= {HALF_PIXELS} ? 3 : 1")
    return alt.Legend(
        orient=orient, columns=columns, labelLimit=300, symbolOpacity=1, direction="horizontal",
        **options,
    )  # fmt: skip
