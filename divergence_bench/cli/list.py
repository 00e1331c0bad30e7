"""The command ``list``: methods, recipes, datasets, models and runs.

Modules that need torch are imported only where they are used, so runs are listed without it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument

from divergence_bench.cli import completion
from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import Row, new_console, print_json, print_rows
from harness.errors import UserError
from harness.registry import METHODS, unknown_name
from harness.store.rundir import RunDirectory, list_runs

# The listings that an option applies to.
APPLIES = {
    "table": ("recipes",),
    "method": ("recipes", "runs"),
    "zoo": ("models",),
    "results": ("runs",),
}
OWN_IMAGES = "For your own images, use --dataset folder:PATH; see docs/python.md."


def list_(
    context: typer.Context,
    kind: Annotated[
        str,
        Argument(
            metavar="KIND",
            help="methods, recipes, datasets, models or runs.",
            autocompletion=completion.listings,
        ),
    ],
    table: opt.Table = None,
    method: Annotated[
        str | None,
        opt.value(
            "NAME", "Recipes or runs of one method.", opt.SELECTION, complete=completion.methods
        ),
    ] = None,
    zoo: Annotated[
        bool,
        opt.flag("--zoo", "Models whose weights RobustBench publishes.", opt.SELECTION),
    ] = False,
    results: opt.StoredResults = opt.RESULTS,
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
        raise UserError(unknown_name("listing", kind, list(kinds)))
    unused = {name: f"on {kind}" for name, listings in APPLIES.items() if kind not in listings}
    opt.refuse_unused(context, unused)
    rows = kinds[kind]()
    if method is not None and not rows and method not in METHODS:
        raise UserError(unknown_name("method", method, METHODS.names()))
    if as_json:
        print_json(rows)
    else:
        what = f"runs in {results}" if kind == "runs" else kind
        console = new_console()
        print_rows(what, rows, console, cut="summary" if kind == "methods" else "")
        if kind == "datasets":
            console.print(f"\n{OWN_IMAGES}")


def method_rows() -> list[Row]:
    """Return one row per method."""
    loaded, broken = METHODS.load_all()
    rows: dict[str, Row] = {
        name: {
            "method": name,
            "family": method.card.family,
            "tables": list(method.card.tables),
            "summary": method.card.summary,
        }
        for name, method in loaded.items()
    }
    for name, reason in broken.items():
        rows[name] = {"method": name, "family": None, "tables": [], "summary": None, "note": reason}
    return [rows[name] for name in sorted(rows)]


def recipe_rows(table: int | None, method: str | None) -> list[Row]:
    """Return one row per recipe, of one table of the paper or one method if given."""
    from harness.experiment.resolve import resolve

    rows = []
    methods = {method: METHODS.get(method)} if method else METHODS.load_all()[0]
    for name, entry in methods.items():
        notes = entry.recipe_notes
        for recipe in entry.recipes:
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
    """Return one row per dataset."""
    from harness.data import DATASETS, dataset_info

    infos = {name: dataset_info(name) for name in DATASETS.names()}
    return [
        {
            "dataset": name,
            "classes": info.num_classes,
            "image": [info.channels, info.image_size, info.image_size],
            "train": info.max_train_size,
            "test": info.max_test_size,
            "eps": info.default_eps,
        }
        for name, info in infos.items()
    ]


def model_rows(zoo: bool) -> list[Row]:
    """Return one row per architecture or, with ``zoo``, per model that RobustBench publishes."""
    if zoo:
        from harness.models.zoos import robustbench_models

        return robustbench_models()
    from harness.models import ARCHITECTURES

    return [{"model": name} for name in ARCHITECTURES.names()]


def run_rows(results: Path, method: str | None) -> list[Row]:
    """Return one row per stored run, oldest first; an unreadable run has a note."""
    rows = []
    for run in list_runs(results):
        try:
            row = run_row(run)
        except UserError as error:
            row = dict.fromkeys(RUN_COLUMNS) | {"run": run.run_id, "status": "damaged"}
            rows.append(row | {"note": str(error)})
        else:
            if method in (None, row.pop("method")):
                rows.append(row)
    return sorted(rows, key=lambda row: str(row["started"]))


RUN_COLUMNS = (
    "run", "status", "dataset", "model", "recipe", "seed", "clean", "robust", "partial", "started"
)  # fmt: skip


def run_row(run: RunDirectory) -> Row:
    """Return a run's ``RUN_COLUMNS``, with accuracies under its own protocol, and its method."""
    record, own = run.record, run.own_evaluation()
    metrics: dict[str, Any] = own.record["metrics"] if own is not None else {}
    attacked = own is not None and own.record["protocol"]["attacks"]
    return {
        "run": run.run_id,
        "status": record["status"],
        "dataset": record.get("dataset"),
        "model": record.get("arch"),
        "recipe": record.get("recipe"),
        "seed": record.get("seed"),
        "clean": metrics.get("clean", {}).get("value"),
        "robust": metrics.get("robust", {}).get("value") if attacked else None,
        "partial": bool(record.get("partial")),
        "started": record.get("started_at"),
        "method": record.get("method"),
    }
