"""Compare: two runs image by image, with paired difference, exact test, settings and curves."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, queries
from app import components as ui
from app.labels import protocol_text, run_title, stage_title
from harness.errors import UserError
from harness.evaluation.analysis.paired import (
    Evaluated,
    compare,
    differences,
    settings,
    shared_correct,
)
from harness.evaluation.analysis.statistics import PairedComparison

MAX_LISTED = 200
SETTING_COLUMNS = {
    "setting": ui.text_column("Setting", "Path of the setting.", pinned=True),
    "a": ui.text_column("A", "Value in the first run."),
    "b": ui.text_column("B", "Value in the second run."),
}
IMAGE_COLUMNS = {
    "index": ui.number_column("Image", "Row of the test set."),
    "label": ui.number_column("Class", "True class."),
    "correct": ui.text_column("Correct", "The model that is correct."),
    "a": ui.number_column("A predicts", "Class predicted by A."),
    "b": ui.number_column("B predicts", "Class predicted by B."),
}


def page() -> None:
    """Two choices above, what differs below."""
    ui.heading(
        "Compare",
        "Two models on the same test images. Pairing the images can show a difference that two "
        "separate intervals would hide.",
    )
    known = ui.query(queries.comparable) if ui.has_database() else pd.DataFrame()
    if len(known) < 2:
        ui.nothing_yet("A comparison needs two finished runs.")
        return
    rows = {row["run_id"]: row for row in ui.records(known)}
    titles = {run_id: run_title(row) for run_id, row in rows.items()}
    ids = list(rows)
    left, right = st.columns(2)
    with left:
        a = ui.one_named("First run (A)", ids, key="a", default=ids[0], titles=titles)
    row_a = rows[a]
    with right:
        default = _partner(known, row_a)
        b = ui.one_named("Second run (B)", ids, key="b", default=default, titles=titles)
    row_b = rows[b]
    if a == b:
        st.info("Both are the same run: choose two different ones.")
        return
    first, second = (
        ui.query(queries.evaluated, row["run_id"], row["evaluation_id"]) for row in (row_a, row_b)
    )
    _settings(first, second)
    _result(first, second)
    _curves(row_a, row_b)


def _partner(known: pd.DataFrame, row: dict[str, Any]) -> str:
    """The newest other run that may be compared, else one on the same images, else any other."""
    others = known[known["run_id"] != row["run_id"]]
    for name in ("like_key", "data_sha256"):
        like = others[others[name] == row[name]]
        if not like.empty:
            return str(like["run_id"].iloc[0])
    return str(others["run_id"].iloc[0])


def _settings(a: Evaluated, b: Evaluated) -> None:
    found = differences(settings(a.run), settings(b.run))
    rows = [
        {"setting": path, "a": json.dumps(values[0]), "b": json.dumps(values[1])}
        for path, values in found.items()
    ]
    if len(rows) == 1:
        row = {name: ui.plain(text) for name, text in rows[0].items()}
        st.caption(
            f"The runs differ in one setting: {row['setting']} is {row['a']} in A and {row['b']} "
            "in B."
        )
    elif rows:
        st.warning(
            f"The runs differ in {len(rows)} settings, so a difference of results has no single "
            "cause."
        )
    else:
        st.caption("The runs have the same settings.")
    with st.expander(f"Settings that differ ({len(rows)})"):
        frame = pd.DataFrame(rows, columns=list(SETTING_COLUMNS))
        ui.show_table(frame, SETTING_COLUMNS, f"{len(rows)} settings that differ")


def _result(a: Evaluated, b: Evaluated) -> None:
    try:
        found = compare(a, b)
    except UserError as error:
        st.warning(ui.plain(str(error)))
        return
    for note in found.notes:
        st.caption(ui.plain(note))
    protocols = [
        ui.plain(protocol_text({**each.protocol, "attacks": ",".join(each.protocol["attacks"])}))
        for each in (a, b)
    ]
    st.markdown(
        f"Both evaluated by: **{protocols[0]}**"
        if protocols[0] == protocols[1]
        else f"A evaluated by: **{protocols[0]}**. B evaluated by: **{protocols[1]}**."
    )
    names = {stage_title(name): name for name in found.metrics}
    title = ui.one_named(
        "Accuracy",
        list(names),
        key="right",
        default=list(names)[-1],
        help="Clean: correct without an attack. A stage: not broken by it or by an earlier one.",
    )
    name = names[title]
    _numbers(found.metrics[name], title)
    _two_by_two(found.metrics[name])
    _disagreements(a, b, name)


def _numbers(result: PairedComparison, title: str) -> None:
    columns = st.columns(4)
    difference = 100 * result.difference
    columns[0].metric(f"A minus B, {title}", f"{difference:+.2f} points")
    columns[0].caption(
        f"95% interval [{100 * result.low:+.2f}, {100 * result.high:+.2f}] (Newcombe)"
    )
    p_value = "< 0.0001" if result.p_value < 1e-4 else f"{result.p_value:.4f}"
    columns[1].metric("Exact McNemar p", p_value)
    columns[1].caption("null hypothesis: both are equally accurate")
    columns[2].metric("Agreement", f"{100 * result.agreement:.1f}%")
    columns[2].caption("both correct or both wrong")
    columns[3].metric("Shared images", f"{result.n:,}")
    if result.low <= 0 <= result.high:
        st.markdown(
            f"The interval contains zero: these {result.n:,} images do not show that either model "
            "is better."
        )
    else:
        better, worse = ("A", "B") if difference > 0 else ("B", "A")
        st.markdown(
            f"**{better}** is correct more often than {worse}, by {abs(difference):.2f} points on "
            "the same images. One pair of runs does not show how much results vary between seeds."
        )


def _two_by_two(result: PairedComparison) -> None:
    frame = pd.DataFrame(
        {"B correct": [result.both, result.only_b], "B wrong": [result.only_a, result.neither]},
        index=pd.Index(["A correct", "A wrong"]),
    )
    st.table(frame, alt="Images by whether A and B are correct")
    st.caption(
        f"The test uses the {result.only_a + result.only_b} images on which exactly one model is "
        f"correct: A on {result.only_a}, B on {result.only_b}."
    )


def _disagreements(a: Evaluated, b: Evaluated, name: str) -> None:
    (correct_a, correct_b), _ = shared_correct((a, b))
    pairs = a.verdicts.merge(b.verdicts, on=["index", "label"], suffixes=("_a", "_b"))
    prediction = "clean_pred" if name == "clean" else "adv_pred"
    pairs = pairs.sort_values("index").assign(
        correct=pd.Series(correct_a[name]).map({True: "A", False: "B"}).to_numpy(),
        a=lambda frame: frame[f"{prediction}_a"],
        b=lambda frame: frame[f"{prediction}_b"],
    )
    differing = pairs[correct_a[name] != correct_b[name]]
    with st.expander(f"Images on which exactly one model is correct ({len(differing)})"):
        shown = differing[list(IMAGE_COLUMNS)].head(MAX_LISTED)
        alt = f"The first {len(shown)} images on which exactly one model is correct"
        ui.show_table(shown, IMAGE_COLUMNS, alt)


def _curves(row_a: dict[str, Any], row_b: dict[str, Any]) -> None:
    parts = []
    for side, row in (("A", row_a), ("B", row_b)):
        epochs = ui.query(queries.epochs, row["run_id"])
        accuracy = epochs["pgd_val"].fillna(epochs["clean_val"])
        series = f"{side}: {row['title']}"
        parts.append(
            pd.DataFrame({"epoch": epochs["epoch"], "series": series, "value": 100 * accuracy})
        )
    frame = pd.concat(parts).dropna(subset="value")
    if frame.empty:
        return
    st.subheader("Validation accuracy during training", anchor=False)
    names = list(dict.fromkeys(frame["series"]))
    chart = charts.lines(frame, y_title="Accuracy (%)", series=names)
    st.altair_chart(chart, alt="Validation accuracy of both runs by epoch")
    ends = frame.sort_values("epoch").groupby("series")["value"].last()
    values = "; ".join(f"{ui.plain(name)} ends at {value:.1f}%" for name, value in ends.items())
    st.caption(f"{values}. These are validation images: the numbers above are the evaluation.")


page()
