"""The verbs ``list``, ``show`` and ``app``: what there is.

What needs torch is imported only where it is used: runs are listed without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import fact_table, percent, plain_table, print_json
from harness.config import eps_text
from harness.errors import UserError
from harness.progress import duration
from harness.registry import METHODS, unknown_name
from harness.store.database import Database
from harness.store.rundir import RunDirectory, find_run, list_runs

Row = dict[str, Any]
# Facts of a stage in an evaluation's record, and their column titles.
COUNTS = {"attacked": "attacked", "broken": "broken", "forward": "fwd", "backward": "bwd"}


def list_(
    kind: Annotated[str, Argument(help="methods, recipes, datasets, models or runs.")],
    table: Annotated[int | None, Option(help="Recipes of one table of the paper.")] = None,
    method: Annotated[str | None, Option(help="Recipes or runs of one method.")] = None,
    zoo: Annotated[
        bool, Option("--zoo", help="Models that RobustBench publishes, with their weights.")
    ] = False,
    results: opt.Results = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """List methods, recipes, datasets, models or runs."""
    kinds: dict[str, Callable[[], list[Row]]] = {
        "methods": method_rows,
        "recipes": lambda: recipe_rows(table, method),
        "datasets": dataset_rows,
        "models": lambda: model_rows(zoo),
        "runs": lambda: run_rows(results, method),
    }
    if kind not in kinds:
        raise UserError(unknown_name("listing", kind, sorted(kinds)))
    rows = kinds[kind]()
    if as_json:
        print_json(rows)
    else:
        print_rows(kind, rows, Console())


def show(
    name: Annotated[str, Argument(help="A run, or a method.")],
    results: opt.Results = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Show one run with its table, or a method's card."""
    if name in METHODS:
        show_method(name, as_json=as_json)
    else:
        show_run(find_run(results, name), results, as_json=as_json)


def browse(
    port: Annotated[int, Option(help="Port to listen on.", min=1, max=65535)] = 8501,
    host: Annotated[str, Option(help="Address to listen on.")] = "localhost",
    results: opt.Results = opt.RESULTS,
) -> None:
    """Show leaderboards, runs and comparisons in the browser; it only reads."""
    from app.launch import serve

    serve(results, port=port, host=host)


def method_rows() -> list[Row]:
    """Return a row a method."""
    cards = {name: METHODS.get(name).card for name in METHODS.names()}
    return [
        {
            "method": name,
            "family": card.family,
            "tables": " ".join(map(str, card.tables)),
            "summary": card.summary,
        }
        for name, card in cards.items()
    ]


def recipe_rows(table: int | None, method: str | None) -> list[Row]:
    """Return a row a recipe, of one table of the paper or one method if given."""
    from harness.experiment.resolve import resolve

    rows = []
    for name in [method] if method else METHODS.names():
        notes = METHODS.get(name).recipe_notes
        for recipe in METHODS.get(name).recipes:
            if table is None or recipe.startswith(f"table{table}/"):
                config = resolve(name, recipe=recipe)
                rows.append(
                    {
                        "recipe": recipe,
                        "method": name,
                        "dataset": config.data.name,
                        "model": config.model.arch,
                        "epochs": config.training.epochs,
                        "batch": config.training.batch_size,
                        "note": notes.get(recipe),
                    }
                )
    return sorted(rows, key=lambda row: (row["recipe"], row["method"]))


def dataset_rows() -> list[Row]:
    """Return a row a dataset."""
    from harness.data import DATASETS, dataset_info

    infos = {name: dataset_info(name) for name in DATASETS.names()}
    return [
        {
            "dataset": name,
            "classes": info.num_classes,
            "image": f"{info.channels}x{info.image_size}x{info.image_size}",
            "default_eps": eps_text(info.default_eps),
        }
        for name, info in infos.items()
    ]


def model_rows(zoo: bool) -> list[Row]:
    """Return a row a network, or with ``zoo`` a row a model that RobustBench publishes."""
    from harness.models import ARCHITECTURES
    from harness.models.zoos import robustbench_models

    if zoo:
        return robustbench_models()
    return [{"model": name} for name in ARCHITECTURES.names()]


def run_rows(results: Path, method: str | None) -> list[Row]:
    """Return a row a stored run, the oldest first; one that cannot be read has a note."""
    rows = []
    for run in list_runs(results):
        try:
            record = run.record
        except UserError as error:
            damaged = dict.fromkeys(("dataset", "model", "recipe", "seed", "partial", "started"))
            rows.append({"run": run.run_id, "status": "damaged", **damaged, "note": str(error)})
            continue
        if method and record.get("method") != method:
            continue
        rows.append(
            {
                "run": run.run_id,
                "status": record["status"],
                "dataset": record["dataset"],
                "model": record.get("arch"),
                "recipe": record.get("recipe"),
                "seed": record.get("seed"),
                "partial": "partial" if record.get("partial") else None,
                "started": record["started_at"],
            }
        )
    return sorted(rows, key=lambda row: str(row["started"]))


def print_rows(kind: str, rows: list[Row], console: Console) -> None:
    """Print rows as a table, and below it their notes.

    On a terminal cells wrap between words. Elsewhere, and where the words do not fit, a row is one
    line.
    """
    if not rows:
        console.print(f"no {kind}")
        return
    columns = [
        name for name in rows[0] if name != "note" and any(row[name] is not None for row in rows)
    ]
    table = plain_table()
    for name in columns:
        cells = [name.replace("_", " "), *(_cell(name, row[name]) for row in rows)]
        longest = max(len(word) for cell in cells for word in cell.split())
        table.add_column(cells[0], min_width=longest, no_wrap=longest == max(map(len, cells)))
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in columns))
    unlimited = console.options.update(width=sys.maxsize)
    least, full = console.measure(table, options=unlimited)
    if not (console.is_terminal and least <= console.width):
        table.width = full
    console.print(table, crop=False)
    for row in rows:
        if row.get("note"):
            note = f"note on {row[columns[0]]}: {row['note']}"
            console.print(note, highlight=False, soft_wrap=not console.is_terminal)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    # UTC to the minute; JSON has the full time.
    return str(value)[:16].replace("T", " ") if name == "started" else str(value)


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
    console = Console(highlight=False, markup=False)
    console.print(f"{card.title} ({name}, {card.family})", style="bold")
    console.print(f"{card.summary}\n")
    console.print(fact_table(lines))


def show_run(run: RunDirectory, results: Path, *, as_json: bool) -> None:
    """Print what a stored run is, its table, and its evaluations."""
    record = run.record
    evaluations = [evaluation.record for evaluation in run.evaluations()]
    if as_json:
        print_json({**record, "evaluations": evaluations})
        return
    facts = {
        "status": record["status"] + (f": {record['error']}" if record.get("error") else ""),
        "method": record.get("method_title") or record["source"]["source"],
        "dataset": record["dataset"],
        "model": record.get("arch"),
        "teacher": _teacher_text(record),
        "recipe": _recipe_text(record),
        "seed": record.get("seed"),
        "device": record["provenance"].get("device"),
        "commit": _commit_text(record["provenance"]),
        "started": record["started_at"],
        "stored in": str(run.path),
    }
    console = Console()
    console.print(
        fact_table((name, fact) for name, fact in facts.items() if fact not in (None, ""))
    )
    if any(evaluation["status"] == "success" for evaluation in evaluations):
        from leaderboards.summary import run_summary

        run_summary(results, run.run_id).render(console)
    print_evaluations(run, console)


def print_evaluations(run: RunDirectory, console: Console) -> None:
    """Print the stages of the newest finished evaluation, a line for each other one, and curves."""
    from divergence_bench.cli.evaluate import print_curve
    from harness.evaluation.analysis import curves

    database = Database(run.results)
    flags = curves.flags_of(database, [run.run_id])
    finished = sorted(
        (
            each.record
            | {"flags": flags.get((run.run_id, each.evaluation_id), each.record.get("flags"))}
            for each in run.evaluations()
            if each.record["status"] == "success"
        ),
        key=lambda record: (str(record["finished_at"]), str(record["evaluation_id"])),
    )
    newest = [record for record in finished if record.get("stages")][-1:]
    for record in newest:
        console.out(f"\n{evaluation_line(record)}", highlight=False)
        console.print(stage_table(record))
    for record in finished:
        if record not in newest:
            console.out(evaluation_line(record), highlight=False)
    for curve in curves.curves(database, run.run_id):
        print_curve(curve, run.evaluation(curve[0].evaluation_id).record, console)


def evaluation_line(record: Mapping[str, Any]) -> str:
    """An evaluation in one line: its id, protocol, images, result and flags."""
    protocol, metrics = record["protocol"], record["metrics"]
    threat = f"{protocol['norm']} {eps_text(protocol['eps'])}"
    flags = ", ".join(flag["name"] for flag in record.get("flags") or [])
    return (
        f"evaluation {record['evaluation_id']}: {threat if protocol['attacks'] else 'clean only'}, "
        f"n = {protocol['n']}, {percent(metrics['robust']['value'])}% left"
        f"{f', flags: {flags}' if flags else ''}, {duration(record.get('wall_s') or 0)}"
    )


def stage_table(record: Mapping[str, Any]) -> Table:
    """Images that each stage attacked, broke and left, its passes and its seconds."""
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
