"""The verbs for many runs: ``sweep`` and ``check``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness import estimate, sweep_view
from harness import sweep as sweeps
from harness.errors import UserError
from harness.progress import Reporter
from harness.registry import REPORTS
from harness.resolve import parse_assignment, validated

FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(sweep)


def sweep(
    file: Annotated[Path | None, typer.Argument(help="YAML file that describes a sweep.")] = None,
    table: Annotated[int | None, typer.Option(help="All rows of one table of the paper.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods, such as kl,dkl,ikl.")] = None,
    recipes: Annotated[str | None, typer.Option(help="Recipes, such as table1/kl.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A data set; default: digits.")] = None,
    scale: Annotated[
        str | None, typer.Option(help="small: each row at the size of digits; default: paper.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="So many seeds of each run, from 0.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the images.", envvar="HARNESS_DATA")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    results: Annotated[Path, typer.Option(help="Folder of run directories and database.")] = Path(
        "results"
    ),
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of all runs: a.b=c. Repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is done and missing; run nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Run what is missing of many runs; the same command again finishes them.

    Exit status 1 says that a run failed; the others are finished all the same.
    """
    given = {
        "table": table,
        "methods": methods and _names(methods),
        "recipes": recipes and _names(recipes),
        "dataset": dataset,
        "scale": scale,
        "seeds": seeds,
        "set": dict(parse_assignment(text) for text in set_ or ()) or None,
    }
    spec = _spec(file, {name: value for name, value in given.items() if value is not None})
    costs = {"data.root": data_root, "device": device, "results": results}
    rows = sweeps.rows(spec, costs)
    items = estimate.with_estimates(sweeps.plan(rows), estimate.stored_timings(results))
    if dry_run and as_json:
        print(json.dumps({"runs": sweep_view.plan_json(items)}, indent=2))
        return
    if not as_json:
        sweep_view.print_plan(items, Console())
    if dry_run:
        return
    failures = sweeps.run_missing(items, Reporter(quiet=as_json), {"argv": sys.argv[1:]})
    finished = sweeps.plan(rows)
    if as_json:
        print(json.dumps(sweep_view.outcome_json(finished, failures), indent=2))
    else:
        console = Console()
        if spec.table is not None:
            REPORTS.get("table")(spec.table, "terminal", results, console)
        sweep_view.print_outcome(finished, failures, console)
    if failures:
        raise typer.Exit(FAILED)


def _spec(file: Path | None, given: dict[str, Any]) -> sweeps.SweepSpec:
    """The sweep of a file or of options; options are laid on the file's settings."""
    if file is None:
        spec: sweeps.SweepSpec = validated(sweeps.SweepSpec, given)
        return spec
    which = [name for name in ("table", "methods", "recipes") if name in given]
    if which:
        raise UserError(f"the sweep {file} says which runs there are: leave --{which[0]} out")
    stored = sweeps.read_spec(file).model_dump(exclude_unset=True)
    if "set" in given:
        given["set"] = {**stored.get("set", {}), **given["set"]}
    spec = validated(sweeps.SweepSpec, {**stored, **given})
    return spec


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
