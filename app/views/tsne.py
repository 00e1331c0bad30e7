"""t-SNE, as in the paper's Fig. 2: features of two runs side by side, with numbers beside."""

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
    plain,
    records,
    results_folder,
    whole_number,
)
from app.embedding import NEIGHBOURS, PERPLEXITY, Embedding, embedded
from app.gallery import class_names
from app.labels import protocol_text, run_title
from harness.config import eps_text
from harness.data import dataset_info
from harness.store.rundir import RunDirectory


def page() -> None:
    """Two runs and a button; nothing is computed unasked."""
    heading(
        "t-SNE",
        "Features of natural and adversarial test images of random classes, as in Fig. 2 of the "
        "paper. The map shows neighbourhoods only: the numbers are from the feature space itself.",
    )
    if not has_database():
        nothing_yet("A finished run is needed.")
        return
    known = _with_model(ask(queries.comparable))
    if known.empty:
        nothing_yet("A finished run whose model file is in the results folder is needed.")
        return
    ids = known["run_id"].tolist()
    titles = {row["run_id"]: run_title(row) for row in records(known)}
    columns = st.columns([2, 2, 1, 1, 1])
    with columns[0]:
        a = one_named(
            "First run", ids, key="a", default=ids[0], help="Left picture.", titles=titles
        )
    first = records(known[known["run_id"] == a])[0]
    like = known[known["dataset"] == first["dataset"]]["run_id"].tolist()
    partner = next((name for name in like if name != a), a)
    with columns[1]:
        b = one_named(
            "Second run",
            like,
            key="b",
            default=partner,
            help="Of the same data set.",
            titles=titles,
        )
    with columns[2]:
        wanted = whole_number("Classes", 2, 20, 20, key="k", help="Random classes, or all.")
    with columns[3]:
        per_class = whole_number("Images a class", 5, 100, 15, key="n", help="At random.")
    with columns[4]:
        seed = whole_number("Seed", 0, 9999, 0, key="seed", help="Of classes, images and map.")
    asked = (a, b, wanted, per_class, seed)
    if st.button("Compute", type="primary") or st.session_state.get("tsne_asked") == asked:
        st.session_state["tsne_asked"] = asked
        second = records(known[known["run_id"] == b])[0]
        _pictures(first, second, wanted, per_class, seed)
    else:
        total = min(wanted, dataset_info(first["dataset"]).num_classes) * per_class
        st.caption(
            f"About {total} images of {first['dataset']} are attacked by PGD and mapped for each "
            "run: seconds for a small network, minutes for a large one without a GPU."
        )


def _with_model(known: pd.DataFrame) -> pd.DataFrame:
    here = [
        RunDirectory(results_folder(), run_id).model_path.exists() for run_id in known["run_id"]
    ]
    return known[here]


def _pictures(
    first: dict[str, Any], second: dict[str, Any], wanted: int, per_class: int, seed: int
) -> None:
    eps = _radius(first)
    places = st.columns(2)
    found = []
    for place, row in zip(places, (first, second), strict=True):
        with place, st.spinner(f"Features and map of {row['run_id']}"):
            run = ask(queries.run, row["run_id"])
            result = embedded(
                str(results_folder()),
                row["run_id"],
                RunDirectory(results_folder(), row["run_id"]).model_path.stat().st_mtime_ns,
                eps=eps,
                wanted=wanted,
                per_class=per_class,
                seed=seed,
                root=(run["config"].get("data") or {}).get("root"),
            )
            found.append((row, result))
            _picture(row, result)
    _words(found, eps)


def _radius(row: dict[str, Any]) -> float:
    """The radius the run was evaluated at, if it was attacked in Linf; else the customary one."""
    if row["attacks"] and row["norm"] == "Linf":
        return float(row["eps"])
    return dataset_info(row["dataset"]).default_eps


def _picture(row: dict[str, Any], result: Embedding) -> None:
    st.subheader(plain(row["title"]), anchor=False)
    st.caption(plain(f"{run_title(row)}. Evaluated by: {protocol_text(row)}"))
    half = len(result.points) // 2
    st.altair_chart(
        charts.embedding(result.points),
        alt=f"t-SNE map of {half} natural and {half} adversarial images",
    )


def _words(found: list[tuple[dict[str, Any], Embedding]], eps: float) -> None:
    frame = pd.DataFrame(
        [
            {
                "run": f"{row['title']} ({row['run_id']})",
                "kind": kind,
                "silhouette": part.silhouette,
                "neighbours": 100 * part.neighbours,
                "spread": part.spread,
                "accuracy": 100 * right,
            }
            for row, result in found
            for kind, part, right in (
                ("natural", result.natural, result.accuracy[0]),
                ("adversarial", result.adversarial, result.accuracy[1]),
            )
        ]
    )
    st.dataframe(
        frame,
        hide_index=True,
        placeholder="",
        column_config={
            "run": st.column_config.TextColumn("Run", pinned=True, help="Whose features."),
            "kind": st.column_config.TextColumn("Images", help="Natural, or attacked by PGD."),
            "silhouette": st.column_config.NumberColumn(
                "Silhouette", format="%.3f", help="Classes as clusters; -1 to 1, high is separated."
            ),
            "neighbours": st.column_config.NumberColumn(
                f"{NEIGHBOURS}-NN %",
                format="%.1f",
                help=f"Points whose {NEIGHBOURS} nearest others vote for their class.",
            ),
            "spread": st.column_config.NumberColumn(
                "Within / between",
                format="%.3f",
                help="Mean distance within a class by that between classes; low is compact.",
            ),
            "accuracy": st.column_config.NumberColumn(
                "Accuracy %", format="%.1f", help="Of these images; it is no evaluation."
            ),
        },
        alt="Separation of classes in feature space, by run and kind of image",
    )
    (row_a, a), (row_b, b) = found
    names = class_names(row_a["dataset"])
    labels = sorted({int(label) for label in a.points["label"]})
    numbered = ", ".join(
        f"{label} {names[label]}" if label < len(names) else str(label) for label in labels
    )
    first, second = a.adversarial.silhouette, b.adversarial.silhouette
    better = row_a if first >= second else row_b
    st.markdown(
        f"Adversarial features are told apart better by **{plain(better['title'])}** "
        f"(silhouette {max(first, second):.3f} against {min(first, second):.3f})."
        if row_a["run_id"] != row_b["run_id"]
        else "Both pictures are of the same run."
    )
    st.caption(
        f"Linf {eps_text(eps)}, PGD with 10 steps; perplexity {a.perplexity:g}"
        f"{'' if a.perplexity == PERPLEXITY else ' (few images)'}; classes {plain(numbered)}."
    )


page()
