"""t-SNE, as in the paper's Fig. 2: feature maps of two runs and how well their classes separate."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import charts, queries
from app import components as ui
from app.embedding import NEIGHBOURS, PERPLEXITY, Embedding, embedded
from app.gallery import class_names
from app.labels import protocol_text, run_title
from harness.config import eps_text
from harness.data import dataset_info
from harness.data.base import DatasetInfo
from harness.store.rundir import RunDirectory

COLUMNS = {
    "run": ui.text_column("Run", "The run whose features these are.", pinned=True),
    "kind": ui.text_column("Images", "Clean, or attacked by PGD."),
    "silhouette": ui.number_column(
        "Silhouette", "With classes as clusters; from -1 to 1, high is well separated.", "%.3f"
    ),
    "neighbours": ui.number_column(
        f"{NEIGHBOURS}-NN %",
        f"Share of points whose {NEIGHBOURS} nearest neighbours vote for their class.",
        "%.1f",
    ),
    "spread": ui.number_column(
        "Within / between",
        "Mean distance within classes over that between classes; low is compact.",
        "%.3f",
    ),
    "accuracy": ui.number_column(
        "Accuracy %", "On these images only; it is not a test result.", "%.1f"
    ),
}


def page() -> None:
    """Two runs and a button; nothing is computed before it is pressed."""
    ui.heading(
        "t-SNE",
        "Features of clean and adversarial test images of random classes, as in Fig. 2 of the "
        "paper. A map shows neighbourhoods only: the numbers are from the feature space itself.",
    )
    if not ui.has_database():
        ui.nothing_yet("A map needs a finished run.")
        return
    known = ui.query(queries.comparable)
    models = (RunDirectory(ui.results_folder(), run_id).model_path for run_id in known["run_id"])
    known = known[[path.exists() for path in models]]
    if known.empty:
        ui.nothing_yet("A map needs a finished run whose model file is in the results folder.")
        return
    rows = {row["run_id"]: row for row in ui.records(known)}
    titles = {run_id: run_title(row) for run_id, row in rows.items()}
    columns = st.columns([2, 2, 1, 1, 1])
    with columns[0]:
        a = ui.one_named(
            "First run", list(rows), key="a", default=next(iter(rows)), help="On the left.",
            titles=titles,
        )  # fmt: skip
    like = [name for name, row in rows.items() if row["dataset"] == rows[a]["dataset"]]
    partner = next((name for name in like if name != a), a)
    with columns[1]:
        b = ui.one_named(
            "Second run", like, key="b", default=partner, help="Of the same dataset.",
            titles=titles,
        )  # fmt: skip
    with columns[2]:
        classes = ui.whole_number("Classes", 2, 20, 20, key="k", help="Random classes, or all.")
    with columns[3]:
        per_class = ui.whole_number("Images per class", 5, 100, 15, key="n", help="At random.")
    with columns[4]:
        seed = ui.whole_number("Seed", 0, 9999, 0, key="seed", help="Of classes, images and map.")
    choice = (a, b, classes, per_class, seed)
    if st.button("Compute") or st.session_state.get("tsne_computed") == choice:
        st.session_state["tsne_computed"] = choice
        _maps(rows[a], rows[b], classes, per_class, seed)
    else:
        total = min(classes, _info(rows[a]).num_classes) * per_class
        st.caption(
            f"For each run about {total} images of {rows[a]['dataset']} are attacked by PGD and "
            "mapped: seconds for a small model, minutes for a large one without a GPU."
        )


def _maps(
    first: dict[str, Any], second: dict[str, Any], classes: int, per_class: int, seed: int
) -> None:
    eps = _radius(first)
    found = []
    for column, row in zip(st.columns(2), (first, second), strict=True):
        with column, st.spinner(f"Computing features and map of {row['run_id']}"):
            result = embedded(
                str(ui.results_folder()),
                row["run_id"],
                RunDirectory(ui.results_folder(), row["run_id"]).model_path.stat().st_mtime_ns,
                eps=eps,
                classes=classes,
                per_class=per_class,
                seed=seed,
                root=_root(row),
            )
            found.append((row, result))
            _map(row, result)
    _separation(found, eps)


def _radius(row: dict[str, Any]) -> float:
    """The radius of the run's evaluation if it was in Linf, else the dataset's default."""
    if row["attacks"] and row["norm"] == "Linf":
        return float(row["eps"])
    return _info(row).default_eps


def _info(row: dict[str, Any]) -> DatasetInfo:
    return dataset_info(row["dataset"], _root(row))


def _root(row: dict[str, Any]) -> str | None:
    """The folder of the images that the run was trained on, if it had one."""
    config = ui.query(queries.run, row["run_id"])["config"] or {}
    root: str | None = (config.get("data") or {}).get("root")
    return root


def _map(row: dict[str, Any], result: Embedding) -> None:
    st.subheader(ui.plain(row["title"]), anchor=False)
    st.caption(ui.plain(f"{run_title(row)}. Evaluated by: {protocol_text(row)}"))
    half = len(result.points) // 2
    ui.show_chart(
        charts.embedding(result.points),
        alt=f"t-SNE map of {half} clean and {half} adversarial images",
    )


def _separation(found: list[tuple[dict[str, Any], Embedding]], eps: float) -> None:
    rows = [
        {
            "run": f"{row['title']} ({row['run_id']})",
            "kind": kind,
            "silhouette": part.silhouette,
            "neighbours": 100 * part.neighbours,
            "spread": part.spread,
            "accuracy": 100 * accuracy,
        }
        for row, result in found
        for kind, part, accuracy in (
            ("clean", result.clean, result.accuracy[0]),
            ("adversarial", result.adversarial, result.accuracy[1]),
        )
    ]
    alt = "Separation of classes in feature space, by run and kind of image"
    ui.show_table(pd.DataFrame(rows), COLUMNS, alt)
    (row_a, a), (row_b, b) = found
    names = class_names(row_a["dataset"])
    labels = sorted({int(label) for label in a.points["label"]})
    numbered = ", ".join(
        f"{label} {names[label]}" if label < len(names) else str(label) for label in labels
    )
    first, second = a.adversarial.silhouette, b.adversarial.silhouette
    better = row_a if first >= second else row_b
    st.markdown(
        f"Classes of adversarial images separate better for **{ui.plain(better['title'])}** "
        f"(silhouette {max(first, second):.3f} against {min(first, second):.3f})."
        if row_a["run_id"] != row_b["run_id"]
        else "Both maps are of the same run."
    )
    st.caption(
        f"Linf {eps_text(eps)}, PGD with 10 steps; perplexity {a.perplexity:g}"
        f"{'' if a.perplexity == PERPLEXITY else ' (few images)'}; classes {ui.plain(numbered)}."
    )


page()
