"""Trade-offs: robustness against clean accuracy and against cost, printed and measured here."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import charts, queries
from app.components import (
    ask,
    has_database,
    heading,
    nothing_yet,
    one_named,
    one_of,
    plain,
    some_of,
)
from app.tradeoff import (
    AXES,
    SOURCES,
    pareto_front,
    printed_points,
    protocols,
    run_points,
    with_ends,
)


def page() -> None:
    """Two axes, a scatter with its Pareto front, and the points as a table."""
    heading(
        "Trade-offs",
        "One number against another: every printed row of the paper and every run here that has "
        "both, measured alike. The dashed line joins the points that no other beats in both.",
    )
    points = printed_points()
    if has_database():
        points = pd.concat([points, run_points(ask(_all_runs))], ignore_index=True)
    datasets = sorted(points["dataset"].unique(), key=lambda name: (name != "cifar100", name))
    columns = st.columns([1, 3])
    with columns[0]:
        dataset = one_of("Data set", datasets, key="ds", help="Only like is shown with like.")
    points = points[points["dataset"] == dataset]
    known = protocols(points)
    with columns[1]:
        protocol = one_named(
            "Protocol",
            known,
            key="protocol",
            default=known[0],
            help="How the points were measured. Only like is ranked with like.",
        )
    points = points[points["protocol"] == protocol]
    columns = st.columns([1, 1, 2])
    able = [name for name in AXES if points[AXES[name].field].notna().any()]
    if len(able) < 2:
        st.info(f"No point of {plain(dataset)} under this protocol has two numbers.")
        return
    defaults = _defaults(points, able)
    with columns[0]:
        y_name = one_named("Up", able, key="y", default=defaults[1], help="Vertical axis.")
    with columns[1]:
        x_name = one_named("Across", able, key="x", default=defaults[0], help="Horizontal axis.")
    with columns[2]:
        sources = some_of(
            "Source", list(SOURCES.values()), key="src", help="Where numbers are from."
        )
    if sources:
        points = points[points["source"].isin(sources)]
    _plot(points, x_name, y_name)
    if not has_database():
        nothing_yet("Only printed numbers are shown: there are no results in this folder yet.")


def _all_runs(database: Any) -> pd.DataFrame:
    return queries.runs(database, status=("success",), limit=5000)


def _defaults(points: pd.DataFrame, able: list[str]) -> tuple[str, str]:
    """The first two axes that the most points have both of."""
    pairs = [(x, y) for y in able for x in able if x != y]
    preferred = sorted(
        pairs,
        key=lambda pair: (
            -int(points[[AXES[name].field for name in pair]].notna().all(axis=1).sum()),
            pairs.index(pair),
        ),
    )
    x, y = preferred[0]
    return ("Clean accuracy (%)", y) if y != "Clean accuracy (%)" and _both(points, y) else (x, y)


def _both(points: pd.DataFrame, y: str) -> bool:
    return bool(points[["clean", AXES[y].field]].notna().all(axis=1).any())


def _plot(points: pd.DataFrame, x_name: str, y_name: str) -> None:
    x, y = AXES[x_name], AXES[y_name]
    shown = points.assign(
        x=points[x.field],
        y=points[y.field],
        y_low=points[y.field + "_low"] if y.field + "_low" in points else points[y.field],
        y_high=points[y.field + "_high"] if y.field + "_high" in points else points[y.field],
    ).dropna(subset=["x", "y"])
    shown = shown.fillna({"y_low": shown["y"], "y_high": shown["y"]})
    if shown.empty:
        st.info("No point has both numbers from these sources.")
        return
    front = pareto_front(shown, x_lower=x.lower_is_better, y_lower=y.lower_is_better)
    line = front if y.lower_is_better else with_ends(front, shown, x_lower=x.lower_is_better)
    chart = charts.tradeoff(
        shown,
        line,
        x_title=x_name,
        y_title=y_name,
        lower_is_better=x.lower_is_better,
        formats=(f".{x.decimals}f", f".{y.decimals}f"),
    )
    picked = st.altair_chart(
        chart,
        key="scatter",
        on_select="rerun",
        selection_mode="brush",
        alt=f"Scatter of {len(shown)} points, {y_name} against {x_name}",
    )
    names = ", ".join(f"{row.name_} ({row.arch})" for row in _named(front).itertuples())
    st.caption(
        f"{len(shown)} points. Not beaten in both: {plain(names)}. Bars are 95% intervals of one "
        "model, or deviations over seeds. Drag over points to list only them."
    )
    _listed(_within(shown, picked, x_name, y_name), x_name, y_name)


def _named(front: pd.DataFrame) -> pd.DataFrame:
    return front.rename(columns={"name": "name_"}).head(8)


def _within(shown: pd.DataFrame, picked: Any, x_name: str, y_name: str) -> pd.DataFrame:
    """The points inside the brush, or all without one."""
    brush = dict(picked.selection.get("brush") or {})
    for field in ("x", "y"):
        if brush.get(field):
            low, high = min(brush[field]), max(brush[field])
            shown = shown[shown[field].between(low, high)]
    return shown


def _listed(shown: pd.DataFrame, x_name: str, y_name: str) -> None:
    table = shown.sort_values("y", ascending=False)[
        ["name", "arch", "x", "y", "augmentation", "source", "where", "page"]
    ]
    st.dataframe(
        table,
        hide_index=True,
        placeholder="",
        column_config={
            "name": st.column_config.TextColumn("Method", pinned=True, help="As printed."),
            "arch": st.column_config.TextColumn("Network", help="With its teacher, if any."),
            "x": st.column_config.NumberColumn(
                x_name, format=f"%.{AXES[x_name].decimals}f", help="Horizontal axis."
            ),
            "y": st.column_config.NumberColumn(
                y_name, format=f"%.{AXES[y_name].decimals}f", help="Vertical axis."
            ),
            "augmentation": st.column_config.TextColumn("Training data", help="As printed."),
            "source": st.column_config.TextColumn("Source", help="Where the numbers are from."),
            "where": st.column_config.TextColumn("Where", help="Table of the paper, or the run."),
            "page": st.column_config.LinkColumn("Run", display_text="open", help="The run's page."),
        },
        alt=f"The {len(table)} points as a table",
    )


page()
