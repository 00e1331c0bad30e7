"""What the verdicts of an evaluation show: attack stages, classes and samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, queries
from app.components import ask, one_of, plain, records, results_folder, with_results
from app.gallery import adversarial_images, class_names
from app.labels import stage_title
from harness.errors import UserError
from leaderboards.protocols import attacks_of

SAMPLE_ROWS = 10


def attacks(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    """What each stage of the attack left."""
    if evaluation is None or not evaluation["attacks"]:
        st.info("No finished evaluation with an attack.")
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
                "low": 100 * (found["low"] if found["low"] is not None else found["value"]),
                "high": 100 * (found["high"] if found["high"] is not None else found["value"]),
            }
        )
        alive = left
    frame = pd.DataFrame(stages)
    st.altair_chart(
        charts.waterfall(frame), alt=f"Accuracy left after each of {len(frame)} attack stages"
    )
    hardest = frame.iloc[1:].sort_values("broken").iloc[-1] if len(frame) > 1 else None
    if hardest is not None:
        st.caption(
            f"Each stage attacks only what the ones before left. Of {n} images {alive} stay right; "
            f"{hardest['stage']} broke most, {hardest['broken']}. Bars in orange are 95% intervals."
        )
    st.dataframe(
        frame,
        hide_index=True,
        placeholder="",
        column_config={
            "stage": st.column_config.TextColumn("Stage", pinned=True, help="In order."),
            "attacked": st.column_config.NumberColumn("Given", help="Images it was given."),
            "broken": st.column_config.NumberColumn("Broken", help="Images it turned wrong."),
            "left": st.column_config.NumberColumn(
                "Left %", format="%.2f", help="Accuracy after it."
            ),
            "low": st.column_config.NumberColumn("95% low", format="%.2f", help="Wilson."),
            "high": st.column_config.NumberColumn("95% high", format="%.2f", help="Wilson."),
        },
        alt="Attack stages with images given, broken and left",
    )


def per_class(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    """Accuracy of each class, clean and under attack."""
    rows = _stored(queries.per_class, run, evaluation)
    if evaluation is None or rows.empty:
        return
    names = class_names(run["dataset"])
    label = [names[label] if label < len(names) else str(label) for label in rows["label"]]
    wide = pd.DataFrame(
        {
            "name": label,
            "clean": 100 * rows["clean"] / rows["n"],
            "under attack": 100 * rows["robust"] / rows["n"],
            "n": rows["n"],
        }
    )
    kinds = ["clean", "under attack"] if evaluation["attacks"] else ["clean"]
    long = wide.melt(["name", "n"], kinds, var_name="kind", value_name="value")
    st.altair_chart(charts.per_class(long), alt=f"Accuracy of {len(wide)} classes")
    ordered = wide.sort_values(kinds[-1], kind="stable")
    worst, best = ordered.iloc[0], ordered.iloc[-1]
    st.caption(
        f"{kinds[-1].capitalize()}: lowest for {plain(worst['name'])} ({worst[kinds[-1]]:.1f}% of "
        f"{int(worst['n'])} images), highest for {plain(best['name'])} ({best[kinds[-1]]:.1f}%)."
    )
    st.dataframe(
        wide,
        hide_index=True,
        placeholder="",
        column_config={
            "name": st.column_config.TextColumn("Class", pinned=True, help="True class."),
            "clean": st.column_config.NumberColumn(
                "Clean %", format="%.1f", help="Right unattacked."
            ),
            "under attack": st.column_config.NumberColumn(
                "Under attack %", format="%.1f", help="Right and never broken."
            ),
            "n": st.column_config.NumberColumn("n", help="Images of the class."),
        },
        alt=f"Accuracy of {len(wide)} classes as a table",
    )


def samples(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    """Images by what broke them."""
    endings = _stored(queries.endings, run, evaluation)
    if evaluation is None or endings.empty:
        return
    counts = dict(zip(endings["fooled_by"], endings["n"], strict=True))
    options = [name for name in (*attacks_of(evaluation), "clean", "robust") if name in counts]
    fooled = one_of(
        "Fooled by",
        options,
        key="fooled_by",
        pills=True,
        help="The stage that broke the image; clean: wrong unattacked; robust: never broken.",
    )
    st.caption(f"{counts[fooled]} of {int(evaluation['n'])} images; the first {SAMPLE_ROWS} shown.")
    rows = ask(queries.samples, run["run_id"], evaluation["evaluation_id"], fooled, SAMPLE_ROWS)
    names = class_names(run["dataset"])
    try:
        images = adversarial_images(
            str(results_folder()),
            run["run_id"],
            evaluation["evaluation_id"],
            tuple(int(index) for index in rows["index"]),
            (run["config"].get("data") or {}).get("root"),
        )
    except UserError as error:
        st.info(plain(str(error)))
        command = f"python -m harness evaluate {run['run_id']} --save-adversarial uint8"
        st.code(with_results(command), language="bash", wrap_lines=True)
        _sample_table(rows, names)
        return
    st.caption("Left: clean. Middle: adversarial. Right: difference, grey is none.")
    grid = st.container(horizontal=True, gap="medium")
    for row, picture in zip(records(rows), images, strict=True):
        truth, seen = _name(names, row["label"]), _name(names, row["adv_pred"])
        with grid:
            st.image(
                picture,
                caption=f"#{row['index']}: {truth}, seen as {seen}",
                width=3 * 96,
                alt=f"Test image {row['index']} clean, adversarial and their difference",
            )
    _sample_table(rows, names)


def _stored(
    query: Callable[..., pd.DataFrame], run: dict[str, Any], evaluation: dict[str, Any] | None
) -> pd.DataFrame:
    """What a query finds of an evaluation's verdicts; the page says so where that is nothing."""
    rows = (
        pd.DataFrame()
        if evaluation is None
        else ask(query, run["run_id"], evaluation["evaluation_id"])
    )
    if rows.empty:
        st.info("No verdicts are stored.")
    return rows


def _sample_table(rows: pd.DataFrame, names: tuple[str, ...]) -> None:
    shown = rows.assign(
        label=[_name(names, label) for label in rows["label"]],
        clean_pred=[_name(names, label) for label in rows["clean_pred"]],
        adv_pred=[_name(names, label) for label in rows["adv_pred"]],
    )
    st.dataframe(
        shown,
        hide_index=True,
        placeholder="",
        column_config={
            "index": st.column_config.NumberColumn("Image", help="Row of the test set, from 0."),
            "label": st.column_config.TextColumn("Class", help="True class."),
            "clean_pred": st.column_config.TextColumn("Seen clean", help="Predicted unattacked."),
            "broken_by": st.column_config.TextColumn("Broken by", help="The stage that broke it."),
            "adv_pred": st.column_config.TextColumn("Seen attacked", help="Predicted attacked."),
            "distance": st.column_config.NumberColumn(
                "Distance", format="%.4f", help="Norm of the perturbation."
            ),
        },
        alt=f"{len(rows)} images with their predictions",
    )


def _name(names: tuple[str, ...], label: Any) -> str:
    if label is None or pd.isna(label):
        return ""
    return names[int(label)] if int(label) < len(names) else str(int(label))
