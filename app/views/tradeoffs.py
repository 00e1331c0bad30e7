"""Trade-offs: robustness against clean accuracy or cost, printed, published and measured here."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import charts, queries
from app import components as ui
from app.tradeoff_points import (
    AXES,
    BOARD,
    IKL,
    SOURCES,
    Axis,
    fronts,
    labelled,
    near,
    printed_points,
    protocols,
    published_points,
    run_points,
    steps,
)
from harness.store.text import counted
from leaderboards.table import ROBUSTBENCH, SMALL

MAX_RUNS = 5000
MAX_NAMED = 5
# Width and height of the plot area in a window and on a phone, in pixels.
WIDE, NARROW = (950, 300), (250, 300)


def page() -> None:
    """Two axes, a scatter plot with a front for each kind of training data, and a table."""
    ui.heading(
        "Trade-offs",
        "One number plotted against another, under one attack, for the paper's rows, RobustBench's "
        "entries and the runs here. Colour shows the family of the loss, shape the source. Dashed "
        "lines are Pareto fronts, one for each kind of training data: a point is on its front if "
        "no other is as good in both numbers. Times have a front only if all are of one device.",
    )
    points, unmeasured = _points()
    datasets = sorted(points["dataset"].unique(), key=lambda name: (name != "cifar100", name))
    columns = st.columns([3, 4, 4, 4])
    with columns[0]:
        help = "Only points of the same dataset are shown together."
        dataset = ui.one_of("Dataset", datasets, key="ds", help=help)
    points = points[points["dataset"] == dataset]
    known = protocols(points)
    with columns[1]:
        help = "How the points were attacked. Only points of the same attack are shown together."
        protocol = ui.one_named("Attack", known, key="protocol", default=known[0], help=help)
    left_out = {f"{counted(unmeasured, 'run')} without a finished evaluation": unmeasured}
    others = int((points["protocol"] != protocol).sum())
    left_out[f"{others} under other attacks"] = others
    points = points[points["protocol"] == protocol]
    axes = [name for name in AXES if points[AXES[name].field].notna().any()]
    if len(axes) < 2:
        st.info(f"No point on {ui.plain(dataset)} under this attack has two numbers to plot.")
        return
    x_default, y_default = _defaults(points, axes)
    with columns[2]:
        y_name = ui.one_named("y axis", axes, key="y", default=y_default)
    with columns[3]:
        others_than_y = [name for name in axes if name != y_name]
        x_default = x_default if x_default != y_name else others_than_y[0]
        x_name = ui.one_named("x axis", others_than_y, key="x", default=x_default)
    points = _layers(points, left_out)
    _plot(points, x_name, y_name, left_out)
    if not ui.has_database():
        ui.nothing_yet("Only published numbers are shown: there are no results in this folder yet.")


def _points() -> tuple[pd.DataFrame, int]:
    """All points, and the number of runs without a finished evaluation."""
    points, unmeasured = printed_points(), 0
    published = ui.query_folder(published_points)
    points = pd.concat([points, published], ignore_index=True)
    if ui.has_database():
        runs = ui.query(queries.runs, limit=MAX_RUNS)
        unmeasured = int(runs["clean"].isna().sum())
        if len(runs) and (more := int(runs["found"].iloc[0]) - len(runs)) > 0:
            st.caption(
                f"Only the newest {len(runs):,} runs here are read; older runs left out: {more:,}."
            )
        points = pd.concat([points, run_points(runs)], ignore_index=True)
    return points, unmeasured


def _layers(points: pd.DataFrame, left_out: dict[str, int]) -> pd.DataFrame:
    """The points of the layers switched on; a layer without other points is always shown."""
    layers = {
        "rb": (
            ROBUSTBENCH, "RobustBench's entries", "from RobustBench", True, "As published there.",
        ),
        "small": (
            SMALL, "Small-scale runs", "small-scale", False,
            "Fewer images, smaller networks, fewer epochs: never ranked with published numbers.",
        ),
    }  # fmt: skip
    shown = pd.Series(True, points.index)
    with st.container(horizontal=True):
        for key, (badge, title, said, value, help) in layers.items():
            own = points["source"] == SOURCES[badge]
            count = int(own.sum())
            if own.all() or not count:
                continue
            if not ui.switch(f"{title} ({count})", key=key, value=value, help=help):
                left_out[f"{count} {said}"] = count
                shown &= ~own
    return points[shown]


def _defaults(points: pd.DataFrame, axes: list[str]) -> tuple[str, str]:
    """The x and y axes that most points have numbers for, x being clean accuracy if possible."""

    def both(x: str, y: str) -> int:
        return int(points[[AXES[x].field, AXES[y].field]].notna().all(axis=1).sum())

    pairs = [(x, y) for y in axes for x in axes if x != y]
    x, y = max(pairs, key=lambda pair: both(*pair))
    clean = "Clean accuracy (%)"
    return (clean, y) if y != clean and both(clean, y) else (x, y)


def _plot(points: pd.DataFrame, x_name: str, y_name: str, left_out: dict[str, int]) -> None:
    x, y = AXES[x_name], AXES[y_name]
    shown = points.assign(x=points[x.field], y=points[y.field]).dropna(subset=["x", "y"])
    shown["short"] = shown["name"].str.split(" (", regex=False).str[0]
    missing = len(points) - len(shown)
    left_out[f"{missing} without one of the two numbers"] = missing
    for end in ("low", "high"):
        shown[f"y_{end}"] = shown.get(f"{y.field}_{end}", shown["y"]).fillna(shown["y"])
    if shown.empty:
        st.info("No point has numbers for both axes.")
        return
    if not x.lower_is_better and not y.lower_is_better:
        kept = near(shown)
        left_out[f"{int((~kept).sum())} from RobustBench far below the rest"] = int((~kept).sum())
        shown = shown[kept]
    published = shown["source"] == SOURCES[ROBUSTBENCH]
    # RobustBench's entries are drawn first and small, so that the other points stand out.
    shown = shown.assign(size=published.map({True: 30, False: 90})).sort_values(
        "size", kind="stable"
    )
    found = fronts(shown, x_lower=x.lower_is_better, y_lower=y.lower_is_better)
    lines = {
        data: front if y.lower_is_better else steps(front, shown, x_lower=x.lower_is_better)
        for data, front in found.items()
    }
    on_front = pd.Index([index for front in found.values() for index in front.index])
    for column, size in (("label", WIDE), ("short_label", NARROW)):
        shown[column] = shown["short"].where(labelled(shown, on_front, size), "")
    chart = charts.tradeoff(
        shown,
        lines,
        x_title=x_name,
        y_title=y_name,
        x_lower=x.lower_is_better,
        colours={IKL: charts.BLUE, BOARD: charts.GREY},
        formats=(f".{x.decimals}f", f".{y.decimals}f"),
    )
    selected = ui.show_chart(
        chart,
        alt=f"Scatter of {counted(len(shown), 'point')}, {y_name} against {x_name}",
        # In another chart, the brush would leave out points that nothing on the page names.
        key=f"scatter {' '.join(shown[['dataset', 'protocol']].iloc[0])} {x_name} {y_name}",
        on_select="rerun",
        selection_mode="brush",
    )
    st.caption(f"{counted(len(shown), 'point')}. Left out: {_said(left_out)}.")
    for data, front in found.items():
        title = ui.plain(data[0].upper() + data[1:])
        st.markdown(f"**{title}**, on the front (x / y): {ui.plain(_named(front, x, y))}.")
    st.caption(
        "Bars are the 95% interval of one model, or one standard deviation over seeds. Drag across "
        "the chart to list only the points inside."
    )
    _list(_within(shown, selected), x_name, y_name)


def _said(left_out: dict[str, int]) -> str:
    return ", ".join(text for text, count in left_out.items() if count) or "nothing"


def _named(front: pd.DataFrame, x: Axis, y: Axis) -> str:
    names = ", ".join(
        f"{row['name']} ({row['arch']}) {row['x']:.{x.decimals}f} / {row['y']:.{y.decimals}f}"
        for row in ui.records(front.head(MAX_NAMED))
    )
    return names + (f" and {len(front) - MAX_NAMED} more" if len(front) > MAX_NAMED else "")


def _within(shown: pd.DataFrame, selected: Any) -> pd.DataFrame:
    """The points inside the brush, or all if nothing is brushed."""
    brush = dict(selected.selection.get("brush") or {})
    for field in ("x", "y"):
        if brush.get(field):
            shown = shown[shown[field].between(min(brush[field]), max(brush[field]))]
    return shown


def _list(shown: pd.DataFrame, x_name: str, y_name: str) -> None:
    columns = {
        "name": ui.text_column("Method", "As its source names it.", pinned=True),
        "x": ui.number_column(x_name, "The x axis.", f"%.{AXES[x_name].decimals}f"),
        "y": ui.number_column(y_name, "The y axis.", f"%.{AXES[y_name].decimals}f"),
        "arch": ui.text_column("Architecture", "With its teacher, if any."),
        "training_data": ui.text_column("Training data", "Data used beyond the training set."),
        "augmentation": ui.text_column("As printed", "The training data as printed or recorded."),
        "source": ui.text_column("Source", "Where the numbers come from."),
        "note": ui.text_column("Measured on", "Number of test images and of seeds, and remarks."),
        "where": ui.text_column("Where", "Table of the paper, citation, or run."),
        "page": st.column_config.LinkColumn("Run", display_text="open", help="The run's page."),
    }
    columns = {
        name: column for name, column in columns.items() if name != "page" or shown[name].any()
    }
    table = shown.sort_values("y", ascending=AXES[y_name].lower_is_better)[list(columns)]
    ui.show_table(table, columns, f"{counted(len(table), 'point')} as a table")


page()
