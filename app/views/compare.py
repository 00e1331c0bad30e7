"""Two runs image by image: paired difference, exact test, table of agreement, settings, curves."""

from __future__ import annotations

import json
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
    plain,
    records,
)
from app.labels import protocol_text, run_title, stage_title
from harness.errors import UserError
from harness.evaluation.analysis.paired import Evaluated, compare, differences, shared_correct
from harness.evaluation.analysis.statistics import PairedComparison

LISTED = 200


def page() -> None:
    """Two choices above, what tells them apart below."""
    heading(
        "Compare",
        "Two models on the same images. Pairing removes what both find hard, so a difference that "
        "two separate intervals hide can be seen.",
    )
    if not has_database():
        nothing_yet("Two finished runs are needed.")
        return
    known = ask(queries.comparable)
    if len(known) < 2:
        nothing_yet("Two finished runs are needed, and there are not two.")
        return
    ids = known["run_id"].tolist()
    titles = {row["run_id"]: run_title(row) for row in records(known)}
    left, right = st.columns(2)
    with left:
        a = one_named(
            "First run", ids, key="a", default=ids[0], help="A of A minus B.", titles=titles
        )
        row_a = _row(known, a)
    with right:
        b = one_named("Second run", ids, key="b", default=_partner(known, row_a), titles=titles)
        row_b = _row(known, b)
    if a == b:
        st.info("Both are the same run: choose two.")
        return
    first, second = (
        ask(queries.evaluated, row["run_id"], row["evaluation_id"]) for row in (row_a, row_b)
    )
    _settings(first, second)
    _verdict(first, second)
    _curves(row_a, row_b)


def _row(known: pd.DataFrame, run_id: str) -> dict[str, Any]:
    row: dict[str, Any] = records(known[known["run_id"] == run_id])[0]
    return row


def _partner(known: pd.DataFrame, row: dict[str, Any]) -> str:
    """The newest other run on the same images, else any other."""
    others = known[known["run_id"] != row["run_id"]]
    like = others[others["data_sha256"] == row["data_sha256"]]
    return str((others if like.empty else like)["run_id"].iloc[0])


def _settings(a: Evaluated, b: Evaluated) -> None:
    found = differences(a.run, b.run)
    frame = pd.DataFrame(
        [
            {"setting": path, "a": json.dumps(values[0]), "b": json.dumps(values[1])}
            for path, values in found.items()
        ],
        columns=["setting", "a", "b"],
    )
    if len(found) == 1:
        row = records(frame)[0]
        st.caption(
            f"They differ in one setting: {plain(row['setting'])} is {plain(row['a'])} in A and "
            f"{plain(row['b'])} in B."
        )
    elif found:
        st.warning(
            f"They differ in {len(found)} settings, so that no difference of results has one cause."
        )
    else:
        st.caption("Their settings are the same.")
    with st.expander(f"Settings that differ ({len(found)})"):
        st.dataframe(
            frame,
            hide_index=True,
            placeholder="",
            column_config={
                "setting": st.column_config.TextColumn("Setting", pinned=True, help="Its path."),
                "a": st.column_config.TextColumn("A", help="Value in the first run."),
                "b": st.column_config.TextColumn("B", help="Value in the second run."),
            },
            alt=f"{len(found)} settings that differ",
        )


def _verdict(a: Evaluated, b: Evaluated) -> None:
    try:
        found = compare(a, b)
    except UserError as error:
        st.warning(plain(str(error)))
        return
    for note in found.notes:
        st.caption(plain(note))
    own = [
        protocol_text({**each.protocol, "attacks": ",".join(each.protocol["attacks"])})
        for each in (a, b)
    ]
    st.markdown(
        f"Both measured by: **{plain(own[0])}**"
        if own[0] == own[1]
        else f"A measured by: **{plain(own[0])}**. B measured by: **{plain(own[1])}**."
    )
    names = list(found.metrics)
    metric = one_named(
        "Images count as right",
        [stage_title(name) for name in names],
        key="right",
        default=stage_title(names[-1]),
        help="Clean: right unattacked. A stage: not broken by it or by one before it.",
    )
    name = next(name for name in names if stage_title(name) == metric)
    _numbers(found.metrics[name], metric)
    _two_by_two(found.metrics[name])
    _disagreements(a, b, name)


def _numbers(result: PairedComparison, metric: str) -> None:
    columns = st.columns(4)
    difference = 100 * result.difference
    columns[0].metric(f"A minus B, {metric}", f"{difference:+.2f} points")
    columns[0].caption(f"95% [{100 * result.low:+.2f}, {100 * result.high:+.2f}] (Newcombe)")
    columns[1].metric("Exact McNemar p", _p_text(result.p_value))
    columns[1].caption("that both are equally often right")
    columns[2].metric("Agreement", f"{100 * result.agreement:.1f}%")
    columns[2].caption("both right or both wrong")
    columns[3].metric("Shared images", f"{result.n:,}")
    if result.low <= 0 <= result.high:
        st.markdown(
            f"The interval holds zero: on these {result.n:,} images neither is shown to be better."
        )
    else:
        better, worse = ("A", "B") if difference > 0 else ("B", "A")
        st.markdown(
            f"**{better}** is right more often than {worse}, by {abs(difference):.2f} points on "
            "the same images. Seeds are another source of spread, which one pair does not show."
        )


def _p_text(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _two_by_two(result: PairedComparison) -> None:
    frame = pd.DataFrame(
        {
            "B right": [result.both, result.only_b],
            "B wrong": [result.only_a, result.neither],
        },
        index=pd.Index(["A right", "A wrong"]),
    )
    st.table(frame, alt="Images by whether A and B are right")
    st.caption(
        f"The test rests on the {result.only_a + result.only_b} images on which just one is right: "
        f"{result.only_a} for A, {result.only_b} for B."
    )


def _disagreements(a: Evaluated, b: Evaluated, name: str) -> None:
    (right_a, right_b), _ = shared_correct((a, b))
    pairs = a.verdicts.merge(b.verdicts, on=["index", "label"], suffixes=("_a", "_b"))
    pairs = pairs.sort_values("index").assign(
        right=pd.Series(right_a[name]).map({True: "A", False: "B"}).to_numpy()
    )
    differing = pairs[right_a[name] != right_b[name]]
    with st.expander(f"Images on which just one is right ({len(differing)})"):
        seen = ("clean_pred_a", "clean_pred_b") if name == "clean" else ("adv_pred_a", "adv_pred_b")
        st.dataframe(
            differing[["index", "label", "right", *seen]].head(LISTED),
            hide_index=True,
            placeholder="",
            column_config={
                "index": st.column_config.NumberColumn("Image", help="Row of the test set."),
                "label": st.column_config.NumberColumn("Class", help="True class."),
                "right": st.column_config.TextColumn("Right", help="Which model is right."),
                seen[0]: st.column_config.NumberColumn("A sees", help="Predicted by A."),
                seen[1]: st.column_config.NumberColumn("B sees", help="Predicted by B."),
            },
            alt=f"The first {min(len(differing), LISTED)} images on which just one is right",
        )


def _curves(row_a: dict[str, Any], row_b: dict[str, Any]) -> None:
    parts = []
    for side, row in (("A", row_a), ("B", row_b)):
        epochs = ask(queries.epochs, row["run_id"])
        watched = epochs["pgd_val"].fillna(epochs["clean_val"])
        series = f"{side}: {row['title']}"
        parts.append(
            pd.DataFrame({"epoch": epochs["epoch"], "series": series, "value": 100 * watched})
        )
    frame = pd.concat(parts).dropna(subset="value")
    if frame.empty:
        return
    st.subheader("Watched accuracy over training", anchor=False)
    names = list(dict.fromkeys(frame["series"]))
    chart = charts.lines(frame, y_title="Accuracy (%)", series=names)
    st.altair_chart(chart, alt="Watched accuracy of both runs over epochs")
    ends = frame.sort_values("epoch").groupby("series")["value"].last()
    told = "; ".join(f"{plain(name)} ends at {value:.1f}%" for name, value in ends.items())
    st.caption(f"{told}. Watched images are a subset: the numbers above are the evaluation.")


page()
