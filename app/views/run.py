"""One run, whole: result, curves, attack stages, classes, samples, configuration, log."""

from __future__ import annotations

import json
import shlex
from typing import Any, Literal

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, queries, verdicts
from app.components import (
    ask,
    has_database,
    heading,
    interval,
    nothing_yet,
    one_named,
    percent,
    plain,
    results_folder,
    when,
    with_results,
)
from app.labels import STATUS_WORDS, protocol_text, stage_title
from app.live import epoch_frame
from app.settings import settings_table
from harness.store.rundir import RunDirectory

TABS = ("Curves", "Attacks", "Per class", "Samples", "Configuration", "Environment", "Log")
STATUS_COLORS: dict[str, Literal["green", "red", "blue"]] = {
    "success": "green",
    "error": "red",
    "started": "blue",
}
LOG_LINES = 400


def page() -> None:
    """The run that the address names."""
    if not has_database():
        heading("Run", "One run, whole.")
        nothing_yet()
        return
    run_id = st.query_params.get("run", "")
    if not run_id:
        heading("Run", "One run, whole.")
        st.info("The address names no run.")
        st.page_link("views/runs.py", label="Choose one on the page Runs")
        return
    run = ask(queries.run, run_id)
    evaluations = ask(queries.evaluations, run_id)
    _head(run)
    evaluation = _chosen(evaluations)
    _numbers(run, evaluation)
    tabs = st.tabs(TABS)
    with tabs[0]:
        _curves(run)
    with tabs[1]:
        verdicts.attacks(run, evaluation)
    with tabs[2]:
        verdicts.per_class(run, evaluation)
    with tabs[3]:
        verdicts.samples(run, evaluation)
    with tabs[4]:
        _configuration(run)
    with tabs[5]:
        _environment(run, evaluation)
    with tabs[6]:
        _log(run)


def _head(run: dict[str, Any]) -> None:
    st.title(plain(run["title"]), anchor=False)
    places = [run["dataset"], run["arch"], run["teacher"] and f"taught by {run['teacher']}"]
    seed = None if run["seed"] is None else f"seed {int(run['seed'])}"
    facts = [*places, run["recipe"] and f"recipe {run['recipe']}", seed, run["run_id"]]
    st.caption(plain(" · ".join(str(fact) for fact in facts if fact)))
    with st.container(horizontal=True, gap="small"):
        status = run["status"]
        st.badge(STATUS_WORDS.get(status, status), color=STATUS_COLORS.get(status, "gray"))
        if run["scale"] == "small":
            st.badge("S small scale", color="gray", help="Never ranked with the literature.")
        if run["partial"]:
            st.badge("partial", color="orange", help="Trained on a part of the data; not ranked.")
        if run["selection"]:
            rule = run["selection"]
            marked = rule == "best-on-test"
            st.badge(
                f"weights: {rule}",
                color="orange" if marked else "gray",
                help="Whose weights are the result.",
            )
        if run["git_dirty"]:
            st.badge("code differed from its commit", color="orange")
    if run["error"]:
        st.error(plain(run["error"]))
    with st.expander("The command that repeats it"):
        st.code(with_results(_command(run)), language="bash", wrap_lines=True)
        st.caption("A finished run is not run again: the same command shows its result.")


def _command(run: dict[str, Any]) -> str:
    typed = run["config_passed"].get("argv")
    if typed:
        return f"python -m harness {shlex.join(map(str, typed))}"
    if run["kind"] == "loaded":
        source = shlex.quote(str(run["source"].get("source", run["run_id"])))
        return f"python -m harness evaluate {source} --dataset {shlex.quote(str(run['dataset']))}"
    method, recipe = shlex.quote(str(run["method"])), shlex.quote(str(run["recipe"]))
    changed = "".join(
        f" --set {shlex.quote(f'{path}={json.dumps(value)}')}"
        for path, value in run["recipe_changes"].items()
    )
    seed = f" --seed {int(run['seed'])}" if run["seed"] else ""
    return f"python -m harness run --method {method} --recipe {recipe}{changed}{seed}"


def _chosen(evaluations: list[dict[str, Any]]) -> dict[str, Any] | None:
    finished = [each for each in evaluations if each["status"] == "success"]
    if len(finished) < 2:
        return finished[0] if finished else None
    names = [each["evaluation_id"] for each in finished]
    name = one_named(
        "Evaluation",
        names,
        key="evaluation",
        default=names[0],
        help="The run was measured several times. First stands what was measured by its own "
        "protocol, else on the whole test set.",
        titles={
            each["evaluation_id"]: f"{protocol_text(each)} ({when(each['finished_at'])}, "
            f"{each['evaluation_id']})"
            for each in finished
        },
    )
    return finished[names.index(name)]


def _numbers(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    if evaluation is None:
        st.info("No evaluation of this run is finished.")
        return
    st.markdown(f"**{plain(protocol_text(evaluation))}** · {when(evaluation['finished_at'])}")
    if evaluation["partial"]:
        st.badge("partial", color="orange", help="Measured on a part of the images; not ranked.")
    metrics = evaluation["metrics"]
    shown = ["clean", *[name for name in ("aa", "robust") if name in metrics][:1]]
    costs = ask(queries.training_metrics, run["run_id"])
    columns = st.columns(4)
    for column, name in zip(columns, shown, strict=False):
        found = metrics.get(name)
        if found and (name == "clean" or evaluation["attacks"]):
            column.metric(stage_title(name), f"{percent(found['value'])}%")
            column.caption(f"95% {interval(found['low'], found['high'])}")
    if "sec_per_iter" in costs:
        columns[2].metric("Seconds per step", f"{costs['sec_per_iter']:.3g}")
    if "train_seconds" in costs:
        columns[3].metric("Training", _duration(costs["train_seconds"]))
    for flag in evaluation["flags"]:
        st.warning(plain(f"? {flag}"))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _curves(run: dict[str, Any]) -> None:
    epochs = ask(queries.epochs, run["run_id"])
    if run["status"] == "started":
        live = epoch_frame(results_folder(), run["run_id"])
        epochs = live if len(live) > len(epochs) else epochs
    if epochs.empty:
        st.info("No epoch is finished, or the model was trained elsewhere.")
        return
    accuracy = _long(
        epochs, {"clean_val": "clean, watched images", "pgd_val": "under PGD, watched images"}, 100
    )
    loss = _long(epochs, {"loss": "training loss"}, 1)
    left, right = st.columns(2)
    with left:
        if accuracy.empty:
            st.caption("This run watched no accuracy.")
        else:
            names = list(dict.fromkeys(accuracy["series"]))
            chart = charts.lines(accuracy, y_title="Accuracy (%)", series=names)
            st.altair_chart(chart, alt=f"Accuracy over {len(epochs)} epochs")
            last = accuracy[accuracy["epoch"] == accuracy["epoch"].max()]
            told = "; ".join(f"{row.series}: {row.value:.1f}%" for row in last.itertuples())
            st.caption(f"After epoch {int(epochs['epoch'].max())}: {told}. It is no evaluation.")
    with right:
        if not loss.empty:
            chart = charts.lines(loss, y_title="Loss", series=["training loss"])
            st.altair_chart(chart, alt=f"Training loss over {len(epochs)} epochs")
            first, final = loss["value"].iloc[0], loss["value"].iloc[-1]
            chosen = run["selected_epoch"]
            kept = f" The weights of epoch {int(chosen)} are the result." if chosen else ""
            st.caption(f"Training loss from {first:.4g} to {final:.4g}.{kept}")


def _long(epochs: pd.DataFrame, names: dict[str, str], scale: float) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"epoch": epochs["epoch"], "series": title, "value": scale * epochs[name]})
        for name, title in names.items()
        if name in epochs
    ]
    frame = pd.concat(parts) if parts else pd.DataFrame({"epoch": [], "series": [], "value": []})
    return frame.dropna(subset="value")


def _configuration(run: dict[str, Any]) -> None:
    if not run["config"]:
        st.info("The model was trained elsewhere; this is what is known of it.")
        st.json(run["source"])
        return
    table = settings_table(run)
    changed = int(table["changed"].sum())
    st.caption(
        f"{changed} of {len(table)} settings differ from recipe {plain(run['recipe'])}, marked ≠. "
        "The seed is not counted as a change."
        if changed
        else f"All {len(table)} settings are those of recipe {plain(run['recipe'])}, seed aside."
    )
    shown = table.sort_values("changed", ascending=False, kind="stable")
    shown = shown.assign(changed=np.where(shown["changed"], "≠", ""))
    st.dataframe(
        shown,
        hide_index=True,
        placeholder="",
        column_config={
            "setting": st.column_config.TextColumn(
                "Setting", pinned=True, help="As for --set setting=value."
            ),
            "changed": st.column_config.TextColumn("", help="≠: the run differs from its recipe."),
            "run": st.column_config.TextColumn("This run", help="The value it ran with."),
            "recipe": st.column_config.TextColumn("Recipe", help="The value of the recipe today."),
        },
        alt=f"{len(table)} settings, {changed} of which differ from the recipe",
    )


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
        "Code differed from it": git.get("dirty"),
        "Training data (SHA-256)": run["train_sha256"],
        "Test data (SHA-256)": run["test_sha256"],
        "Weights (SHA-256)": evaluation and evaluation["model_sha256"],
        **{f"Package {name}": version for name, version in (facts.get("packages") or {}).items()},
        **{f"Precision: {name}": value for name, value in (facts.get("precision") or {}).items()},
    }
    known = {name: str(value) for name, value in rows.items() if value not in (None, "")}
    st.dataframe(
        pd.DataFrame({"fact": list(known), "value": list(known.values())}),
        hide_index=True,
        placeholder="",
        column_config={
            "fact": st.column_config.TextColumn("Fact", pinned=True, help="What was recorded."),
            "value": st.column_config.TextColumn("Value", width="large", help="Its value."),
        },
        alt=f"{len(known)} facts of code, packages and machine",
    )


def _log(run: dict[str, Any]) -> None:
    path = RunDirectory(results_folder(), run["run_id"]).log_path
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        st.info("The run's directory has no log: only trouble is written there.")
        return
    found = text.splitlines()
    st.caption(f"The last {min(len(found), LOG_LINES)} of {len(found)} lines.")
    st.code("\n".join(found[-LOG_LINES:]), language=None, wrap_lines=True)


page()
