"""Runs: which are running, done or failed, with links to one run or to a comparison of two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import streamlit as st

from app import components as ui
from app import live, queries
from app.labels import STATUS_WORDS, attack_texts
from harness.config import fingerprint
from harness.store.text import counted

REFRESH_S = 5
LIMITS = ("50", "200", "1000")
FILTERS = ("q", "state", "method", "data", "limit")
PICKED, BEGAN_WITH = "picked runs", "rows that the table of runs began with"
MAX_ERRORS = 20
# A longer table scrolls in a pane as tall as a window.
MAX_ROWS, PANE_PIXELS = 20, 760
STATES = {word: status for status, word in STATUS_WORDS.items()}

COLUMNS: dict[str, Any] = {
    "title": ui.text_column(
        "Method",
        "The method's name as printed in papers, or the source of a loaded model.",
        pinned=True,
        # Narrow enough to leave room for both accuracies on a phone.
        width=125,
    ),
    "state": ui.text_column(
        "State",
        "running, done, failed or stopped. A run whose process was killed is still shown as "
        "'running'; start its command again to continue it.",
    ),
    "clean": ui.number_column("Clean %", "Accuracy on clean test images.", "%.2f"),
    "robust": ui.number_column("Robust %", "Accuracy after all attack stages.", "%.2f"),
    "now": ui.text_column("Now", "What a running run is doing, and its estimated time left."),
    "progress": st.column_config.ProgressColumn(
        "Epochs %",
        format="%.0f%%",
        min_value=0,
        max_value=100,
        help="Share of the planned epochs that are finished.",
    ),
    "validation": st.column_config.LineChartColumn(
        "Accuracy by epoch %",
        y_min=0,
        y_max=100,
        help="Accuracy measured during training: under PGD, or clean if the run has no attack; on "
        "held-out training images, or on test images if the run holds none out. Shows the last "
        f"{queries.VALIDATION_EPOCHS} epochs. This is not an evaluation result.",
    ),
    "protocol": ui.text_column(
        "Protocol",
        "How the accuracies were measured: under the run's own protocol if it has such an "
        "evaluation, otherwise on the whole test set with the most attacks. Compare only runs with "
        "the same protocol.",
    ),
    "n": ui.number_column("n", "Number of test images evaluated.", "%d"),
    "dataset": ui.text_column("Dataset", "Registered name of the dataset."),
    "arch": ui.text_column("Architecture", "Registered name of the architecture."),
    "recipe": ui.text_column("Recipe", "The recipe that the configuration is based on."),
    "seed": ui.number_column("Seed", "Random seed of the training run.", "%d"),
    "marks": ui.text_column(
        "Marks",
        "S: small scale, never ranked with published results. partial: trained or evaluated on "
        "part of the data, never ranked. best on test: the epoch was chosen on test images. "
        "uncommitted: the code had uncommitted changes.",
    ),
    "started_at": st.column_config.DatetimeColumn(
        "Started (UTC)", format="YYYY-MM-DD HH:mm", help="When the run was last started or resumed."
    ),
    "device": ui.text_column("Device", "The device it was trained on."),
    "run_id": ui.text_column("Run", "The run's id, for the command line."),
}


def page() -> None:
    """Show the filters, and below them the table, which refreshes itself."""
    ui.heading("Runs", "All runs in this results folder, newest first. The table refreshes itself.")
    if not ui.has_database():
        ui.nothing_yet()
        return
    table(**_filters())


def _filters() -> dict[str, Any]:
    """Return the arguments of ``queries.runs``.

    To save space on a phone, the filters are collapsed unless the URL sets one.
    """
    known = ui.query(queries.choices)
    active = any(key in st.query_params for key in FILTERS)
    with st.expander("Search and filter", expanded=active):
        columns = st.columns([2, 1, 1, 1, 1])
        with columns[0]:
            help = "Searches run ids, methods, datasets, architectures, teachers and recipes."
            words = ui.search("Search", key="q", help=help)
        with columns[1]:
            states = ui.some_of("State", list(STATES), key="state")
        with columns[2]:
            methods = ui.some_of("Method", known["methods"], key="method")
        with columns[3]:
            datasets = ui.some_of("Dataset", known["datasets"], key="data")
        with columns[4]:
            help = "Only the newest runs are shown."
            limit = int(ui.one_of("Show at most", LIMITS, key="limit", help=help))
    status = [STATES[state] for state in states]
    return {
        "words": words, "status": status, "methods": methods, "datasets": datasets, "limit": limit
    }  # fmt: skip


@st.fragment(run_every=REFRESH_S)
def table(**filters: Any) -> None:
    """Show the matching runs, and links for the selected ones."""
    ui.begin()
    with ui.errors_as_messages():
        found = ui.query(queries.runs, **filters)
        found = queries.with_running_epochs(found, ui.results_folder())
        if found.empty:
            st.info("No run matches these filters.")
            return
        total = int(found["found"].iloc[0])
        counts = found["status"].map(STATUS_WORDS).value_counts()
        states = ", ".join(f"{count} {word}" for word, count in counts.items())
        st.caption(f"Showing {len(found)} of {counted(total, 'run')}: {states}.")
        links = st.container()
        picked = _pick(found)
        with links:
            _links(picked)
        _remark(picked)
        _failures(found)


def _pick(found: pd.DataFrame) -> list[str]:
    """Show the table, and return the ids of the selected runs.

    Streamlit selects rows by number, and a new run at the top shifts the numbers. The session
    state therefore keeps the selected ids, and whenever the list of runs changes, a new table is
    shown with their rows selected from the start. Runs hidden by a filter stay selected.
    """
    ids = found["run_id"].tolist()
    before: list[str] = st.session_state.setdefault(PICKED, [])
    shown = _shown(found)
    columns = {
        name: column for name, column in COLUMNS.items() if name != "now" or any(shown["now"])
    }
    key = f"runs-{fingerprint(ids)}"
    if key not in st.session_state:
        # The initial selection must not change while the table stays the same.
        st.session_state[BEGAN_WITH] = [ids.index(i) for i in before if i in ids]
    chosen = ui.show_table(
        shown,
        columns,
        f"Table of {counted(len(found), 'run')} with state, progress and accuracies",
        on_select="rerun",
        selection_mode="multi-row",
        selection_default={"selection": {"rows": st.session_state[BEGAN_WITH]}},
        height="content" if len(found) <= MAX_ROWS else PANE_PIXELS,
        key=key,
    )
    hidden = [run_id for run_id in before if run_id not in ids]
    picked = hidden + [ids[row] for row in chosen.selection.rows if row < len(ids)]
    st.session_state[PICKED] = picked
    return picked


def _shown(found: pd.DataFrame) -> pd.DataFrame:
    return found.assign(
        now=[_now(row) for row in ui.records(found)],
        state=found["status"].map(STATUS_WORDS).fillna(found["status"]),
        progress=(100 * found["epochs_done"] / found["epochs_planned"]).clip(0, 100),
        validation=found["validation"].map(_percent),
        clean=100 * found["clean"],
        robust=(100 * found["robust"]).where(found["attacks"].fillna("") != ""),
        protocol=[
            "" if pd.isna(row["n"]) else ", ".join(attack_texts(row)) for row in ui.records(found)
        ],
        marks=[_marks(row) for row in ui.records(found)],
    )[list(COLUMNS)]


def _percent(values: Any) -> list[float]:
    """Accuracies in percent; empty for a run without epochs."""
    return [100 * value for value in values] if isinstance(values, Iterable) else []


def _marks(row: dict[str, Any]) -> str:
    marks = {
        "S": row["scale"] == "small",
        "partial": row["partial"],
        "best on test": row["selection"] == "best-on-test",
        "uncommitted": row["git_dirty"] is True,
    }
    return ", ".join(name for name, true in marks.items() if true)


def _now(row: dict[str, Any]) -> str:
    if row["status"] != "started":
        return ""
    done, planned = (
        0 if pd.isna(row[n]) else int(row[n]) for n in ("epochs_done", "epochs_planned")
    )
    return live.sentence(live.live(ui.results_folder(), row["run_id"]), done, planned or None)


def _links(ids: list[str]) -> None:
    with st.container(horizontal=True):
        if not ids:
            st.markdown("Select one or two rows to open or compare them.")
        for run_id in ids[:2]:
            label = f"Open {ui.plain(run_id)}"
            st.page_link("views/run.py", label=label, query_params={"run": run_id})
        if len(ids) == 2:
            both = {"a": ids[0], "b": ids[1]}
            st.page_link("views/compare.py", label="Compare the two", query_params=both)


def _remark(ids: list[str]) -> None:
    """Comment on the selection, below the table so that the table does not move."""
    if len(ids) == 2:
        keys = list(ui.query(queries.like_keys, sorted(ids)).values())
        if len(keys) == 2 and keys[0].isdisjoint(keys[1]):
            st.caption(
                "These two runs differ in test images, protocol or scale, so they are not ranked "
                "together."
            )
    if len(ids) > 2:
        st.caption("Only two runs can be compared: select two.")


def _failures(found: pd.DataFrame) -> None:
    failed = found[found["status"] == "error"]
    if failed.empty:
        return
    with st.expander(f"Errors of failed runs ({len(failed)})"):
        if len(failed) > MAX_ERRORS:
            st.caption(f"The latest {MAX_ERRORS} are shown.")
        for row in ui.records(failed.head(MAX_ERRORS)):
            st.markdown(f"**{ui.plain(row['run_id'])}**")
            st.code(row["error"] or "no error was recorded", language=None, wrap_lines=True)
            st.page_link("views/run.py", label="Open the run", query_params={"run": row["run_id"]})


page()
