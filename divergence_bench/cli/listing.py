"""What ``list``, ``show`` and ``run --dry-run`` print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from divergence_bench.cli.evaluation_view import print_evaluations
from harness.config import RunConfig
from harness.data import DATASETS, dataset_info
from harness.errors import UserError
from harness.experiment.resolve import recipe_changes, resolve, teacher_run
from harness.method import MethodCard
from harness.models import ARCHITECTURES
from harness.models.zoos import robustbench_models
from harness.registry import METHODS, REPORTS, unknown_name
from harness.store.database import Rebuilt
from harness.store.rundir import RunDirectory, list_runs

Row = dict[str, Any]


def rows(
    kind: str, *, results: Path, table: int | None, method: str | None, zoo: bool = False
) -> list[Row]:
    """The rows of one kind of listing; ``zoo`` lists RobustBench's models instead of networks.

    Raises:
        UserError: there is no such kind.
    """
    kinds: dict[str, Callable[[], list[Row]]] = {
        "methods": _methods,
        "recipes": lambda: _recipes(table, method),
        "datasets": _datasets,
        "models": lambda: (
            robustbench_models() if zoo else [{"model": name} for name in ARCHITECTURES.names()]
        ),
        "runs": lambda: _runs(results, method),
    }
    if kind not in kinds:
        raise UserError(unknown_name("listing", kind, sorted(kinds)))
    return kinds[kind]()


def print_rows(kind: str, listed: list[Row], console: Console) -> None:
    """The rows as a table, and below it the notes that rows carry.

    On a terminal cells wrap between words. Elsewhere, and where the words do not fit, a row is one
    line.
    """
    if not listed:
        console.print(f"no {kind}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [
        name
        for name in listed[0]
        if name != "note" and any(row[name] is not None for row in listed)
    ]
    for name in columns:
        cells = [name.replace("_", " "), *(_shown(name, row[name]) for row in listed)]
        words = [word for cell in cells for word in cell.split()]
        longest = max(map(len, words))
        table.add_column(cells[0], min_width=longest, no_wrap=longest == max(map(len, cells)))
    for row in listed:
        table.add_row(*(_shown(name, row[name]) for name in columns))
    unlimited = console.options.update(width=sys.maxsize)
    least, whole = console.measure(table, options=unlimited)
    wraps = console.is_terminal and least <= console.width
    if not wraps:
        table.width = whole
    console.print(table, crop=False)
    for row in listed:
        if row.get("note"):
            note = f"note on {row[columns[0]]}: {row['note']}"
            console.print(note, highlight=False, soft_wrap=not console.is_terminal)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    # To the minute, UTC; JSON has the whole of it.
    return str(value)[:16].replace("T", " ") if name == "started" else str(value)


def _methods() -> list[Row]:
    listed = []
    for name in METHODS.names():
        card = METHODS.get(name).card
        listed.append(
            {
                "method": name,
                "family": card.family,
                "tables": " ".join(map(str, card.tables)),
                "summary": card.summary,
            }
        )
    return listed


def _recipes(table: int | None, method: str | None) -> list[Row]:
    names = [method] if method else METHODS.names()
    listed = []
    for name in names:
        notes = METHODS.get(name).recipe_notes
        for recipe in sorted(METHODS.get(name).recipes):
            if table is None or recipe.startswith(f"table{table}/"):
                config = resolve(name, recipe=recipe)
                listed.append(
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
    return sorted(listed, key=lambda row: (str(row["recipe"]), str(row["method"])))


def _datasets() -> list[Row]:
    listed = []
    for name in DATASETS.names():
        info = dataset_info(name)
        listed.append(
            {
                "dataset": name,
                "classes": info.num_classes,
                "image": f"{info.channels}x{info.image_size}x{info.image_size}",
                "default_eps": f"{info.default_eps:.4g}",
            }
        )
    return listed


def _runs(results: Path, method: str | None) -> list[Row]:
    listed = []
    for run in list_runs(results):
        try:
            record = run.record
        except UserError as error:
            damaged = dict.fromkeys(("dataset", "model", "recipe", "seed", "partial", "started"))
            listed.append({"run": run.run_id, "status": "damaged", **damaged, "note": str(error)})
            continue
        if method and record.get("method") != method:
            continue
        listed.append(
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
    return sorted(listed, key=lambda row: str(row["started"]))


def default_eps(dataset: str) -> float:
    """The radius at which a data set is usually attacked."""
    return dataset_info(dataset).default_eps


def plan(config: RunConfig) -> Row:
    """What a run would do, and how much of it is already done."""
    teacher = {}
    if config.teacher is not None and config.teacher.source == "auto":
        needed = teacher_run(config)
        teacher = {"teacher": {"run_id": needed.run_id, "training": _progress(needed)}}
    return {
        "run_id": config.run_id,
        "training": _progress(config),
        **teacher,
        "recipe_changes": recipe_changes(config),
        "config": config.model_dump(mode="json"),
    }


def _progress(config: RunConfig) -> str:
    directory = RunDirectory(config.results, config.run_id)
    if directory.model_path.exists():
        return "done"
    if directory.checkpoint_path.exists():
        return f"partial ({len(directory.epochs())} of {config.training.epochs} epochs)"
    return "missing"


def plan_text(plan: Row) -> str:
    """A plan for reading: one setting a line."""
    changed = plan["recipe_changes"]
    lines = [f"run {plan['run_id']}, training {plan['training']}"]
    if "teacher" in plan:
        teacher = plan["teacher"]
        lines.append(f"teacher {teacher['run_id']}, training {teacher['training']}")
    for path, value in _flat(plan["config"]):
        mark = "*" if path in changed else " "
        lines.append(f"{mark} {path} = {json.dumps(value)}")
    return "\n".join([*lines, "* differs from the recipe"] if changed else lines)


def _flat(values: Row, prefix: str = "") -> list[tuple[str, Any]]:
    flat = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat += _flat(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, value))
    return flat


def show(run: RunDirectory, results: Path, *, as_json: bool, console: Console) -> None:
    """One stored run: what it is, and its table."""
    record = run.record
    if as_json:
        evaluations = [evaluation.record for evaluation in run.evaluations()]
        print(json.dumps({**record, "evaluations": evaluations}, indent=2))
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
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, ""):
            table.add_row(name, str(value))
    console.print(table)
    if any(evaluation.record["status"] == "success" for evaluation in run.evaluations()):
        REPORTS.get("run")(results, run.run_id).render(console)
    print_evaluations(run, console)


def _teacher_text(record: Row) -> str | None:
    facts = record.get("teacher_facts")
    if not facts:
        return None
    found = facts["accuracy"]
    return (
        f"{facts['arch']} ({facts['weights']}), {100 * found['value']:.2f}% of {found['n']} right"
    )


def _recipe_text(record: Row) -> str | None:
    if not record.get("recipe"):
        return None
    changes = record.get("recipe_changes") or {}
    return ", ".join([record["recipe"], *(f"{path}={value}" for path, value in changes.items())])


def _commit_text(provenance: Row) -> str | None:
    git = provenance.get("git")
    return git and f"{git['commit']}{' (dirty)' if git['dirty'] else ''}"


def print_rebuild(outcome: Rebuilt, *, as_json: bool, console: Console) -> None:
    """What a rebuilt database holds, and which run directories could not be read."""
    if as_json:
        unreadable = [(str(folder), reason) for folder, reason in outcome.unreadable]
        print(json.dumps({"rows": outcome.counts, "unreadable": unreadable}, indent=2))
        return
    held = ", ".join(f"{count} {table}" for table, count in outcome.counts.items())
    console.print(f"rebuilt: {held}", highlight=False)
    for _, reason in outcome.unreadable:
        console.print(f"left out: {reason}", highlight=False, soft_wrap=True)


def show_method(name: str, *, as_json: bool, console: Console) -> None:
    """A method's card, its parameters and its recipes."""
    method = METHODS.get(name)
    card = method.card
    params = method.params().model_dump(mode="json")
    if as_json:
        described = {"method": name, **_card_dict(card), "params": params}
        described |= {"recipes": sorted(method.recipes), "recipe_notes": dict(method.recipe_notes)}
        print(json.dumps(described, indent=2))
        return
    console.print(f"{card.title} ({name}, {card.family})", style="bold")
    console.print(card.summary)
    console.print(f"\nloss     {card.formula}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"paper    {card.paper}", highlight=False)
    console.print(f"         {card.url}", highlight=False)
    for parameter, value in params.items():
        released = card.released_names.get(parameter)
        note = f" (released code: {released})" if released else ""
        console.print(f"param    {parameter} = {value}{note}", highlight=False)
    for note in card.notes:
        console.print(f"note     {note}", highlight=False)
    console.print(f"recipes  {', '.join(sorted(method.recipes))}", highlight=False)
    for recipe, note in method.recipe_notes.items():
        console.print(f"note on {recipe}: {note}", highlight=False)


def _card_dict(card: MethodCard) -> Row:
    return {
        "title": card.title,
        "family": card.family,
        "summary": card.summary,
        "formula": card.formula,
        "paper": card.paper,
        "url": card.url,
        "tables": list(card.tables),
        "notes": list(card.notes),
        "needs_teacher": card.needs_teacher,
        "released_names": dict(card.released_names),
    }
