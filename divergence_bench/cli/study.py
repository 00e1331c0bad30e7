"""The verbs for many runs: ``sweep`` and ``check``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console

from divergence_bench.cli import check_view, sweep_view
from harness.distributed.ray_cluster import Cluster
from harness.errors import UserError
from harness.experiment import cluster, estimate
from harness.experiment import regression as checks
from harness.experiment import sweep as sweeps
from harness.experiment.resolve import parse_assignment, validated
from harness.progress import Reporter
from harness.registry import REPORTS
from harness.store.rundir import run_folders

FAILED = 1

OnCluster = Annotated[
    str | None, typer.Option("--cluster", help="Ray: local, auto or the address of a cluster.")
]
PerTask = Annotated[
    str | None, typer.Option("--task", help="What a task asks for: cpus=4,gpus=1,memory=16 (GiB).")
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(sweep)
    app.command()(check)


def sweep(
    file: Annotated[Path | None, typer.Argument(help="YAML file that describes a sweep.")] = None,
    table: Annotated[int | None, typer.Option(help="All rows of one table of the paper.")] = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods by name, with commas; see `list methods`.")
    ] = None,
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
    on_cluster: OnCluster = None,
    per_task: PerTask = None,
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
    where = asked_cluster(on_cluster, per_task)
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
    reporter, passed = Reporter(quiet=as_json), {"argv": sys.argv[1:]}
    if where is None:
        failures = sweeps.run_missing(items, reporter, passed)
    else:
        failures = cluster.run_missing_on(where, items, reporter, passed)
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


def asked_cluster(address: str | None, task: str | None) -> Cluster | None:
    """The cluster of the options ``--cluster`` and ``--task``; None for none.

    Raises:
        UserError: a task is described without a cluster, or badly.
    """
    if address is None:
        if task is not None:
            raise UserError("--task says what a cluster's tasks ask for: give --cluster as well")
        return None
    return Cluster.parse(address, task)


def check(
    baseline: Annotated[Path, typer.Option(help="File of the expected results.")] = Path(
        "results/baselines/digits.json"
    ),
    update: Annotated[
        bool, typer.Option("--update", help="Make what is found the new baseline.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why the baseline changes.")] = None,
    methods: Annotated[
        str | None, typer.Option(help="With --update: methods of a baseline that is not there yet.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the runs in this folder; it must hold none yet.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Run the small benchmark against a baseline and print a report in Markdown.

    Exit status 1 says that something got worse.
    """
    if update != bool(reason):
        raise UserError("a new baseline needs its reason: give --update and --reason together")
    if methods and (not update or baseline.exists()):
        raise UserError(
            "--methods makes a new baseline: give --update and a file that is not there"
        )
    if keep is not None and run_folders(keep):
        raise UserError(f"{keep} holds runs, perhaps of other code: give an empty folder")
    expected = checks.new_baseline(_names(methods)) if methods else checks.read_baseline(baseline)
    with TemporaryDirectory() as folder:
        found = checks.check(expected, keep or Path(folder), Reporter(quiet=as_json))
    if reason:
        checks.write_baseline(checks.updated(expected, found, reason), baseline)
        print(json.dumps({"updated": str(baseline)}) if as_json else f"updated {baseline}")
        return
    compared = [
        checks.compare(expected, run, result)
        for run, result in zip(expected.runs, found, strict=True)
    ]
    if as_json:
        print(json.dumps(checks.to_json(expected, compared), indent=2))
    else:
        print(check_view.markdown(expected, compared))
    if any(each.worse for each in compared):
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
