"""The command ``sweep``: its plan, its outcome, and its runs compared with the first row's."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer import Argument

from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import (
    interval,
    new_console,
    plain_table,
    print_json,
    stdout_for_results,
)
from harness.config import fingerprint
from harness.config.base import split_names
from harness.distributed.ray_cluster import Cluster
from harness.errors import UserError
from harness.progress import Reporter, duration
from harness.registry import METHODS
from harness.store.rundir import EvaluationDirectory, RunDirectory
from harness.store.text import counted

if TYPE_CHECKING:
    from harness.evaluation.analysis.comparable import Evaluated
    from harness.evaluation.analysis.statistics import PairedComparison
    from harness.experiment.sweep import Failure, Item, SweepSpec
    from leaderboards.summary import RunSummary

FAILED = 1
# Most names of rows printed per run.
NAMED = 3
# Fields of an item that keep their names in JSON.
PLANNED = ("names", "left_out", "state", "epochs", "chunks", "error", "seconds")


def sweep(
    file: Annotated[
        Path | None, Argument(metavar="FILE", help="YAML file that describes a sweep.")
    ] = None,
    table: opt.Table = None,
    methods: Annotated[str | None, opt.METHODS] = None,
    recipes: Annotated[
        str | None,
        opt.value("NAMES", "Comma-separated recipes: table1/kl,table1/*.", opt.SELECTION),
    ] = None,
    scale: Annotated[
        str | None,
        opt.value("SIZE", "small: every row at the size of digits; default: paper.", opt.SELECTION),
    ] = None,
    seeds: Annotated[
        int | None,
        opt.value("N", "Number of seeds per run, starting at 0.", opt.SELECTION),
    ] = None,
    set_: opt.Set = None,
    dataset: opt.Dataset = None,
    data_root: opt.DataRoot = None,
    results: opt.Results = opt.RESULTS,
    device: opt.Device = "auto",
    on_cluster: opt.OnCluster = None,
    per_task: opt.PerTask = None,
    dry_run: Annotated[
        bool,
        opt.flag("--dry-run", "Show what is done and what is missing; run nothing.", opt.EXECUTION),
    ] = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Run many runs, skipping those already done; repeat the command to resume.

    Exit status 1 means that a run failed; the others still finish.
    """
    from harness.experiment import cluster, estimate
    from harness.experiment import sweep as sweeps
    from harness.experiment.resolve import parse_assignment

    given = {
        "table": table,
        "methods": methods and split_names(methods),
        "recipes": recipes and split_names(recipes),
        "dataset": dataset,
        "scale": scale,
        "seeds": seeds,
        "set": dict(parse_assignment(text) for text in set_ or ()) or None,
    }
    spec, shown = sweep_of(file, {name: v for name, v in given.items() if v is not None})
    where = Cluster.parse(on_cluster, per_task)
    if any("*" in name for name in spec.recipes):
        name_broken_methods()
    rows = sweeps.rows(spec, {"data.root": data_root, "device": device, "results": results})
    items = estimate.with_estimates(sweeps.plan(rows), estimate.stored_timings(results))
    if dry_run and as_json:
        print_json({"runs": plan_json(items)})
        return
    console = new_console()
    if not as_json:
        print_plan(items, console)
    if dry_run:
        return
    reporter, passed = Reporter(quiet=quiet or as_json), {"argv": sys.argv[1:]}
    with stdout_for_results():
        if where is None:
            failures = sweeps.run_missing(items, reporter, passed)
        else:
            failures = cluster.run_missing_on(where, items, reporter, passed)
    load_printed(results, reporter)
    _print_finished(sweeps.plan(rows), failures, shown, results, as_json=as_json)
    if failures:
        raise typer.Exit(FAILED)


def load_printed(results: Path, reporter: Reporter) -> None:
    """Load the printed numbers; if the database is locked, report that it lacks them."""
    from harness.experiment.record import INDEX_WAIT_S
    from harness.store.database import Database
    from leaderboards.printed import REPORTED_CSV

    try:
        Database(results, INDEX_WAIT_S).load_reported(REPORTED_CSV)
    except UserError as error:
        reporter.line(f"note: the database lacks the paper's numbers: {error}")


def name_broken_methods() -> None:
    """Print the methods that cannot be loaded, whose recipes are missing."""
    for reason in METHODS.load_all()[1].values():
        print(f"note: left out: {reason}", file=sys.stderr)


def _print_finished(
    items: Sequence[Item],
    failures: Sequence[Failure],
    table: int | None,
    results: Path,
    *,
    as_json: bool,
) -> None:
    """Print the paper's table, if the sweep fills one, and then the outcome."""
    from leaderboards.render.report import print_report

    if as_json:
        print_json(outcome_json(items, failures))
        return
    console = new_console()
    if table is not None:
        print_report(str(table), "terminal", results, console)
    print_outcome(items, failures, console)


def sweep_of(file: Path | None, given: dict[str, Any]) -> tuple[SweepSpec, int | None]:
    """Return the sweep of a file or of options, and the table that it fills, if any.

    Options override the file's settings.

    Raises:
        UserError: an option contradicts the file, or a setting is invalid.
    """
    from harness.config.validate import validated
    from harness.experiment.sweep import SweepSpec, read_spec

    class PaperSweep(SweepSpec):
        """A sweep that may include all rows of one table of the paper."""

        table: int | None = None

    if file is not None:
        which = [name for name in ("table", "methods", "recipes") if name in given]
        if which:
            raise UserError(f"the sweep {file} lists its runs: leave --{which[0]} out")
        stored = read_spec(file, PaperSweep).model_dump(exclude_unset=True)
        if "set" in given:
            given["set"] = {**stored.get("set", {}), **given["set"]}
        given = {**stored, **given}
    spec: PaperSweep = validated(PaperSweep, given)
    if spec.table is None:
        return spec, None
    recipes = (f"table{spec.table}/*", *spec.recipes)
    return spec.model_copy(update={"recipes": recipes}), spec.table


def plan_json(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return the plan, ready for JSON."""
    return [
        {name: getattr(item.config, name) for name in ("run_id", "method", "recipe", "seed")}
        | {name: value for name, value in vars(item).items() if name in PLANNED}
        | {"estimated_from": _source(item), "estimate_is_whole": item.whole}
        for item in items
    ]


def print_plan(items: Sequence[Item], console: Console) -> None:
    """Print what is done, partial and missing, and an estimate of the time left."""
    table = plain_table("run", "seed", "state", "left", "row", text=("state", "left", "row"))
    for item in items:
        more = len(item.names) - NAMED
        named = ", ".join(item.names[:NAMED]) + (f" and {more} more" if more > 0 else "")
        seed = str(item.config.seed)
        table.add_row(item.config.run_id, seed, _state(item), _left(item), named)
    console.print(table)
    print(summary(items))
    paths = dict.fromkeys(path for item in items for path in item.left_out)
    if paths:
        print(f"not kept at small scale: {', '.join(paths)}")


def summary(items: Sequence[Item]) -> str:
    """Return one line: the number of runs in each state, and the estimate."""
    counts = Counter(item.state for item in items)
    text = f"{counted(len(items), 'run')}: "
    text += ", ".join(f"{counts[state]} {state}" for state in ("done", "partial", "missing"))
    left = [item for item in items if item.state != "done"]
    known = [item.seconds for item in left if item.seconds is not None]
    if not left:
        return text
    if not known:
        return f"{text}; the time left is unknown: no similar run is stored"
    unknown = len(left) - sum(item.whole for item in left)
    if not unknown:
        return f"{text}; about {duration(sum(known))} left"
    return (
        f"{text}; at least {duration(sum(known))} left, with {counted(unknown, 'run')} partly or "
        "fully unknown"
    )


def _state(item: Item) -> str:
    text: str = item.state
    if item.state == "partial":
        text += f" ({item.epochs} of {item.config.training.epochs} epochs, "
        text += f"{counted(item.chunks, 'chunk')})"
    return text + (f", failed: {item.error}" if item.error and item.state != "done" else "")


def _left(item: Item) -> str:
    if item.state == "done":
        return ""
    if item.seconds is None:
        return "unknown"
    least = "" if item.whole else "at least "
    return least + duration(item.seconds) + ("" if item.alike else " (by other methods)")


def _source(item: Item) -> str | None:
    if item.seconds is None or item.state == "done":
        return None
    return "method" if item.alike else "other methods"


def outcome_json(items: Sequence[Item], failures: Sequence[Failure]) -> dict[str, Any]:
    """Return the plan after the sweep, failures, tables and comparisons, ready for JSON."""
    return {
        "runs": plan_json(items),
        "failures": [vars(failure) for failure in failures],
        "tables": [table.to_json() for table in summaries(items)],
        "compared": [
            {"a": a, "b": b, "seed": seed, **vars(paired)} for a, b, seed, paired in compared(items)
        ],
    }


def print_outcome(items: Sequence[Item], failures: Sequence[Failure], console: Console) -> None:
    """Print the table of each protocol, the rows compared, and what failed."""
    for table in summaries(items):
        table.render(console)
    pairs = compared(items)
    if pairs:
        differences = plain_table("robust accuracy", "seed", "points [95%]", "McNemar p", "agree %")
        for a, b, seed, paired in pairs:
            differences.add_row(
                f"{a} - {b}",
                str(seed),
                interval(paired.difference, paired.low, paired.high, sign=True),
                f"{paired.p_value:.3g}",
                f"{100 * paired.agreement:.1f}",
            )
        console.print(differences)
    for failure in failures:
        print(f"failed: {failure.run_id}: {failure.error}")


def summaries(items: Sequence[Item]) -> list[RunSummary]:
    """Return the rankings of the finished runs, each with all runs that may be ranked together.

    Runs missing from a locked database are left out; each was reported when it ended.
    """
    from harness.store.database import Database
    from leaderboards.summary import run_summary

    found: list[RunSummary] = []
    shown: set[tuple[str, tuple[str, str]]] = set()
    for item in items:
        results, run_id = item.config.results, item.config.run_id
        if item.state != "done" or (run_id, protocol(item)) in shown:
            continue
        if not Database(results).lacks(run_id):
            summary = run_summary(results, run_id, _finished(item).evaluation_id)
            members = [each for group in summary.groups for each in group.run_ids]
            shown |= {(each, protocol(item)) for each in members}
            found.append(summary)
    return found


def compared(items: Sequence[Item]) -> list[tuple[str, str, int, PairedComparison]]:
    """Compare each later row with the first, seed by seed, if the protocol is the same."""
    from harness.evaluation.analysis.paired import compare

    done = [item for item in items if item.state == "done"]
    firsts = [item for item in done if item.names == done[0].names]
    by_seed = {item.config.seed: item for item in firsts}
    pairs = []
    for item in done:
        base = by_seed.get(item.config.seed)
        if base is None or item in firsts or protocol(item) != protocol(base):
            continue
        *_, paired = compare(_evaluated(item), _evaluated(base)).metrics.values()
        pairs.append((item.names[0], base.names[0], item.config.seed, paired))
    return pairs


def protocol(item: Item) -> tuple[str, str]:
    """Return what must be equal for two runs to be compared."""
    return item.config.data.name, fingerprint(item.config.evaluation.identity_payload())


def _evaluated(item: Item) -> Evaluated:
    from harness.evaluation.analysis.stored import evaluated

    return evaluated(_finished(item))


def _finished(item: Item) -> EvaluationDirectory:
    """Return the evaluation of a run that is done, at its largest radius."""
    from harness.experiment.sweep import find_evaluation

    directory = RunDirectory(item.config.results, item.config.run_id)
    evaluation = find_evaluation(directory, item.config)
    assert evaluation is not None
    return evaluation
