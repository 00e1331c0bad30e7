"""The tabs of a run's page that show one evaluation's verdicts: attack stages, classes, samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, commands, queries
from app import components as ui
from app.gallery import SIDE, ImagesNotKept, adversarial_images, class_names
from app.labels import stage_title
from harness.errors import UserError
from harness.store.text import counted
from leaderboards.protocols import attacks_of

SAMPLE_ROWS = 10
# More classes would make the chart thousands of pixels high.
MAX_CLASSES = 100
STAGE_COLUMNS = {
    "stage": ui.text_column("Stage", "Stages in the order of attack.", pinned=True),
    "attacked": ui.number_column("Attacked", "Images that the stage attacked."),
    "broken": ui.number_column("Broken", "Images that the stage made the model misclassify."),
    "left": ui.number_column("Left %", "Accuracy after the stage.", "%.2f"),
    "low": ui.number_column("95% low", "Lower end of the 95% interval.", "%.2f"),
    "high": ui.number_column("95% high", "Upper end of the 95% interval.", "%.2f"),
}
CLASS_COLUMNS = {
    "name": ui.text_column("Class", "True class.", pinned=True),
    "clean": ui.number_column("Clean %", "Share classified correctly without an attack.", "%.1f"),
    "under attack": ui.number_column("Under attack %", "Share that no attack broke.", "%.1f"),
    "n": ui.number_column("n", "Test images of the class."),
}
SAMPLE_COLUMNS = {
    "index": ui.number_column("Image", "Row of the test set, from 0."),
    "label": ui.text_column("Class", "True class."),
    "clean_pred": ui.text_column("Predicted, clean", "Predicted class of the clean image."),
    "broken_by": ui.text_column("Broken by", "The stage that broke the image."),
    "adv_pred": ui.text_column("Predicted, attacked", "Predicted class of the adversarial image."),
    "distance": ui.number_column("Distance", "Norm of the perturbation.", "%.4f"),
}


def attack_stages(evaluation: dict[str, Any] | None) -> None:
    """Show the accuracy left after each attack stage."""
    if evaluation is None or not evaluation["attacks"]:
        st.info("This run has no finished evaluation with an attack.")
        return
    n, metrics = int(evaluation["n"]), evaluation["metrics"]
    stages, alive = [], n
    for name in ("clean", *attacks_of(evaluation)):
        found = metrics.get(name)
        if found is None:
            continue
        left = round(found["value"] * n)
        stages.append(
            {
                "stage": stage_title(name),
                "attacked": alive,
                "broken": alive - left,
                "left": 100 * found["value"],
                "low": 100 * (found["value"] if found["low"] is None else found["low"]),
                "high": 100 * (found["value"] if found["high"] is None else found["high"]),
            }
        )
        alive = left
    frame = pd.DataFrame(stages)
    ui.show_chart(
        charts.waterfall(frame), alt=f"Accuracy left after each of {len(frame)} attack stages"
    )
    if len(frame) > 1:
        strongest = frame.iloc[1:].sort_values("broken").iloc[-1]
        st.caption(
            f"Each stage attacks only the images that the earlier ones did not break. Of {n} "
            f"images, {alive} are never broken; {strongest['stage']} broke the most: "
            f"{strongest['broken']}. Orange bars are 95% intervals."
        )
    ui.show_table(frame, STAGE_COLUMNS, "Attack stages with images attacked, broken and left")


def per_class(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    """Show the accuracy of each class, clean and under attack."""
    rows = _verdicts(queries.per_class, run, evaluation)
    if evaluation is None or rows.empty:
        return
    names = class_names(run["dataset"])
    wide = pd.DataFrame(
        {
            "name": [ui.class_name(names, label) for label in rows["label"]],
            "clean": 100 * rows["clean"] / rows["n"],
            "under attack": 100 * rows["robust"] / rows["n"],
            "n": rows["n"],
        }
    )
    kinds = ["clean", "under attack"] if evaluation["attacks"] else ["clean"]
    ordered = wide.sort_values(kinds[-1], kind="stable")
    worst, best = ordered.iloc[0], ordered.iloc[-1]
    drawn, said = wide, ""
    if len(wide) > MAX_CLASSES:
        half = MAX_CLASSES // 2
        drawn = pd.concat([ordered.head(half), ordered.tail(half)])
        said = f"The chart shows the {half} lowest and the {half} highest of {len(wide)} classes. "
    long = drawn.melt(["name", "n"], kinds, var_name="kind", value_name="value")
    ui.show_chart(charts.per_class(long), alt=f"Accuracy of {len(drawn)} classes")
    st.caption(
        f"{said}{kinds[-1].capitalize()}: lowest for {ui.plain(worst['name'])} "
        f"({worst[kinds[-1]]:.1f}% of {int(worst['n'])} images), highest for "
        f"{ui.plain(best['name'])} ({best[kinds[-1]]:.1f}%)."
    )
    columns = {name: CLASS_COLUMNS[name] for name in ("name", *kinds, "n")}
    ui.show_table(wide, columns, f"Accuracy of {len(wide)} classes as a table")


def samples(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    """Show test images by the stage that broke them."""
    found = _verdicts(queries.broken_by, run, evaluation)
    if evaluation is None or found.empty:
        return
    counts = dict(zip(found["broken_by"], found["n"], strict=True))
    known = [name for name in (*attacks_of(evaluation), "clean", "robust") if name in counts]
    stages = {stage_title(name): name for name in known}
    help = "The stage that broke the image; Clean: wrong without an attack; Robust: never broken."
    broken_by = stages[ui.one_of("Broken by", list(stages), key="broken_by", pills=True, help=help)]
    count = counts[broken_by]
    shown = "all are shown" if count > 1 else "it is shown"
    if count > SAMPLE_ROWS:
        shown = f"the first {SAMPLE_ROWS} are shown"
    st.caption(f"{count} of {counted(int(evaluation['n']), 'image')}; {shown}.")
    evaluation_id = evaluation["evaluation_id"]
    rows = ui.query(queries.samples, run["run_id"], evaluation_id, broken_by, SAMPLE_ROWS)
    names = class_names(run["dataset"])
    if evaluation["attacks"]:
        _pictures(run, evaluation, rows, names)
    predictions = rows.assign(
        **{
            column: [ui.class_name(names, label) for label in rows[column]]
            for column in ("label", "clean_pred", "adv_pred")
        },
        broken_by="" if broken_by == "robust" else stage_title(broken_by),
    )
    ui.show_table(
        predictions, SAMPLE_COLUMNS, f"{counted(len(rows), 'image')} with their predictions"
    )


def _verdicts(
    function: Callable[..., pd.DataFrame], run: dict[str, Any], evaluation: dict[str, Any] | None
) -> pd.DataFrame:
    """Query an evaluation's verdicts; show a message if it has none."""
    rows = pd.DataFrame()
    if evaluation is not None:
        rows = ui.query(function, run["run_id"], evaluation["evaluation_id"])
    if rows.empty:
        st.info("This run has no stored per-image results.")
    return rows


def _pictures(
    run: dict[str, Any], evaluation: dict[str, Any], rows: pd.DataFrame, names: tuple[str, ...]
) -> None:
    try:
        pictures = adversarial_images(
            str(ui.results_folder()),
            run["run_id"],
            evaluation["evaluation_id"],
            tuple(int(index) for index in rows["index"]),
            (run["config"].get("data") or {}).get("root"),
        )
    except ImagesNotKept:
        _keep(run, evaluation)
    except UserError as error:
        st.info(ui.plain(str(error)))
    else:
        _gallery(rows, pictures, names)


def _keep(run: dict[str, Any], evaluation: dict[str, Any]) -> None:
    """Explain how to get adversarial images that were not saved."""
    try:
        command = commands.keep_images(run, evaluation, ui.results_folder())
    except UserError:
        st.info(
            "The adversarial images of this evaluation were not saved, and there is no command "
            "that makes them again: this release does not have its settings."
        )
        return
    if command is None and run["kind"] == "loaded":
        st.info(
            "The adversarial images of this evaluation were not saved, and its model or its images "
            'were objects in Python: call `evaluate` there again with `save_adversarial="uint8"`.'
        )
        return
    if command is None:
        st.info(
            "The adversarial images of this evaluation are not here, and neither are the weights "
            "needed to make them again: use `db merge` with the results folder that has them."
        )
        return
    st.info(
        "The adversarial images of this evaluation were not saved. This command makes them again:"
    )
    st.code(ui.with_results(command), language=None, wrap_lines=True)


def _gallery(rows: pd.DataFrame, pictures: Sequence[Any], names: tuple[str, ...]) -> None:
    st.caption("Left: clean. Middle: adversarial. Right: difference, grey where there is none.")
    with st.container(horizontal=True, gap="medium"):
        for row, picture in zip(ui.records(rows), pictures, strict=True):
            label, predicted = (ui.class_name(names, row[name]) for name in ("label", "adv_pred"))
            st.image(
                picture,
                caption=ui.plain(f"#{row['index']}: {label}, predicted {predicted}"),
                width=3 * SIDE,
                alt=f"Test image {row['index']} clean, adversarial and their difference",
            )
