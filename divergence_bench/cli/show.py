"""The commands ``show`` and ``app``: one run, a method's card, or everything in the browser.

Modules that need torch are imported only where they are used, so runs are shown without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer import Argument

from divergence_bench.cli import completion
from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import (
    Row,
    fact_table,
    new_console,
    percent,
    plain_table,
    print_json,
)
from harness.config import eps_text
from harness.errors import UserError
from harness.progress import duration
from harness.registry import METHODS, nearest
from harness.store.rundir import EvaluationDirectory, RunDirectory, find_run, list_runs

# Facts of a stage in an evaluation's record, and their column titles.
COUNTS = {"attacked": "attacked", "broken": "broken", "forward": "fwd", "backward": "bwd"}


def show(
    context: typer.Context,
    name: Annotated[
        str,
        Argument(help="A run, or a method.", autocompletion=completion.runs_and_methods),
    ],
    evaluation: Annotated[
        str | None,
        opt.value(
            "ID",
            "Evaluation to show; default: the one with the run's own protocol.",
            opt.SELECTION,
        ),
    ] = None,
    results: opt.StoredResults = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Show one run with its table, or a method's card."""
    if name in METHODS:
        opt.refuse_unused(context, dict.fromkeys(("evaluation", "results"), "on a method"))
        show_method(name, as_json=as_json)
    else:
        show_run(_run(results, name), evaluation, as_json=as_json)


def browse(
    port: Annotated[
        int,
        opt.value("N", "Port to listen on.", opt.EXECUTION, min=1, max=65535),
    ] = 8501,
    host: Annotated[str, opt.value("TEXT", "Address to listen on.", opt.EXECUTION)] = "localhost",
    results: opt.StoredResults = opt.RESULTS,
) -> None:
    """Show leaderboards, runs and comparisons in the browser; nothing is written."""
    from app.launch import serve

    serve(results, port=port, host=host)


def _run(results: Path, name: str) -> RunDirectory:
    """Find a run by name; if there is none, suggest similar runs and methods."""
    try:
        return find_run(results, name)
    except UserError as error:
        near = nearest(name, [*METHODS.names(), *(run.run_id for run in list_runs(results))])
        if not any(each in METHODS for each in near):
            raise
        raise UserError(
            f"there is no method or run {name!r}: did you mean {' or '.join(near)}?"
        ) from error


def show_method(name: str, *, as_json: bool) -> None:
    """Print a method's card, its parameters and its recipes."""
    method = METHODS.get(name)
    card = method.card
    params = method.params().model_dump(mode="json")
    recipes = sorted(method.recipes)
    if as_json:
        facts = {key: value for key, value in asdict(card).items() if key != "bibtex"}
        notes = dict(method.recipe_notes)
        print_json(
            {"method": name, **facts, "params": params, "recipes": recipes, "recipe_notes": notes}
        )
        return
    lines = [("loss", card.formula), ("paper", card.paper), ("", card.url)]
    for parameter, value in params.items():
        released = card.released_names.get(parameter)
        note = f" (released code: {released})" if released else ""
        lines.append(("param", f"{parameter} = {value}{note}"))
    lines += [("note", note) for note in card.notes]
    lines.append(("recipes", ", ".join(recipes)))
    lines += [("note", f"{recipe}: {note}") for recipe, note in method.recipe_notes.items()]
    console = new_console()
    console.print(f"{card.title} ({name}, {card.family})", style="bold")
    console.print(f"{card.summary}\n")
    console.print(fact_table(lines))


def show_run(run: RunDirectory, evaluation: str | None, *, as_json: bool) -> None:
    """Print a stored run's facts, its table and its evaluations.

    Args:
        run: the run.
        evaluation: start of the id of the evaluation in the table and the stages; default: the
            run's own.
        as_json: print JSON.

    Raises:
        UserError: the run has no such finished evaluation.
    """
    record, own = run.record, run.own_evaluation()
    provenance = record.get("provenance") or {}
    if evaluation is not None:
        from harness.evaluation.analysis.stored import finished

        headed: EvaluationDirectory | None = finished(
            run.results, f"{run.run_id}@{evaluation}", None, None
        )[0]
    else:
        headed = own
    evaluations = [each.record for each in run.evaluations() if each.damage is None]
    if as_json:
        shown = headed and headed.evaluation_id
        print_json({**record, "evaluation": shown, "evaluations": evaluations})
        return
    facts = {
        "status": record["status"] + (f": {record['error']}" if record.get("error") else ""),
        "method": record.get("method_title") or (record.get("source") or {}).get("source"),
        "dataset": record.get("dataset"),
        "model": record.get("arch"),
        "teacher": _teacher_text(record),
        "recipe": _recipe_text(record),
        "seed": record.get("seed"),
        "device": provenance.get("device"),
        "commit": _commit_text(provenance),
        "started": record.get("started_at"),
        "stored in": str(run.path),
    }
    console = new_console()
    console.print(
        fact_table((name, fact) for name, fact in facts.items() if fact not in (None, ""))
    )
    if headed is not None:
        from leaderboards.summary import run_summary

        run_summary(run.results, run.run_id, headed.evaluation_id).render(console)
    print_evaluations(run, headed, console)
    for each in run.evaluations():
        if each.damage:
            console.print(f"left out: {each.damage}")


def print_evaluations(
    run: RunDirectory, headed: EvaluationDirectory | None, console: Console
) -> None:
    """Print one evaluation's stages, a line for each other finished evaluation, and curves."""
    from divergence_bench.cli.evaluate import print_curve
    from harness.evaluation.analysis import curves
    from harness.store.database import Database

    database = Database(run.results)
    flags = curves.flags_of(database, [run.run_id])
    for evaluation in sorted(
        run.finished_evaluations(),
        key=lambda each: (
            headed is None or each.evaluation_id != headed.evaluation_id,
            str(each.record["finished_at"]),
            each.evaluation_id,
        ),
    ):
        record, key = evaluation.record, (run.run_id, evaluation.evaluation_id)
        line = evaluation_line(record | {"flags": flags.get(key, record.get("flags"))})
        if headed is not None and evaluation.evaluation_id == headed.evaluation_id:
            console.out(f"\n{line}", highlight=False)
            if record.get("stages"):
                console.print(stage_table(record))
        else:
            console.out(line, highlight=False)
    for curve in curves.curves(database, run.run_id):
        print_curve(curve, run.evaluation(curve[0].evaluation_id).record, console)


def evaluation_line(record: Mapping[str, Any]) -> str:
    """Return an evaluation in one line: its id, protocol, images, result, flags and time."""
    protocol, metrics = record["protocol"], record["metrics"]
    threat = f"{protocol['norm']} {eps_text(protocol['eps'])}"
    flags = ", ".join(flag["name"] for flag in record.get("flags") or [])
    return (
        f"evaluation {record['evaluation_id']}: {threat if protocol['attacks'] else 'clean only'}, "
        f"n = {protocol['n']:,}, {percent(metrics['robust']['value'])}% left"
        f"{f', flags: {flags}' if flags else ''}, {duration(record.get('wall_s') or 0)}"
    )


def stage_table(record: Mapping[str, Any]) -> Table:
    """Return a table of each stage: images attacked, broken and left, passes and seconds."""
    protocol, metrics = record["protocol"], record["metrics"]
    n, clean = protocol["n"], metrics["clean"]["value"]
    table = plain_table("stage", *COUNTS.values(), "seconds", "left")
    table.add_row("clean", str(n), str(round(n * (1 - clean))), "", "", "", f"{percent(clean)}%")
    for name in protocol["attacks"]:
        facts = record["stages"].get(name)
        if facts is None:
            table.add_row(name, "0")
            continue
        counts = [str(int(facts[count])) for count in COUNTS]
        left = f"{percent(metrics[name]['value'])}%"
        table.add_row(name, *counts, f"{facts['seconds']:.1f}", left)
    return table


def _teacher_text(record: Row) -> str | None:
    facts = record.get("teacher_facts")
    if not facts:
        return None
    accuracy = facts["accuracy"]
    right = f"{percent(accuracy['value'])}% of {accuracy['n']} right"
    return f"{facts['arch']} ({facts['weights']}), {right}"


def _recipe_text(record: Row) -> str | None:
    if not record.get("recipe"):
        return None
    changes = record.get("recipe_changes") or {}
    return ", ".join([record["recipe"], *(f"{path}={value}" for path, value in changes.items())])


def _commit_text(provenance: Row) -> str | None:
    git = provenance.get("git")
    return git and f"{git['commit']}{' (dirty)' if git['dirty'] else ''}"
