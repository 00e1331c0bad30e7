"""Trade-offs: robustness against clean accuracy or cost, printed and measured here."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import charts, queries
from app import components as ui
from app.tradeoff_points import AXES, SOURCES, printed_points, protocols, run_points, steps
from leaderboards.render.plots import pareto_front

MAX_RUNS = 5000
MAX_NAMED = 8


def page() -> None:
    """Two axes, a scatter plot with its Pareto front, and the points as a table."""
    ui.heading(
        "Trade-offs",
        "One number against another, for every printed row of the paper and every run here that "
        "has both, by one protocol. The dashed line is the Pareto front: no other point is as "
        "good in both numbers.",
    )
    points = printed_points()
    if ui.has_database():
        runs = ui.query(queries.runs, status=("success",), limit=MAX_RUNS)
        points = pd.concat([points, run_points(runs)], ignore_index=True)
    datasets = sorted(points["dataset"].unique(), key=lambda name: (name != "cifar100", name))
    columns = st.columns([1, 3])
    with columns[0]:
        help = "Only points of the same dataset are shown together."
        dataset = ui.one_of("Dataset", datasets, key="ds", help=help)
    points = points[points["dataset"] == dataset]
    known = protocols(points)
    with columns[1]:
        help = "How the points were measured. Only points of the same protocol are compared."
        protocol = ui.one_named("Protocol", known, key="protocol", default=known[0], help=help)
    points = points[points["protocol"] == protocol]
    axes = [name for name in AXES if points[AXES[name].field].notna().any()]
    if len(axes) < 2:
        st.info(f"No point of {ui.plain(dataset)} by this protocol has two numbers.")
        return
    x_default, y_default = _defaults(points, axes)
    columns = st.columns([1, 1, 2])
    with columns[0]:
        y_name = ui.one_named("y axis", axes, key="y", default=y_default)
    with columns[1]:
        x_name = ui.one_named("x axis", axes, key="x", default=x_default)
    with columns[2]:
        help = "Where numbers are from."
        sources = ui.some_of("Source", list(SOURCES.values()), key="src", help=help)
    if sources:
        points = points[points["source"].isin(sources)]
    _plot(points, x_name, y_name)
    if not ui.has_database():
        ui.nothing_yet("Only printed numbers are shown: there are no results in this folder yet.")


def _defaults(points: pd.DataFrame, axes: list[str]) -> tuple[str, str]:
    """The x and y axes that most points have both of, x being clean accuracy where possible."""

    def both(x: str, y: str) -> int:
        return int(points[[AXES[x].field, AXES[y].field]].notna().all(axis=1).sum())

    pairs = [(x, y) for y in axes for x in axes if x != y]
    x, y = max(pairs, key=lambda pair: both(*pair))
    clean = "Clean accuracy (%)"
    return (clean, y) if y != clean and both(clean, y) else (x, y)


def _plot(points: pd.DataFrame, x_name: str, y_name: str) -> None:
    x, y = AXES[x_name], AXES[y_name]
    shown = points.assign(x=points[x.field], y=points[y.field]).dropna(subset=["x", "y"])
    for end in ("low", "high"):
        shown[f"y_{end}"] = shown.get(f"{y.field}_{end}", shown["y"]).fillna(shown["y"])
    if shown.empty:
        st.info("No point has both numbers from these sources.")
        return
    front = shown.loc[
        pareto_front(
            list(zip(shown["x"], shown["y"], shown.index, strict=True)),
            x_lower=x.lower_is_better,
            y_lower=y.lower_is_better,
        )
    ]
    line = front if y.lower_is_better else steps(front, shown, x_lower=x.lower_is_better)
    chart = charts.tradeoff(
        shown,
        line,
        x_title=x_name,
        y_title=y_name,
        lower_is_better=x.lower_is_better,
        formats=(f".{x.decimals}f", f".{y.decimals}f"),
    )
    selected = ui.show_chart(
        chart,
        key="scatter",
        on_select="rerun",
        selection_mode="brush",
        alt=f"Scatter of {len(shown)} points, {y_name} against {x_name}",
    )
    best = front.head(MAX_NAMED)
    names = ", ".join(
        f"{name} ({arch})" for name, arch in zip(best["name"], best["arch"], strict=True)
    )
    more = f" and {len(front) - MAX_NAMED} more" if len(front) > MAX_NAMED else ""
    st.caption(
        f"{len(shown)} points. On the Pareto front: {ui.plain(names)}{more}. Bars are 95% "
        "intervals of one model. Drag over points to list only those."
    )
    _list(_within(shown, selected), x_name, y_name)


def _within(shown: pd.DataFrame, selected: Any) -> pd.DataFrame:
    """The points inside the brush, or all without one."""
    brush = dict(selected.selection.get("brush") or {})
    for field in ("x", "y"):
        if brush.get(field):
            shown = shown[shown[field].between(min(brush[field]), max(brush[field]))]
    return shown


def _list(shown: pd.DataFrame, x_name: str, y_name: str) -> None:
    columns = {
        "name": ui.text_column("Method", "As printed.", pinned=True),
        "arch": ui.text_column("Architecture", "With its teacher, if any."),
        "x": ui.number_column(x_name, "The x axis.", f"%.{AXES[x_name].decimals}f"),
        "y": ui.number_column(y_name, "The y axis.", f"%.{AXES[y_name].decimals}f"),
        "augmentation": ui.text_column("Augmentation", "As printed."),
        "source": ui.text_column("Source", "Where the numbers are from."),
        "where": ui.text_column("Where", "Table of the paper, or the run."),
        "page": st.column_config.LinkColumn("Run", display_text="open", help="The run's page."),
    }
    table = shown.sort_values("y", ascending=False)[list(columns)]
    ui.show_table(table, columns, f"The {len(table)} points as a table")


page()
