"""One run: result, curves, attack stages, classes, samples, configuration and log."""

from __future__ import annotations

import json
from typing import Any, Literal

import pandas as pd
import streamlit as st

from app import address, commands, evaluation_tabs, queries, run_curves
from app import components as ui
from app.labels import SELECTION_WORDS, STATUS_WORDS, protocol_text, stage_title
from harness.config import flat
from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.progress import duration
from harness.store.rundir import RunDirectory

TABS = ("Curves", "Attacks", "Per class", "Samples", "Configuration", "Environment", "Log")
STATUS_COLORS: dict[str, Literal["green", "red", "blue"]] = {
    "success": "green",
    "error": "red",
    "started": "blue",
}
SETTING_COLUMNS = {
    "setting": ui.text_column("Setting", "Its name, as in --set setting=value.", pinned=True),
    "changed": ui.text_column("", "≠: the run differs from its recipe."),
    "run": ui.text_column("This run", "The value in this run."),
    "recipe": ui.text_column("Recipe", "The recipe's value in this release."),
}
FACT_COLUMNS = {
    "fact": ui.text_column("Fact", "What was recorded.", pinned=True),
    "value": ui.text_column("Value", "Its value.", width="large"),
}
LOG_LINES = 400


def page() -> None:
    """The run named by the URL."""
    run_id = st.query_params.get("run", "")
    head = st.container()
    run = _named(run_id) if run_id and ui.has_database() else None
    if run is None:
        with head:
            ui.heading("Run", "Everything about one run.")
        if not ui.has_database():
            ui.nothing_yet()
            return
        if not run_id:
            st.info("The URL names no run.")
        st.page_link("views/runs.py", label="Choose one on the Runs page")
        return
    evaluations = ui.query(queries.evaluations, run_id)
    _head(run, next(iter(evaluations), None))
    running = run["status"] == "started"
    if running or RunDirectory(ui.results_folder(), run_id).progress_path.exists():
        run_curves.watch(run_id, run["status"])
    evaluation = _chosen(evaluations)
    _numbers(run, evaluation)
    tabs = st.tabs(TABS)
    with tabs[0]:
        if running:
            run_curves.growing_curves(run)
        else:
            run_curves.curves(run)
    with tabs[1]:
        evaluation_tabs.attack_stages(evaluation)
    with tabs[2]:
        evaluation_tabs.per_class(run, evaluation)
    with tabs[3]:
        evaluation_tabs.samples(run, evaluation)
    with tabs[4]:
        _configuration(run)
    with tabs[5]:
        _environment(run, evaluation)
    with tabs[6]:
        _log(run)


def _named(run_id: str) -> dict[str, Any] | None:
    """Return the run with that id; show an error and return None if there is none."""
    try:
        return ui.query(queries.run, run_id)
    except UserError:
        st.error(
            f"There is no run {ui.plain(address.quoted(run_id))} in "
            f"{ui.plain(ui.results_folder())}: choose one below, or rebuild the database from the "
            "run directories with `db rebuild`."
        )
        return None


def _head(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    st.title(ui.plain(run["title"]), anchor=False)
    names = [run["dataset"], run["arch"], run["teacher"] and f"teacher {run['teacher']}"]
    seed = None if run["seed"] is None else f"seed {int(run['seed'])}"
    facts = [*names, run["recipe"] and f"recipe {run['recipe']}", seed, run["run_id"]]
    st.caption(ui.plain(" · ".join(str(fact) for fact in facts if fact)))
    with st.container(horizontal=True, gap="small"):
        status = run["status"]
        st.badge(STATUS_WORDS.get(status, status), color=STATUS_COLORS.get(status, "gray"))
        if run["scale"] == "small":
            st.badge("S small scale", color="gray", help="Never ranked with published results.")
        if run["partial"]:
            st.badge("partial", color="orange", help="Trained on part of the data; not ranked.")
        if run["selection"]:
            st.badge(
                SELECTION_WORDS.get(run["selection"], run["selection"]),
                color="orange" if run["selection"] == "best-on-test" else "gray",
                help="The epoch whose weights were evaluated.",
            )
        if run["git_dirty"]:
            st.badge("uncommitted code", color="orange", help="The code had uncommitted changes.")
    if run["error"]:
        st.error(ui.plain(run["error"]))
    with st.expander("Command to repeat this run"):
        _repeat(run, evaluation)


def _repeat(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    command = commands.repeat(run, evaluation)
    if command is not None:
        st.code(ui.with_results(command), language=None, wrap_lines=True)
        st.caption("If the run is finished, this command shows its result without repeating it.")
    elif run["kind"] == "loaded":
        st.caption(
            "There is none: its model or its images were objects in Python, or this release does "
            "not have its settings."
        )
    else:
        st.caption("There is none: this release does not have its method, recipe or settings.")


def _chosen(evaluations: list[dict[str, Any]]) -> dict[str, Any] | None:
    finished = {each["evaluation_id"]: each for each in evaluations if each["status"] == "success"}
    if len(finished) < 2:
        return next(iter(finished.values()), None)
    name = ui.one_named(
        "Evaluation",
        list(finished),
        key="evaluation",
        default=next(iter(finished)),
        help="This run was evaluated several times. The evaluation under its own protocol comes "
        "first, or, without one, the evaluation on the whole test set.",
        titles={
            name: f"{protocol_text(each)} ({ui.when(each['finished_at'])}, {name})"
            for name, each in finished.items()
        },
    )
    return finished[name]


def _numbers(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    if evaluation is None:
        st.info("This run has no finished evaluation.")
        return
    st.markdown(f"**{ui.plain(protocol_text(evaluation))}** · {ui.when(evaluation['finished_at'])}")
    metrics = evaluation["metrics"]
    shown = ["clean", *[name for name in ("aa", "robust") if name in metrics][:1]]
    columns = st.columns(4)
    for column, name in zip(columns, shown, strict=False):
        found = metrics.get(name)
        if found and (name == "clean" or evaluation["attacks"]):
            column.metric(stage_title(name), f"{100 * found['value']:.2f}%")
            if found["low"] is not None:
                low, high = 100 * found["low"], 100 * found["high"]
                column.caption(f"95% interval [{low:.1f}, {high:.1f}]")
    step, training = (
        metrics.get(name, {}).get("value") for name in ("sec_per_iter", "train_seconds")
    )
    if step is not None:
        columns[2].metric("Seconds per step", f"{step:.3g}")
    if training is not None:
        columns[3].metric("Training time", duration(training))
    for flag in evaluation["flags"]:
        st.warning(ui.plain(f"? {flag}"))


def _configuration(run: dict[str, Any]) -> None:
    if not run["config"]:
        st.info("This model was not trained here. The following is known about it:")
        st.json(run["source"])
        return
    table = _settings(run)
    changed = int((table["changed"] != "").sum())
    recipe = ui.plain(run["recipe"])
    st.caption(
        f"{changed} of {len(table)} settings {'differs' if changed == 1 else 'differ'} from recipe "
        f"{recipe} and {'is' if changed == 1 else 'are'} marked ≠. "
        "The seed does not count as a change."
        if changed
        else f"All {len(table)} settings except the seed are those of recipe {recipe}."
    )
    alt = f"{len(table)} settings, {changed} of which differ from the recipe"
    ui.show_table(table, SETTING_COLUMNS, alt)


def _settings(run: dict[str, Any]) -> pd.DataFrame:
    """A run's settings and its recipe's as JSON text, changed ones first.

    Changes were recorded when the run started. The recipe's values are those of this release, empty
    if it no longer has the method or the recipe.
    """
    own = flat(run["config"])
    try:
        recipe = flat(resolve(run["method"], recipe=run["recipe"]).model_dump(mode="json"))
    except UserError:
        recipe = {}
    table = pd.DataFrame(
        {
            "setting": list(own),
            "changed": ["≠" if path in run["recipe_changes"] else "" for path in own],
            "run": [json.dumps(value) for value in own.values()],
            "recipe": [json.dumps(recipe[path]) if path in recipe else "" for path in own],
        }
    )
    return table.sort_values("changed", ascending=False, kind="stable")


def _environment(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    facts = run["provenance"]
    git = facts.get("git") or {}
    rows = {
        "Device": facts.get("device"),
        "Processor": facts.get("cpu"),
        "Threads": facts.get("num_threads"),
        "Python": facts.get("python"),
        "Platform": facts.get("platform"),
        "Commit": git.get("commit"),
        "Uncommitted changes": git.get("dirty"),
        "Training data (SHA-256)": run["train_sha256"],
        "Test data (SHA-256)": run["test_sha256"],
        "Weights (SHA-256)": evaluation and evaluation["model_sha256"],
        **{f"Package {name}": version for name, version in (facts.get("packages") or {}).items()},
        **{f"Precision: {name}": value for name, value in (facts.get("precision") or {}).items()},
    }
    known = {name: str(value) for name, value in rows.items() if value not in (None, "")}
    ui.show_table(
        pd.DataFrame({"fact": list(known), "value": list(known.values())}),
        FACT_COLUMNS,
        f"{len(known)} facts about code, packages and machine",
    )


def _log(run: dict[str, Any]) -> None:
    path = RunDirectory(ui.results_folder(), run["run_id"]).log_path
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        st.info("This run has no log: only warnings and errors are logged.")
        return
    st.caption(f"The last {min(len(lines), LOG_LINES)} of {len(lines)} lines.")
    st.code("\n".join(lines[-LOG_LINES:]), language=None, wrap_lines=True)


page()
