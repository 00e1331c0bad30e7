"""The command line: one short function a verb.

Exit status: 0 done, 1 regression or a failed run of a sweep, 2 the user's mistake, 130 or 143
interrupted.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from divergence_bench.cli import compare as cli_compare
from divergence_bench.cli import corrupt as cli_corrupt
from divergence_bench.cli import listing
from divergence_bench.cli import report as cli_tables
from divergence_bench.cli import study as cli_study
from divergence_bench.cli.db import Json, Results, db
from divergence_bench.cli.evaluation_view import print_curve
from divergence_bench.cli.study import OnCluster, PerTask, asked_cluster
from harness.config import EvalConfig, RunConfig
from harness.distributed.group import ProcessGroup, process_group, under_torchrun
from harness.distributed.signals import stopping
from harness.errors import UserError
from harness.evaluation.analysis import curves
from harness.evaluation.attack import images as adversarial
from harness.experiment import resolve, runner, step_timing
from harness.experiment.cluster import chunks_on
from harness.progress import Reporter
from harness.registry import METHODS, REPORTS
from harness.store.rundir import RunDirectory, find_run

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(db, name="db")
cli_tables.register(app)
app.command()(cli_compare.compare)
app.command()(cli_corrupt.corrupt)
cli_study.register(app)

Set = Annotated[list[str] | None, typer.Option("--set", help="Any setting: a.b=c. Repeatable.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of the images.", envvar="HARNESS_DATA")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Eps = Annotated[
    str | None,
    typer.Option(help="Radius of the threat model, such as 8/255; 0,2/255,8/255 is a curve."),
]
Norm = Annotated[str | None, typer.Option(help="Linf or L2.")]
Attacks = Annotated[
    str | None,
    typer.Option(help="Stages in order, such as apgd-ce,apgd-t; default: the run's, or all four."),
]
EvalLimit = Annotated[
    int | None, typer.Option(help="Evaluate so many test images; the result is marked partial.")
]
Workers = Annotated[int | None, typer.Option(help="Processes that share the evaluation.")]
SaveAdversarial = Annotated[
    str | None, typer.Option(help="Keep the adversarial images: float32 or uint8.")
]


@app.callback()
def require_single_process(context: typer.Context) -> None:
    """Train, evaluate and rank models of adversarial robustness and knowledge distillation."""
    count = under_torchrun().count
    if count > 1 and context.invoked_subcommand != "run":
        raise UserError(
            f"torchrun started {count} processes, which only `run` can share: call "
            f"`python -m harness {context.invoked_subcommand}` without torchrun"
        )


@app.command()
def run(
    method: Annotated[
        str | None,
        typer.Option(help="A method; see `list methods`. A recipe that only one has names it."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe; see `list recipes`.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A data set; default: digits.")] = None,
    arch: Annotated[str | None, typer.Option(help="A network; see `list models`.")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="auto (trained first), a run, a file or torchvision:NAME."),
    ] = None,
    teacher_arch: Annotated[str | None, typer.Option(help="The teacher's network.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of training.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per training step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Base learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    train_limit: Annotated[
        int | None, typer.Option(help="Train on so many images; the run is marked partial.")
    ] = None,
    eval_limit: EvalLimit = None,
    attacks: Attacks = None,
    norm: Norm = None,
    eps: Eps = None,
    workers: Workers = None,
    save_adversarial: SaveAdversarial = None,
    data_root: DataRoot = None,
    generated: Annotated[
        Path | None, typer.Option(help="npz archive of generated images to train on.")
    ] = None,
    device: Device = "auto",
    results: Results = Path("results"),
    on_cluster: OnCluster = None,
    per_task: PerTask = None,
    set_: Set = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the configuration and what is done; run nothing."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model by a method, evaluate it by the protocol, store the result, show the table."""
    options = {
        "model.arch": arch,
        "teacher.source": teacher,
        "teacher.arch": teacher_arch,
        "training.epochs": epochs,
        "training.batch_size": batch_size,
        "training.optimizer.lr": lr,
        "seed": seed,
        "data.train_limit": train_limit,
        "data.root": data_root,
        "data.generated": generated,
        "device": device,
        "results": results,
        **{f"evaluation.{name}": value for name, value in _protocol(locals()).items()},
    }
    where = asked_cluster(on_cluster, per_task)
    config = resolve.resolve(
        method or resolve.method_of(recipe),
        recipe=recipe,
        dataset=dataset,
        options=options,
        assignments=set_ or (),
    )
    if dry_run:
        _print_plan(config, as_json)
        return
    reporter = Reporter(quiet=as_json)

    def measure(protocol: EvalConfig, processes: ProcessGroup) -> runner.Outcome:
        at = config.model_copy(update={"evaluation": protocol})
        return runner.run(at, reporter, passed={"argv": sys.argv[1:]}, processes=processes)

    with process_group(device) as processes:
        if not processes.first:
            runner.run_worker(processes)
            return
        _announce(config, reporter)
        with chunks_on(where):
            outcomes = [measure(at, processes) for at in _radii(config.evaluation, eps)]
        processes.send(None)
    _print_outcome(outcomes[-1], results, as_json)


@app.command()
def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            help="A run, a checkpoint file, robustbench:NAME, timm:NAME, torchvision:NAME or "
            "package.module:function."
        ),
    ],
    dataset: Annotated[str | None, typer.Option(help="Needed unless SOURCE is a run.")] = None,
    arch: Annotated[str | None, typer.Option(help="For a bare state dict.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Local weights of a zoo model.")] = None,
    eval_limit: EvalLimit = None,
    attacks: Attacks = None,
    norm: Norm = None,
    eps: Eps = None,
    workers: Workers = None,
    save_adversarial: SaveAdversarial = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    results: Results = Path("results"),
    on_cluster: OnCluster = None,
    per_task: PerTask = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Evaluate a stored run or a model from elsewhere."""
    reporter = Reporter(quiet=as_json)
    overrides = _protocol(locals())
    where = asked_cluster(on_cluster, per_task)
    directory = _as_run(results, source)
    if directory is None and dataset is None:
        raise UserError(f"{source!r} is no stored run: for a model from elsewhere give --dataset")
    if directory is not None:
        _check_own(directory, {"--dataset": dataset, "--arch": arch, "--weights": weights})
    stored = (directory.record.get("config") or {}).get("evaluation", {}) if directory else {}
    default = stored if directory else {"eps": listing.default_eps(str(dataset))}
    protocol = resolve.evaluation(default, overrides, set_ or ())

    def measure(at: EvalConfig) -> runner.Outcome:
        if directory is not None:
            return runner.evaluate_run(directory, at, data_root, device, reporter)
        return runner.evaluate_external(
            source,
            str(dataset),
            at,
            results=results,
            reporter=reporter,
            root=data_root,
            device=device,
            arch=arch,
            weights=weights,
        )

    with chunks_on(where):
        outcomes = [measure(at) for at in _radii(protocol, eps)]
    _print_outcome(outcomes[-1], results, as_json)


@app.command("time")
def time_(
    methods: Annotated[str, typer.Option(help="Methods by name, with commas; see `list methods`.")],
    pair: Annotated[str, typer.Option(help="TEACHER-STUDENT, such as resnet56-resnet20.")],
    dataset: Annotated[str, typer.Option(help="Whose shapes, classes and augmentation.")] = (
        "cifar100"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each method.")] = 20,
    warmup: Annotated[int, typer.Option(min=0, help="Steps of each before them.")] = 5,
    data_root: DataRoot = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time training steps of methods, in turns, in one process, on one device."""
    teacher, student = step_timing.split_pair(pair)
    plan = step_timing.Plan(
        teacher, student, dataset, batch_size, repeats, warmup, device, data_root
    )
    names = [name.strip() for name in methods.split(",")]
    result = step_timing.time_methods(names, plan)
    print(json.dumps(result, indent=2) if as_json else step_timing.text(result))


@app.command("export-adversarial")
def export_adversarial(
    run: Annotated[str, typer.Argument(help="A run.")],
    out: Annotated[Path, typer.Option(help="File to write, such as adversarial.pt.")],
    evaluation: Annotated[str | None, typer.Option(help="If the run has several.")] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write kept adversarial images as one tensor, as RobustBench takes them."""
    found = adversarial.find_evaluation(find_run(results, run), evaluation)
    shape = adversarial.export(found, out)
    if as_json:
        print(json.dumps({"evaluation": found.evaluation_id, "shape": shape, "out": str(out)}))
    else:
        print(f"{' x '.join(map(str, shape))} float32 of {found.evaluation_id} in {out}")


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="methods, recipes, datasets, models or runs.")],
    table: Annotated[int | None, typer.Option(help="Recipes of one table of the paper.")] = None,
    method: Annotated[str | None, typer.Option(help="Recipes or runs of one method.")] = None,
    zoo: Annotated[
        bool, typer.Option("--zoo", help="Models that RobustBench publishes, with their weights.")
    ] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """List what there is."""
    rows = listing.rows(kind, results=results, table=table, method=method, zoo=zoo)
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        listing.print_rows(kind, rows, Console())


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A run, or a method.")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Show one run with its table, or a method's card."""
    if name in METHODS:
        listing.show_method(name, as_json=as_json, console=Console())
    else:
        listing.show(find_run(results, name), results, as_json=as_json, console=Console())


@app.command("app")
def browse(
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8501,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "localhost",
    results: Results = Path("results"),
) -> None:
    """Show leaderboards, runs and comparisons in the browser; it only reads."""
    REPORTS.get("app")(results, port=port, host=host)


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and status 2."""
    rank = under_torchrun().rank
    with stopping() as stop:
        try:
            app(prog_name="harness")
        except UserError as error:
            print(f"error{f' (process {rank})' if rank else ''}: {error}", file=sys.stderr)
            raise SystemExit(stop.status or 2) from None
        except SystemExit as ending:
            if not ending.code or stop.status is None:
                raise
            print("interrupted: the same command goes on from here", file=sys.stderr)
            raise SystemExit(stop.status) from None


def _protocol(given: dict[str, Any]) -> dict[str, Any]:
    """The evaluation settings among a command's options, under their configuration names."""
    largest = max(curves.radii(given["eps"])) if given["eps"] is not None else None
    settings = [text.partition("=")[0].strip() for text in given["set_"] or ()]
    if largest is not None and {"eps", "evaluation.eps"} & set(settings):
        raise UserError("--eps and --set evaluation.eps are both given: leave one out")
    return {
        "norm": given["norm"],
        "eps": largest or None,
        "attacks": given["attacks"],
        "limit": given["eval_limit"],
        "workers": given["workers"],
        "save_adversarial": given["save_adversarial"],
    }


def _radii(protocol: EvalConfig, eps: str | None) -> list[EvalConfig]:
    """The protocol at each radius that was asked for, the largest last."""
    return [protocol] if eps is None else curves.protocols(protocol, curves.radii(eps))


def _as_run(results: Path, source: str) -> RunDirectory | None:
    """The stored run that ``source`` names, if it is no file and no prefixed or dotted name."""
    if ":" in source or Path(source).is_file():
        return None
    return find_run(results, source)


def _check_own(directory: RunDirectory, given: dict[str, object]) -> None:
    """A stored run has its own model and data set; naming these as they are does no harm."""
    own = {"--dataset": directory.record["dataset"], "--arch": directory.record.get("arch")}
    other = [name for name, value in given.items() if value not in (None, own.get(name))]
    if other:
        raise UserError(
            f"{' and '.join(other)} given, but {directory.run_id} is a stored run, which has its "
            "own model and data set: leave that out"
        )


def _announce(config: RunConfig, reporter: Reporter) -> None:
    changes = resolve.recipe_changes(config)
    changed = "".join(f", {path}={value}" for path, value in changes.items())
    reporter.line(
        f"{config.run_id}: {config.method} on {config.data.name}, recipe {config.recipe}{changed}, "
        f"seed {config.seed}"
    )
    note = METHODS.get(config.method).recipe_notes.get(config.recipe)
    if note:
        reporter.line(f"note on the recipe: {note}")


def _print_plan(config: RunConfig, as_json: bool) -> None:
    plan = listing.plan(config)
    print(json.dumps(plan, indent=2) if as_json else listing.plan_text(plan))


def _print_outcome(outcome: runner.Outcome, results: Path, as_json: bool) -> None:
    evaluation_id = outcome.evaluation.evaluation_id
    summary = REPORTS.get("run")(results, outcome.run_id, evaluation_id)
    directory = find_run(results, outcome.run_id)
    curve = curves.curve_of(directory, evaluation_id)
    if as_json:
        print(json.dumps({**summary.to_json(), "curve": [asdict(p) for p in curve]}, indent=2))
        return
    console = Console()
    summary.render(console)
    print_curve(curve, directory.evaluation(evaluation_id).record, console)
    console.print(f"stored in {outcome.directory}", highlight=False, soft_wrap=True)
    again = f"python -m harness show {outcome.run_id}"
    if results != Path("results"):
        again += f" --results {results}"
    console.print(f"see it again: {again}", highlight=False, soft_wrap=True)
