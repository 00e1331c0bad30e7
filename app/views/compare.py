"""Two runs image by image: paired difference, exact test, table of agreement, settings, curves."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import charts, queries
from app.settings import differences
from app.shared import (
    ask,
    has_database,
    heading,
    nothing_yet,
    one_of,
    plain,
)
from app.tabular import records
from app.words import protocol_text
from harness.evaluation.statistics import PairedComparison, compare_paired

QUESTIONS = ("under attack", "clean")
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
    left, right = st.columns(2)
    with left:
        a = one_of("First run", ids, key="a", help="A of A minus B.")
        row_a = _row(known, a)
    with right:
        b = one_of("Second run", ids, key="b", default=_partner(known, row_a))
        row_b = _row(known, b)
    if a == b:
        st.info("Both are the same run: choose two.")
        return
    _settings(a, b)
    _verdict(row_a, row_b)
    _curves(row_a, row_b)


def _row(known: pd.DataFrame, run_id: str) -> dict[str, Any]:
    return records(known[known["run_id"] == run_id])[0]


def _partner(known: pd.DataFrame, row: dict[str, Any]) -> str:
    """The newest other run on the same images, else any other."""
    others = known[known["run_id"] != row["run_id"]]
    like = others[others["data_sha256"] == row["data_sha256"]]
    return str((others if like.empty else like)["run_id"].iloc[0])


def _title(row: dict[str, Any]) -> str:
    return f"{row['title']} ({row['run_id']})"


def _settings(a: str, b: str) -> None:
    runs = [ask(queries.run, name) for name in (a, b)]
    found = differences(runs[0]["config"], runs[1]["config"])
    answers = found[~found["setting"].isin(["results", "device", "recipe", "data.root"])]
    settings = len(answers)
    if settings == 1:
        row = answers.iloc[0]
        st.caption(
            f"They differ in one setting: {plain(row['setting'])} is {plain(row['a'])} in A and "
            f"{plain(row['b'])} in B."
        )
    elif settings:
        st.warning(
            f"They differ in {settings} settings, so that no difference of results has one cause."
        )
    with st.expander(f"Settings that differ ({len(found)})"):
        st.dataframe(
            found,
            hide_index=True,
            column_config={
                "setting": st.column_config.TextColumn("Setting", pinned=True, help="Its path."),
                "a": st.column_config.TextColumn("A", help="Value in the first run."),
                "b": st.column_config.TextColumn("B", help="Value in the second run."),
            },
            alt=f"{len(found)} settings that differ",
        )


def _verdict(row_a: dict[str, Any], row_b: dict[str, Any]) -> None:
    same = ("data_sha256", "attacks", "norm", "eps", "attack_version")
    if row_a["data_sha256"] != row_b["data_sha256"]:
        st.info("The two were evaluated on different images, so they cannot be paired.")
        return
    if any(row_a[name] != row_b[name] and not _none(row_a, row_b, name) for name in same):
        st.warning(
            f"The protocols differ: A {plain(protocol_text(row_a))}; "
            f"B {plain(protocol_text(row_b))}. Only clean accuracy compares like with like."
        )
    attacked = bool(row_a["attacks"]) and bool(row_b["attacks"])
    question = one_of(
        "Which images count as right",
        QUESTIONS if attacked else QUESTIONS[1:],
        key="right",
        pills=True,
        help="Under attack: never broken by any stage. Clean: right unattacked.",
    )
    names = [row_a["run_id"], row_a["evaluation_id"], row_b["run_id"], row_b["evaluation_id"]]
    pairs = ask(queries.paired, *names)
    if pairs.empty:
        st.info("The two evaluations share no image, or their verdicts are not stored.")
        return
    right_a, right_b = _right(pairs, "a", question), _right(pairs, "b", question)
    result = compare_paired(right_a, right_b)
    _numbers(result, question)
    _two_by_two(result)
    _disagreements(pairs, right_a, right_b, question)


def _none(row_a: dict[str, Any], row_b: dict[str, Any], name: str) -> bool:
    return bool(pd.isna(row_a[name]) and pd.isna(row_b[name]))


def _right(pairs: pd.DataFrame, side: str, question: str) -> pd.Series[bool]:
    broken = pairs[f"broken_{side}"]
    return broken.isna() if question == "under attack" else broken.ne("clean")


def _numbers(result: PairedComparison, question: str) -> None:
    columns = st.columns(4)
    difference = 100 * result.difference
    columns[0].metric(f"A minus B, {question}", f"{difference:+.2f} points")
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


def _disagreements(
    pairs: pd.DataFrame, right_a: pd.Series[bool], right_b: pd.Series[bool], question: str
) -> None:
    differing = pairs[right_a != right_b].assign(right=right_a.map({True: "A", False: "B"}))
    with st.expander(f"Images on which just one is right ({len(differing)})"):
        seen = ("adv_a", "adv_b") if question == "under attack" else ("clean_a", "clean_b")
        st.dataframe(
            differing[["index", "label", "right", *seen]].head(LISTED),
            hide_index=True,
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
