"""A chart of the field: accuracy under attack against clean accuracy, with the paper's models."""

from __future__ import annotations

import altair as alt
import pandas as pd

from app.charts import BLUE, GREY, GREY_MARKS, ORANGE, Picture
from leaderboards.field import RANKED_BY
from leaderboards.table import MEANINGS, PRINTED, REPRODUCED, ROBUSTBENCH, Row, Table

SUBJECT, OTHERS = "IKL (the paper's loss)", "other methods"
SHAPES = {PRINTED: "circle", ROBUSTBENCH: "square", REPRODUCED: "triangle-up"}
# Labels closer than this, in points of accuracy, would overlap.
ROOM = (5.0, 0.9)


def field_points(table: Table) -> pd.DataFrame:
    """The rows of a field with both numbers: ``x``, ``y``, ``name``, ``family``, ``source``.

    ``label`` names the leader and the best of each kind of the paper's models, if there is room.
    """
    points = []
    for row in table.rows:
        clean, robust = row.number("clean"), row.number(RANKED_BY)
        if clean is not None and robust is not None:
            points.append(
                {
                    "x": clean.value,
                    "y": robust.value,
                    "name": table.name_of(row),
                    "arch": row.facts["arch"],
                    "data": row.facts["augmentation"],
                    "family": SUBJECT if table.is_subject(row) else OTHERS,
                    "source": f"{robust.badge}: {MEANINGS[robust.badge]}",
                    "short": _short(table, row),
                }
            )
    frame = pd.DataFrame(points).sort_values("y", ascending=False, ignore_index=True)
    taken: list[tuple[float, float]] = []
    labels = []
    for point in frame.to_dict("records"):
        near = any(
            abs(point["x"] - x) < ROOM[0] and abs(point["y"] - y) < ROOM[1] for x, y in taken
        )
        named = point["short"] in labels
        shown = not near and not named and (point["family"] == SUBJECT or not taken)
        labels.append(point["short"] if shown else "")
        if shown:
            taken.append((point["x"], point["y"]))
    return frame.assign(label=labels)


def _short(table: Table, row: Row) -> str:
    if not table.is_subject(row):
        return table.name_of(row).partition("_")[0]
    generated = row.facts["augmentation"].partition(" ")[0]
    ours = "ours: " * (row.facts["source"] == REPRODUCED)
    size = f", {generated}" if generated.endswith("M") else ""
    return f"{ours}IKL, {row.facts['arch']}{size}"


def field_chart(table: Table) -> tuple[Picture, int]:
    """The chart, and the number of models in it."""
    points = field_points(table)
    x = alt.X("x:Q", title="Clean accuracy (%)", scale=alt.Scale(zero=False))
    y = alt.Y("y:Q", title="Lowest known accuracy under attack (%)", scale=alt.Scale(zero=False))
    sources = sorted(points["source"].unique())
    marks = (
        alt.Chart(points)
        .mark_point(filled=True, opacity=0.85)
        .encode(
            x=x,
            y=y,
            color=alt.Color("family:N", title=None, legend=alt.Legend(orient="top")).scale(
                domain=[SUBJECT, OTHERS], range=[ORANGE, GREY]
            ),
            shape=alt.Shape(
                "source:N",
                title=None,
                legend=alt.Legend(orient="top", labelLimit=300, **GREY_MARKS),
            ).scale(domain=sources, range=[SHAPES[name.partition(":")[0]] for name in sources]),
            size=alt.condition(f"datum.family === {SUBJECT!r}", alt.value(130), alt.value(50)),
            stroke=alt.condition(f"datum.family === {SUBJECT!r}", alt.value(BLUE), alt.value(None)),
            tooltip=[
                alt.Tooltip("name:N", title="Method"),
                alt.Tooltip("arch:N", title="Architecture"),
                alt.Tooltip("data:N", title="Training data"),
                alt.Tooltip("x:Q", title="Clean", format=".2f"),
                alt.Tooltip("y:Q", title="Under attack", format=".2f"),
                alt.Tooltip("source:N", title="Source"),
            ],
        )
    )
    names = (
        alt.Chart(points)
        .mark_text(align="right", dx=-9, fontSize=11)
        .encode(x=x, y=y, text="label:N")
    )
    return alt.layer(marks, names).properties(height=420), len(points)
