"""The commands ``evaluate`` and ``export-adversarial``, and printing an evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer import Argument

from divergence_bench.cli import completion
from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import (
    interval,
    new_console,
    percent,
    plain_table,
    print_json,
    print_result,
    stdout_for_results,
)
from harness.config import eps_text
from harness.distributed.ray_cluster import Cluster
from harness.errors import UserError
from harness.progress import Reporter
from harness.store.rundir import RunDirectory, find_run, stored_run

if TYPE_CHECKING:
    from harness.evaluation.analysis import curves
    from harness.experiment import runner

MODEL = "Model"


def evaluate(
    context: typer.Context,
    source: Annotated[
        str,
        Argument(
            help="A run, a checkpoint file, robustbench:NAME, timm:NAME, torchvision:NAME or "
            "package.module:function.",
            autocompletion=completion.runs,
        ),
    ],
    dataset: opt.Dataset = None,
    arch: Annotated[
        str | None,
        opt.value(
            "NAME",
            "Architecture of a bare state dict; see `list models`.",
            MODEL,
            complete=completion.models,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        opt.value("FILE", "Weights file for a zoo model or a function.", MODEL),
    ] = None,
    weights_key: Annotated[
        str | None,
        opt.value("KEY", "Key of the weights in the file, such as state_dict_ema.", MODEL),
    ] = None,
    normalize: Annotated[
        str | None,
        opt.value(
            "HOW",
            "Normalise images before the model: dataset, imagenet, none or MEANS;STDS.",
            MODEL,
        ),
    ] = None,
    name: Annotated[str | None, opt.value("TEXT", "Name of the model in tables.", MODEL)] = None,
    eval_limit: opt.EvalLimit = None,
    attacks: opt.Attacks = None,
    budget: opt.Budget = None,
    norm: opt.Norm = None,
    eps: opt.Eps = None,
    precision: opt.Precision = None,
    n_max: opt.NMax = None,
    workers: opt.Workers = None,
    save_adversarial: opt.SaveAdversarial = None,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    results: opt.Results = opt.RESULTS,
    on_cluster: opt.OnCluster = None,
    per_task: opt.PerTask = None,
    set_: opt.EvaluationSet = None,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Evaluate a stored run or, with --dataset, an external model.

    By default, a run is evaluated as its configuration says, a limit included; an external model by
    standard AutoAttack in Linf, at the dataset's radius.
    """
    from harness.data import dataset_info, load_dataset
    from harness.evaluation.attack.ray_executor import ray_executor
    from harness.experiment import external, resolve, runner
    from harness.experiment.record import images_root

    overrides = protocol_settings(
        set_ or (), budget, norm=norm, eps=eps, attacks=attacks, limit=eval_limit,
        workers=workers, save_adversarial=save_adversarial,
    )  # fmt: skip
    cluster = Cluster.parse(on_cluster, per_task)
    if cluster is not None:
        opt.refuse_unused(context, {"workers": "with --cluster"})
    directory = stored_run(results, source)
    if directory is not None:
        own = {"--dataset": dataset, "--arch": arch, "--weights": weights}
        own["--weights-key"] = weights_key
        _check_own(directory, {**own, "--normalize": normalize, "--name": name})
        default = (directory.record.get("config") or {}).get("evaluation", {})
    elif dataset is not None:
        default = {"eps": dataset_info(dataset, data_root).default_eps}
    else:
        raise UserError(f"{source!r} is not a stored run: for an external model give --dataset")
    if precision is not None or n_max is not None:
        place = images_root(directory, data_root) if directory else data_root
        info = dataset_info(directory.record["dataset"] if directory else str(dataset), place)
        default = default | resolve.random_order(info)
        overrides |= {"half_width": precision, "n_max": n_max}
    protocol = resolve.evaluation(default, overrides, set_ or ())
    reporter = Reporter(quiet=quiet or as_json)

    with stdout_for_results(), ray_executor(cluster) as executor:
        if directory is not None:
            outcome = runner.evaluate_run(
                directory, protocol, data_root, device, reporter, executor
            )
        else:
            outcome = external.evaluate_external(
                source,
                load_dataset(str(dataset), data_root, splits=("test",)),
                protocol,
                arch=arch,
                weights=weights,
                weights_key=weights_key,
                normalize=normalize,
                name=name,
                results=results,
                reporter=reporter,
                device=device,
                executor=executor,
            )
    print_outcome(outcome, as_json=as_json)


def export_adversarial(
    run: opt.Run,
    out: Annotated[
        Path,
        opt.value("FILE", "File to write, such as adversarial.pt.", opt.STORAGE),
    ],
    evaluation: Annotated[
        str | None,
        opt.value("ID", "Evaluation, if the run has several.", opt.SELECTION),
    ] = None,
    results: opt.StoredResults = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Export saved adversarial images as one tensor, in RobustBench's format."""
    from harness.evaluation.attack import images

    found = images.find_evaluation(find_run(results, run), evaluation)
    shape = images.export(found, out)
    facts = {"evaluation": found.evaluation_id, "shape": shape, "out": str(out)}
    text = f"{' x '.join(map(str, shape))} float32 of {found.evaluation_id} in {out}"
    print_result(facts, text, as_json=as_json)


def protocol_settings(
    assignments: Sequence[str], budget: dict[str, Any] | None, **options: str | int | float | None
) -> dict[str, Any]:
    """Return the options that are fields of ``EvalConfig``.

    Args:
        assignments: the values of ``--set``.
        budget: the result of ``parse_budget``.
        **options: the other options.

    Raises:
        UserError: the radius is also in ``assignments``, or attacks are given in two ways.
    """
    assigned = {text.partition("=")[0].strip() for text in assignments}
    if options["eps"] is not None and {"eps", "evaluation.eps"} & assigned:
        raise UserError("--eps and --set evaluation.eps are both given: leave one out")
    if budget is None:
        return options
    if options["attacks"] is not None and "attacks" in budget:
        raise UserError(
            f"--attacks and --budget {budget['attacks']} both name attacks: leave one out"
        )
    return {**options, **budget}


def print_outcome(outcome: runner.Outcome, *, as_json: bool) -> None:
    """Print a finished evaluation: its leaderboard, its curve and where it is stored."""
    from harness.evaluation.analysis import curves
    from harness.store.database import Database
    from leaderboards.summary import run_summary

    results, evaluation_id = outcome.directory.parents[1], outcome.evaluation.evaluation_id
    directory = RunDirectory(results, outcome.run_id)
    with _indexed_in(directory) as source:
        summary = run_summary(source, outcome.run_id, evaluation_id)
        curve = curves.curve_of(Database(source), outcome.run_id, evaluation_id)
    if as_json:
        stored = {"stored_at": outcome.evaluation.stored_at}
        print_json({**summary.to_json(), "curve": [asdict(point) for point in curve], **stored})
        return
    console = new_console()
    summary.render(console)
    print_curve(curve, directory.evaluation(evaluation_id).record, console)
    print(f"stored in {outcome.directory}")
    place = "" if results == opt.RESULTS else f" --results {shlex.quote(str(results))}"
    print(f"see it again: python -m harness show {outcome.run_id}{place}")


@contextmanager
def _indexed_in(run: RunDirectory) -> Iterator[Path]:
    """Yield the results folder, or a temporary one with this run only if the database is locked."""
    from harness.experiment.record import INDEX_WAIT_S
    from harness.store.database import Database
    from leaderboards.printed import REPORTED_CSV

    database = Database(run.results, INDEX_WAIT_S)
    try:
        database.load_reported(REPORTED_CSV)
        lacking = database.lacks(run.run_id)
    except UserError:
        lacking = True
    if not lacking:
        yield run.results
        return
    with TemporaryDirectory() as folder:
        temporary = Path(folder)
        Database(temporary).store(run)
        yield temporary


def print_curve(
    points: Sequence[curves.Point], record: Mapping[str, Any], console: Console
) -> None:
    """Print accuracy by radius, or nothing if there is no curve."""
    if not points:
        return
    protocol = record["protocol"]
    title = f"curve: {protocol['norm']}, {protocol['attack_version']}, n = {protocol['n']:,}"
    console.out(f"\n{title}", highlight=False)
    table = plain_table("eps", *points[0].stages, "left [95%]", "flags", text=("flags",))
    for point in points:
        left = interval(point.robust, point.low, point.high)
        stages = map(percent, point.stages.values())
        table.add_row(eps_text(point.eps), *stages, left, ", ".join(point.flags))
    console.print(table)


def _check_own(directory: RunDirectory, given: dict[str, object]) -> None:
    """Refuse options that contradict the stored run's own model and dataset."""
    own = {"--dataset": directory.record["dataset"], "--arch": directory.record.get("arch")}
    other = [name for name, value in given.items() if value not in (None, own.get(name))]
    if other:
        raise UserError(
            f"{' and '.join(other)} given, but {directory.run_id} is a stored run, which has its "
            "own model and dataset: leave that out"
        )
