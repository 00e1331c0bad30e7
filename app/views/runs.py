"""Runs: what is running, what is done and what failed; two of them go to the comparison."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import queries
from app.components import (
    ask,
    has_database,
    heading,
    nothing_yet,
    one_of,
    plain,
    records,
    results_folder,
    search,
    sentences,
    some_of,
)
from app.labels import STATUS_WORDS, attack_texts
from app.live import with_live_epochs

REFRESH_S = 5
LIMITS = ("50", "200", "1000")

COLUMNS: dict[str, Any] = {
    "title": st.column_config.TextColumn(
        "Method", pinned=True, help="The method's name as papers print it, or a model's source."
    ),
    "state": st.column_config.TextColumn(
        "Status",
        help="running, done, failed or stopped; a run that is killed outright stays 'running'.",
    ),
    "progress": st.column_config.ProgressColumn(
        "Epochs", format="percent", min_value=0, max_value=1, help="Finished epochs of all planned."
    ),
    "watched": st.column_config.LineChartColumn(
        "Watched accuracy",
        y_min=0,
        y_max=1,
        help="Accuracy on watched images under PGD (clean where there is no attack), by epoch; the "
        "last 40 epochs. It watches training and is no evaluation.",
    ),
    "clean": st.column_config.NumberColumn(
        "Clean %", format="%.2f", help="Accuracy on unattacked test images."
    ),
    "robust": st.column_config.NumberColumn(
        "Robust %", format="%.2f", help="Accuracy after the last attack stage of the protocol."
    ),
    "protocol": st.column_config.TextColumn(
        "Protocol",
        help="What the accuracies are under: the run's own protocol where it was measured by it, "
        "else that of the whole test set with the most attacks. Compare like with like.",
    ),
    "n": st.column_config.NumberColumn("n", format="%d", help="Test images evaluated."),
    "dataset": st.column_config.TextColumn("Data", help="Registered name of the data set."),
    "arch": st.column_config.TextColumn("Network", help="Registered name of the network."),
    "recipe": st.column_config.TextColumn("Recipe", help="What the configuration started from."),
    "seed": st.column_config.NumberColumn(
        "Seed", format="%d", help="Seed of everything random in training."
    ),
    "marks": st.column_config.TextColumn(
        "Marks",
        help="S: small scale, not comparable in size with the literature. partial: on a part of "
        "the data, never ranked. best on test: selected on test images. dirty: code differed from "
        "its commit.",
    ),
    "started_at": st.column_config.DatetimeColumn(
        "Started (UTC)", format="YYYY-MM-DD HH:mm", help="When the run last began or resumed."
    ),
    "device": st.column_config.TextColumn("Device", help="What it was trained on."),
    "run_id": st.column_config.TextColumn("Run", help="The run's name on the command line."),
}


def page() -> None:
    """Filters above, the table below; the table refreshes itself."""
    heading("Runs", "Every run of this results folder, newest first. The table refreshes itself.")
    if not has_database():
        nothing_yet()
        return
    known = ask(queries.choices)
    columns = st.columns([2, 1, 1, 1, 1])
    with columns[0]:
        words = search("Search", key="q", help="In names of runs, methods, networks, recipes.")
    with columns[1]:
        status = some_of("Status", list(STATUS_WORDS), key="status")
    with columns[2]:
        methods = some_of("Method", known["methods"], key="method")
    with columns[3]:
        datasets = some_of("Data", known["datasets"], key="data")
    with columns[4]:
        limit = one_of("Show at most", LIMITS, key="limit", help="The newest so many.")
    table(
        words=words,
        status=tuple(status),
        methods=tuple(methods),
        datasets=tuple(datasets),
        limit=int(limit),
    )


@st.fragment(run_every=REFRESH_S)
def table(**filters: Any) -> None:
    """The runs that fit, and what can be done with the chosen ones."""
    with sentences():
        found = with_live_epochs(ask(_runs, tuple(filters.items())), results_folder())
        if found.empty:
            st.info("No run fits these filters.")
            return
        total = int(found["found"].iloc[0])
        counts = found["status"].map(STATUS_WORDS).value_counts()
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        st.caption(f"Showing {len(found)} of {total} that fit: {told}. Choose one or two rows.")
        chosen = st.dataframe(
            _shown(found),
            column_config=COLUMNS,
            column_order=list(COLUMNS),
            hide_index=True,
            placeholder="",
            on_select="rerun",
            selection_mode="multi-row",
            key="chosen",
            alt=f"Table of {len(found)} runs with status, progress and accuracies",
        )
        _offer(found, [row for row in chosen.selection.rows if row < len(found)])
        _failures(found)


def _runs(database: Any, filters: tuple[tuple[str, Any], ...]) -> pd.DataFrame:
    return queries.runs(database, **dict(filters))


def _shown(found: pd.DataFrame) -> pd.DataFrame:
    shown = found.assign(
        state=found["status"].map(STATUS_WORDS).fillna(found["status"]),
        progress=(found["epochs_done"] / found["epochs_planned"]).clip(0, 1),
        clean=100 * found["clean"],
        robust=(100 * found["robust"]).where(found["attacks"].fillna("") != ""),
        protocol=[
            "" if pd.isna(row["n"]) else ", ".join(attack_texts(row)) for row in records(found)
        ],
        marks=[_marks(row) for row in records(found)],
    )
    return shown[list(COLUMNS)]


def _marks(row: dict[str, Any]) -> str:
    marks = {
        "S": row["scale"] == "small",
        "partial": row["partial"],
        "best on test": row["selection"] == "best-on-test",
        "dirty": row["git_dirty"] is True,
    }
    return ", ".join(name for name, true in marks.items() if true)


def _offer(found: pd.DataFrame, rows: list[int]) -> None:
    chosen = found["run_id"].iloc[rows].tolist()
    with st.container(horizontal=True):
        for run_id in chosen[:2]:
            st.page_link(
                "views/run.py", label=f"Open {plain(run_id)}", query_params={"run": run_id}
            )
        if len(chosen) == 2:
            both = {"a": chosen[0], "b": chosen[1]}
            st.page_link("views/compare.py", label="Compare the two", query_params=both)
    if len(chosen) > 2:
        st.caption("Two runs are compared at a time: choose two.")


def _failures(found: pd.DataFrame) -> None:
    failed = found[found["status"] == "error"]
    if failed.empty:
        return
    with st.expander(f"{len(failed)} failed: why"):
        for row in records(failed.head(20)):
            st.markdown(f"**{plain(row['run_id'])}**")
            st.code(row["error"] or "no reason was recorded", language=None, wrap_lines=True)
            st.page_link("views/run.py", label="Open the run", query_params={"run": row["run_id"]})


page()
