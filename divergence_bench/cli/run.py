"""The command ``run``: train a model with a method and evaluate it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from divergence_bench.cli import completion
from divergence_bench.cli import options as opt
from divergence_bench.cli.evaluate import print_outcome, protocol_settings
from divergence_bench.cli.tables import print_result, stdout_for_results
from harness.config import RunConfig
from harness.config.files import read_settings
from harness.distributed.ray_cluster import Cluster
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.rundir import RunDirectory


def run(
    context: typer.Context,
    method: Annotated[
        str | None,
        opt.value(
            "NAME",
            "Method; see `list methods`. Optional if only one has the --recipe.",
            opt.TRAINING,
            complete=completion.methods,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        opt.value(
            "NAME", "Recipe; see `list recipes`. Default: the one for the dataset.", opt.TRAINING
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        opt.value(
            "FILE",
            "YAML file of settings, as --dry-run prints; options override it.",
            opt.TRAINING,
            flag="--config",
        ),
    ] = None,
    arch: Annotated[
        str | None,
        opt.value(
            "NAME", "Architecture; see `list models`.", opt.TRAINING, complete=completion.models
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        opt.value(
            "SOURCE",
            "auto (trained first), a run, a file, or a model as in `evaluate`.",
            opt.TRAINING,
            complete=completion.runs,
        ),
    ] = None,
    teacher_arch: Annotated[
        str | None,
        opt.value("NAME", "The teacher's architecture.", opt.TRAINING, complete=completion.models),
    ] = None,
    epochs: Annotated[int | None, opt.value("N", "Number of epochs.", opt.TRAINING)] = None,
    batch_size: Annotated[int | None, opt.value("N", "Images per step.", opt.TRAINING)] = None,
    lr: Annotated[float | None, opt.value("X", "Base learning rate.", opt.TRAINING)] = None,
    seed: Annotated[
        int | None,
        opt.value("N", "Random seed.", opt.TRAINING),
    ] = None,
    set_: opt.Set = None,
    fresh: Annotated[
        bool,
        opt.flag(
            "--fresh",
            "Train from the beginning; an existing run is moved aside.",
            opt.TRAINING,
        ),
    ] = False,
    dataset: opt.Dataset = None,
    data_root: opt.DataRoot = None,
    train_limit: Annotated[
        int | None,
        opt.value("N", "Train on only N images; marks the run partial.", opt.DATA),
    ] = None,
    generated: Annotated[
        Path | None,
        opt.value("FILE", "npz archive of generated images to train on.", opt.DATA),
    ] = None,
    eval_limit: opt.EvalLimit = None,
    attacks: opt.Attacks = None,
    budget: opt.Budget = None,
    norm: opt.Norm = None,
    eps: opt.Eps = None,
    save_adversarial: opt.SaveAdversarial = None,
    track: Annotated[
        str | None,
        opt.value("NAMES", "Also log epochs to tensorboard, wandb or both.", opt.EXECUTION),
    ] = None,
    results: opt.Results = opt.RESULTS,
    device: opt.Device = "auto",
    workers: opt.Workers = None,
    on_cluster: opt.OnCluster = None,
    per_task: opt.PerTask = None,
    dry_run: Annotated[
        bool,
        opt.flag(
            "--dry-run",
            "Check and show the configuration and what is done already; train nothing.",
            opt.EXECUTION,
        ),
    ] = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Train a model with a method, evaluate it, store the result and show its table."""
    from divergence_bench import preflight
    from harness.distributed.group import process_group
    from harness.evaluation.attack.ray_executor import ray_executor
    from harness.experiment import resolve, runner

    protocol = protocol_settings(
        set_ or (), budget, norm=norm, eps=eps, attacks=attacks, limit=eval_limit,
        workers=workers, save_adversarial=save_adversarial,
    )  # fmt: skip
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
        "track": track,
        "device": device,
        "results": results,
        **{f"evaluation.{name}": value for name, value in protocol.items()},
    }
    cluster = Cluster.parse(on_cluster, per_task)
    if cluster is not None:
        opt.refuse_unused(context, {"workers": "with --cluster"})
    settings = None
    if config_file is not None:
        settings = read_settings(config_file, "the configuration")
        # Defaults of these options must not override the file.
        for name in ("device", "results"):
            options[name] = options[name] if opt.is_given(context, name) else None
    config = resolve.resolve(
        method,
        recipe=recipe,
        dataset=dataset,
        settings=settings,
        options=options,
        assignments=set_ or (),
    )
    if dry_run:
        plan = plan_of(config, fresh=fresh)
        print_result(plan, plan_text(plan, config), as_json=as_json)
        preflight.check(config, fresh=fresh)
        return
    reporter = Reporter(quiet=quiet or as_json)

    with stdout_for_results(), process_group(config.device) as processes:
        if not processes.first:
            runner.run_worker(processes)
            return
        _announce(config, reporter)
        if fresh:
            preflight.start_fresh(config, reporter)
        elif preflight.missing_teacher(config):
            # Refuse a bad student before its teacher is trained.
            preflight.check(config)
        passed = {"argv": sys.argv[1:]}
        with ray_executor(cluster) as executor:
            outcome = runner.run(
                config, reporter, passed=passed, processes=processes, executor=executor
            )
        processes.send(None)
    print_outcome(outcome, as_json=as_json)


def plan_of(config: RunConfig, *, fresh: bool = False) -> dict[str, Any]:
    """Return what a run would do, and how much of it is already done."""
    from harness.experiment import resolve

    teacher = {}
    if config.teacher is not None and config.teacher.source == "auto":
        needed = resolve.teacher_run(config)
        teacher = {"teacher": {"run_id": needed.run_id, "training": _training_state(needed)}}
    return {
        "run_id": config.run_id,
        "training": "from the beginning" if fresh else _training_state(config),
        **teacher,
        "recipe_changes": resolve.recipe_changes(config),
        "config": config.model_dump(mode="json"),
    }


def plan_text(plan: dict[str, Any], config: RunConfig) -> str:
    """Return a plan as text that ``--config`` can read: YAML below comments."""
    from harness.experiment import resolve

    lines = [f"# run {plan['run_id']}, training {plan['training']}"]
    if "teacher" in plan:
        teacher = plan["teacher"]
        lines.append(f"# teacher {teacher['run_id']}, training {teacher['training']}")
    for path, value in plan["recipe_changes"].items():
        lines.append(f"# differs from the recipe: {path} = {json.dumps(value)}")
    settings = yaml.safe_dump(
        resolve.settings_of(config), sort_keys=False, allow_unicode=True, width=sys.maxsize
    )
    return "\n".join([*lines, settings.rstrip()])


def _training_state(config: RunConfig) -> str:
    directory = RunDirectory(config.results, config.run_id)
    if directory.model_path.exists():
        return "done"
    if directory.checkpoint_path.exists():
        return f"partial ({len(directory.epochs())} of {config.training.epochs} epochs)"
    return "missing"


def _announce(config: RunConfig, reporter: Reporter) -> None:
    from harness.experiment import resolve

    changes = resolve.recipe_changes(config)
    changed = "".join(f", {path}={value}" for path, value in changes.items())
    reporter.line(
        f"{config.run_id}: {config.method} on {config.data.name}, recipe {config.recipe}{changed}, "
        f"seed {config.seed}"
    )
    note = METHODS.get(config.method).recipe_notes.get(config.recipe)
    if note:
        reporter.line(f"note on the recipe: {note}")
