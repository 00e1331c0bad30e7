"""Compare: two runs image by image, with paired difference, exact test, images and settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, comparison, queries
from app import components as ui
from app.gallery import SIDE, class_names, disagreement_images
from app.labels import protocol_text, run_title, stage_title, watched_images
from app.newest import left_out, newest_runs, say_left_out
from harness.errors import UserError
from harness.evaluation.analysis.comparable import Evaluated, differences, settings
from harness.evaluation.analysis.paired import Comparison, cause_notes, compare, compare_seeds
from harness.evaluation.analysis.statistics import PairedComparison
from harness.store.text import counted

MAX_PICTURES = 12
MAX_LISTED = 200
# At most this many seeds of each model are read.
MAX_SEEDS = 10
SETTING_COLUMNS = {
    "setting": ui.text_column("Setting", "Path of the setting.", pinned=True),
    "a": ui.text_column("A", "Value in the first run."),
    "b": ui.text_column("B", "Value in the second run."),
}
IMAGE_COLUMNS = {
    "index": ui.number_column("Image", "Row of the test set."),
    "label": ui.text_column("Class", "True class."),
    "correct": ui.text_column("Correct", "The model that is correct."),
    "a": ui.text_column("A predicts", "Class that A predicts after the chosen stage."),
    "b": ui.text_column("B predicts", "Class that B predicts after the chosen stage."),
}


def page() -> None:
    """Show two selections, and the comparison below."""
    ui.heading(
        "Compare",
        "Two models evaluated on the same test images. Pairing the images can reveal a difference "
        "that two separate intervals would hide.",
    )
    found = newest_runs(queries.measured) if ui.has_database() else pd.DataFrame()
    known = ui.records(found)
    rows = comparison.by_run(known)
    say_left_out(found)
    if not rows:
        ui.nothing_yet("A comparison needs two finished runs of the same protocol.")
        return
    titles = {run_id: run_title(own[0]) for run_id, own in rows.items()}
    ids = list(rows)
    left, right = st.columns(2)
    with left:
        a = ui.one_named("First run (A)", ids, key="a", default=ids[0], titles=titles)
    with right:
        options = comparison.partners(rows, a)
        help = "Only runs that share a protocol and the test set with the first run."
        b = ui.one_named(
            "Second run (B)", options, key="b", default=options[0], titles=titles, help=help
        )
    alone = len({row["run_id"] for row in known}) - len(rows)
    if alone:
        read = " among the newest" if left_out(found) else ""
        st.caption(
            f"Not offered: {counted(alone, 'evaluated run')} whose protocol no other run{read} "
            "shares."
        )
    pair = comparison.common(rows, (a, b))
    if pair is not None:
        _compared(rows, pair[0], pair[1])


def _compared(
    rows: dict[str, list[dict[str, Any]]], row_a: dict[str, Any], row_b: dict[str, Any]
) -> None:
    a, b = (_evaluated(row) for row in (row_a, row_b))
    try:
        found = compare(a, b)
    except UserError as error:
        st.warning(ui.plain(str(error)))
        return
    names = {stage_title(name): name for name in found.metrics}
    last = next(reversed(names))
    chosen = ui.one_of(
        "Accuracy",
        list(names),
        key="right",
        default=last,
        pills=True,
        help="Clean: correct without an attack. A stage: still correct after it.",
    )
    name = names[chosen]
    result = found.metrics[name]
    st.subheader(comparison.result_line(result), anchor=False)
    st.markdown(
        f"A is **{ui.plain(row_a['title'])}**, B is **{ui.plain(row_b['title'])}**. "
        f"{ui.plain(chosen)} accuracy in percent, on {result.n:,} shared images; "
        f"{ui.plain(protocol_text(row_a))}."
    )
    seeds = _seeds(rows, row_a, row_b, name)
    if seeds:
        st.markdown(f"**Over seeds:** {ui.plain(seeds)}.")
    _notes(a, b, found)
    left, right = st.columns([3, 2])
    with left:
        frame = comparison.forest(found)
        ui.show_chart(
            charts.forest(frame),
            alt=f"Paired differences of {len(frame)} accuracies with 95% intervals",
        )
        st.caption("Bars are 95% intervals; a hollow mark means that the interval contains zero.")
    with right:
        _two_by_two(result)
        st.caption(f"Both correct or both wrong: {100 * result.agreement:.1f}% of the images.")
    st.markdown(ui.plain(comparison.meaning(result, a.protocol.get("population"))))
    _running(a, b, name)
    _disagreements(a, b, name)
    _settings(a, b)
    _curves(a, b, (row_a["title"], row_b["title"]))


def _evaluated(row: dict[str, Any]) -> Evaluated:
    return ui.query(queries.evaluated, row["run_id"], row["evaluation_id"])


def _seeds(
    rows: dict[str, list[dict[str, Any]]], row_a: dict[str, Any], row_b: dict[str, Any], name: str
) -> str:
    """The comparison over all seeds of both; empty for one seed each or seeds of one group."""
    groups = [_group(rows, row) for row in (row_a, row_b)]
    if row_a["seed_group"] == row_b["seed_group"] or all(len(group) == 1 for group in groups):
        return ""
    try:
        compared = compare_seeds([[_evaluated(each) for each in group] for group in groups])
    except UserError:
        # Together with the other seeds, there is no image that all share.
        return ""
    return comparison.seeds_line(compared, name)


def _group(rows: dict[str, list[dict[str, Any]]], row: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """The run and those that differ from it only in the seed, evaluated under the same protocol."""
    others = [
        each
        for own in rows.values()
        for each in own
        if each["seed_group"] == row["seed_group"]
        and each["like_key"] == row["like_key"]
        and each["run_id"] != row["run_id"]
    ]
    return [row, *others[: MAX_SEEDS - 1]]


def _notes(a: Evaluated, b: Evaluated, found: Comparison) -> None:
    """Warn of further differences between the runs, which may also explain the result."""
    causes = cause_notes(a, b)
    for note in causes:
        st.warning(ui.plain(note[0].upper() + note[1:]) + ".")
    for note in found.notes:
        if note not in causes:
            st.caption(ui.plain(note[0].upper() + note[1:]) + ".")


def _running(a: Evaluated, b: Evaluated, name: str) -> None:
    frame = comparison.running(a, b, name)
    if frame.empty:
        return
    st.subheader("Difference by number of images drawn", anchor=False)
    last = frame.iloc[-1]
    ui.show_chart(
        charts.running(frame),
        alt=f"Running difference with 95% interval, {last['difference']:+.2f} points at the end",
    )
    st.caption("The band is the 95% interval; it holds for all numbers of images simultaneously.")


def _two_by_two(result: PairedComparison) -> None:
    frame = pd.DataFrame(
        {"B correct": [result.both, result.only_b], "B wrong": [result.only_a, result.neither]},
        index=pd.Index(["A correct", "A wrong"]),
    )
    st.table(frame, alt="Images by whether A and B are correct")


def _disagreements(a: Evaluated, b: Evaluated, name: str) -> None:
    found = comparison.disagreements(a, b, name)
    if found.empty:
        return
    images = counted(len(found), "image")
    st.subheader(
        f"{images} on which exactly one model is correct · {stage_title(name)}", anchor=False
    )
    names = class_names(a.run["dataset"])
    for column in ("label", "a", "b"):
        found[column] = [ui.class_name(names, value) for value in found[column]]
    _pictures(a, b, found.head(MAX_PICTURES), name)
    with st.expander(f"As a table (the first {min(len(found), MAX_LISTED)})"):
        shown = found.head(MAX_LISTED)
        alt = f"The first {counted(len(shown), 'image')} on which exactly one model is correct"
        ui.show_table(shown, IMAGE_COLUMNS, alt)


def _pictures(a: Evaluated, b: Evaluated, found: pd.DataFrame, name: str) -> None:
    try:
        pictures, attacked = disagreement_images(
            str(ui.results_folder()),
            ((a.run["run_id"], a.evaluation_id), (b.run["run_id"], b.evaluation_id)),
            tuple(int(index) for index in found["index"]),
            (a.run["config"].get("data") or {}).get("root"),
            clean_only=name == "clean",
        )
    except UserError as error:
        st.caption(ui.plain(str(error)))
        return
    if not attacked:
        st.caption("The first of them, without an attack.")
    elif name in ("aa", "robust", a.protocol["attacks"][-1]):
        st.caption("The first of them: the clean image, then the adversarial images for A and B.")
    else:
        st.caption(
            "The first of them: the clean image, then the adversarial images for A and B after the "
            f"last stage. The predictions are those after {stage_title(name)}: a later stage may "
            "have broken the model that is still correct there."
        )
    with st.container(horizontal=True, gap="medium"):
        for row, picture in zip(ui.records(found), pictures, strict=True):
            st.image(
                picture,
                caption=ui.plain(f"#{row['index']}: {row['label']}. A: {row['a']}, B: {row['b']}"),
                width=(3 if attacked else 1) * SIDE,
                alt=f"Test image {row['index']}, on which only {row['correct']} is correct",
            )


def _settings(a: Evaluated, b: Evaluated) -> None:
    found = differences(settings(a.run), settings(b.run))
    rows = [
        {"setting": path, "a": json.dumps(values[0]), "b": json.dumps(values[1])}
        for path, values in found.items()
    ]
    with st.expander(f"Settings that differ ({len(rows)})"):
        frame = pd.DataFrame(rows, columns=list(SETTING_COLUMNS))
        ui.show_table(frame, SETTING_COLUMNS, f"{counted(len(rows), 'setting')} that differ")


def _curves(a: Evaluated, b: Evaluated, titles: tuple[str, str]) -> None:
    parts, watched = [], {}
    for side, run, title in zip("AB", (a.run, b.run), titles, strict=True):
        epochs = ui.query(queries.epochs, run["run_id"])
        attacked = bool(epochs["pgd_val"].notna().any())
        accuracy = 100 * epochs["pgd_val" if attacked else "clean_val"]
        series = f"{side}: {title}, {'under PGD' if attacked else 'clean'}"
        parts.append(pd.DataFrame({"epoch": epochs["epoch"], "series": series, "value": accuracy}))
        watched[side] = watched_images(run["config"])
    frame = pd.concat(parts).dropna(subset="value")
    if frame.empty:
        return
    st.subheader("Accuracy during training", anchor=False)
    names = list(dict.fromkeys(frame["series"]))
    chart = charts.lines(frame, y_title="Accuracy (%)", series=names)
    ui.show_chart(chart, alt="Accuracy of both runs by epoch")
    ends = frame.sort_values("epoch").groupby("series")["value"].last()
    values = "; ".join(f"{ui.plain(name)} ends at {value:.1f}%" for name, value in ends.items())
    images = ", ".join(f"{side} on {where}" for side, where in watched.items())
    st.caption(f"{values}. Measured after epochs: {images}. These are not evaluation results.")


page()
