"""One run, whole: result, curves, attack stages, classes, samples, configuration, log."""

from __future__ import annotations

import json
import shlex
from typing import Any, Literal

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, queries
from app.gallery import adversarial_images, class_names
from app.live import epoch_frame
from app.settings import settings_table
from app.shared import (
    ask,
    has_database,
    heading,
    interval,
    nothing_yet,
    one_named,
    one_of,
    percent,
    plain,
    records,
    results_folder,
    when,
)
from app.words import STATUS_WORDS, protocol_text, stage_title
from harness.errors import UserError
from harness.store.rundir import RunDirectory

TABS = ("Curves", "Attacks", "Per class", "Samples", "Configuration", "Environment", "Log")
STATUS_COLORS: dict[str, Literal["green", "red", "blue"]] = {
    "success": "green",
    "error": "red",
    "started": "blue",
}
LOG_LINES = 400
SAMPLE_ROWS = 10


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
        _attacks(run, evaluation)
    with tabs[2]:
        _per_class(run, evaluation)
    with tabs[3]:
        _samples(run, evaluation)
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
        st.code(_command(run), language="bash", wrap_lines=True)
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
    help = "The run was measured several times."
    name = one_named("Evaluation", names, key="evaluation", default=names[0], help=help)
    return finished[names.index(name)]


def _numbers(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    if evaluation is None:
        st.info("No evaluation of this run is finished.")
        return
    st.markdown(f"**{plain(protocol_text(evaluation))}** · {when(evaluation['finished_at'])}")
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


def _attacks(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    if evaluation is None or not evaluation["attacks"]:
        st.info("No finished evaluation with an attack.")
        return
    n, metrics = int(evaluation["n"]), evaluation["metrics"]
    stages, alive = [], n
    for name in ("clean", *evaluation["attacks"].split(",")):
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


def _per_class(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    rows = (
        pd.DataFrame()
        if evaluation is None
        else ask(queries.per_class, run["run_id"], evaluation["evaluation_id"])
    )
    if evaluation is None or rows.empty:
        st.info("No verdicts are stored.")
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


def _samples(run: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    endings = (
        pd.DataFrame()
        if evaluation is None
        else ask(queries.endings, run["run_id"], evaluation["evaluation_id"])
    )
    if evaluation is None or endings.empty:
        st.info("No verdicts are stored.")
        return
    counts = dict(zip(endings["fooled_by"], endings["n"], strict=True))
    attacks = [name for name in evaluation["attacks"].split(",") if name in counts]
    options = [*attacks, *[name for name in ("clean", "robust") if name in counts]]
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
        st.code(
            f"python -m harness evaluate {run['run_id']} --save-adversarial uint8", language="bash"
        )
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
