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
from app.newest import newest_runs, say_left_out
from app.reference_maps import reference_maps
from harness.config import eps_text
from harness.data import dataset_info
from harness.data.base import DatasetInfo
from harness.store.rundir import RunDirectory
from harness.store.text import counted

COLUMNS = {
    "run": ui.text_column("Run", "The run whose features these are.", pinned=True),
    "kind": ui.text_column("Images", "Clean, or attacked by PGD."),
    "silhouette": ui.number_column(
        "Silhouette", "With classes as clusters; from -1 to 1, higher is better separated.", "%.3f"
    ),
    "neighbours": ui.number_column(
        f"{NEIGHBOURS}-NN %",
        f"Share of points whose {NEIGHBOURS} nearest neighbours vote for their class.",
        "%.1f",
    ),
    "spread": ui.number_column(
        "Within / between",
        "Mean distance within classes divided by that between classes; lower is more compact.",
        "%.3f",
    ),
    "accuracy": ui.number_column(
        "Accuracy %", "On these images only; it is not a test result.", "%.1f"
    ),
}


def page() -> None:
    """Show a choice of two runs and a button, and until it is pressed the shipped maps."""
    ui.heading(
        "t-SNE",
        "Features of clean and adversarial test images of random classes, as in Fig. 2 of the "
        "paper. A map shows only neighbourhoods; the numbers are computed in the feature space.",
    )
    if not ui.has_database():
        _reference()
        ui.nothing_yet("Your own map needs a finished run.")
        return
    with st.expander("Map two runs of this folder"):
        chosen = _choice()
        if chosen is None:
            ui.nothing_yet("Your own map needs a finished run with its model file.")
        elif st.button("Compute"):
            st.session_state["tsne_computed"] = chosen
    if chosen is not None and st.session_state.get("tsne_computed") == chosen:
        _maps(*chosen)
    else:
        _reference()


def _choice() -> tuple[str, str, int, int, int] | None:
    """Two runs, the numbers of classes and of images per class, the seed; None without a run."""
    known = newest_runs(queries.comparable)
    say_left_out(known)
    here = [
        RunDirectory(ui.results_folder(), run_id).model_path.exists() for run_id in known["run_id"]
    ]
    if missing := len(here) - sum(here):
        st.caption(
            f"Not offered: {missing} of {counted(len(here), 'evaluated run')}, without a model "
            "file in this folder, because the run was imported or the model is external."
        )
    rows = {row["run_id"]: row for row in ui.records(known[here])}
    if not rows:
        return None
    titles = {run_id: run_title(row) for run_id, row in rows.items()}
    columns = st.columns([2, 2, 1, 1, 1])
    with columns[0]:
        a = ui.one_named(
            "First run", list(rows), key="a", default=next(iter(rows)), help="Shown on the left.",
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
        classes = ui.whole_number(
            "Classes", 2, 20, 20, key="k", help="Number of random classes, at most all."
        )
    with columns[3]:
        per_class = ui.whole_number(
            "Images per class", 5, 100, 15, key="n", help="Drawn at random from each class."
        )
    with columns[4]:
        seed = ui.whole_number("Seed", 0, 9999, 0, key="seed", help="For classes, images and map.")
    total = min(classes, _info(rows[a]).num_classes) * per_class
    st.caption(
        f"For each run, about {total} images of {rows[a]['dataset']} are attacked by PGD and "
        "mapped. This takes seconds for a small model, minutes for a large one without a GPU."
    )
    return a, b, classes, per_class, seed


def _reference() -> None:
    """Show the maps that ship with the app."""
    maps = reference_maps()
    for column, each in zip(st.columns(len(maps)), maps, strict=True):
        with column:
            _map(each.run, each.embedding)
    _separation([(each.run, each.embedding) for each in maps], maps[0].eps)
    st.caption(
        "These two runs ship with the app as an example; `python -m app.reference_maps` makes "
        "their maps."
    )


def _maps(a: str, b: str, classes: int, per_class: int, seed: int) -> None:
    rows = {row["run_id"]: row for row in ui.records(newest_runs(queries.comparable))}
    first, second = rows[a], rows[b]
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
            _map(row, result, protocol_text(row))
    _separation(found, eps)


def _radius(row: dict[str, Any]) -> float:
    """The radius of the run's evaluation if that used Linf, else the dataset's default."""
    if row["attacks"] and row["norm"] == "Linf":
        return float(row["eps"])
    return _info(row).default_eps


def _info(row: dict[str, Any]) -> DatasetInfo:
    return dataset_info(row["dataset"], _root(row))


def _root(row: dict[str, Any]) -> str | None:
    """The data folder in the run's configuration, if it has one."""
    config = ui.query(queries.run, row["run_id"])["config"] or {}
    root: str | None = (config.get("data") or {}).get("root")
    return root


def _map(row: dict[str, Any], result: Embedding, protocol: str = "") -> None:
    st.subheader(ui.plain(row["title"]), anchor=False)
    st.caption(ui.plain(run_title(row) + (f". Evaluation: {protocol}" if protocol else "")))
    half = len(result.points) // 2
    ui.show_chart(
        charts.embedding(result.points),
        alt=f"t-SNE map of {half} clean and {half} adversarial images",
    )


def _separation(found: list[tuple[dict[str, Any], Embedding]], eps: float) -> None:
    titles = {row["title"] for row, _ in found}
    rows = [
        {
            "run": row["title"] if len(titles) == len(found) else row["run_id"],
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
    result = found[0][1]
    names = class_names(found[0][0]["dataset"])
    labels = sorted({int(label) for label in result.points["label"]})
    numbered = ", ".join(dict.fromkeys(_numbered(names, label) for label in labels))
    values = ", ".join(
        f"**{ui.plain(row['title'])}** {own.adversarial.silhouette:.3f}" for row, own in found
    )
    st.markdown(
        f"Silhouette of the classes of adversarial images (higher is better separated): {values}."
    )
    few = "" if result.perplexity == PERPLEXITY else " (for few images)"
    st.caption(
        f"Linf {eps_text(eps)}, PGD with 10 steps; perplexity {result.perplexity:g}{few}; classes "
        f"{ui.plain(numbered)}."
    )


def _numbered(names: tuple[str, ...], label: int) -> str:
    name = names[label] if label < len(names) else str(label)
    return name if name == str(label) else f"{label} {name}"


page()
