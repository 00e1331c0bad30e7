"""The verb ``run``: train a model by a method and evaluate it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from divergence_bench.cli import options as opt
from divergence_bench.cli.evaluate import print_outcome, protocol_settings
from divergence_bench.cli.tables import print_result
from harness.config import RunConfig, flat
from harness.distributed.group import process_group
from harness.distributed.ray_cluster import Cluster
from harness.evaluation.attack.ray_executor import ray_executor
from harness.experiment import resolve, runner
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.rundir import RunDirectory


def run(
    method: Annotated[
        str | None, Option(help="A method; see `list methods`. Not needed with its own --recipe.")
    ] = None,
    recipe: Annotated[str | None, Option(help="A recipe; see `list recipes`.")] = None,
    dataset: opt.Dataset = None,
    arch: Annotated[str | None, Option(help="A network; see `list models`.")] = None,
    teacher: Annotated[
        str | None, Option(help="auto (trained first), a run, a file, or what `evaluate` loads.")
    ] = None,
    teacher_arch: Annotated[str | None, Option(help="The teacher's network.")] = None,
    epochs: Annotated[int | None, Option(help="Epochs of training.")] = None,
    batch_size: Annotated[int | None, Option(help="Images per training step.")] = None,
    lr: Annotated[float | None, Option(help="Base learning rate.")] = None,
    seed: Annotated[int | None, Option(help="Seed of everything random.")] = None,
    train_limit: Annotated[
        int | None, Option(help="Train on only this many images; marks the run partial.")
    ] = None,
    eval_limit: opt.EvalLimit = None,
    attacks: opt.Attacks = None,
    norm: opt.Norm = None,
    eps: opt.Eps = None,
    workers: opt.Workers = None,
    save_adversarial: opt.SaveAdversarial = None,
    data_root: opt.DataRoot = None,
    generated: Annotated[
        Path | None, Option(help="npz archive of generated images to train on.")
    ] = None,
    track: Annotated[
        str | None, Option(help="Show epochs by tensorboard, wandb or both too.")
    ] = None,
    device: opt.Device = "auto",
    results: opt.Results = opt.RESULTS,
    on_cluster: opt.OnCluster = None,
    per_task: opt.PerTask = None,
    set_: opt.Set = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Show the configuration and what is done; run nothing.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Train a model by a method, evaluate it by the protocol, store the result, show the table."""
    protocol = protocol_settings(
        set_ or (), norm=norm, eps=eps, attacks=attacks, limit=eval_limit, workers=workers,
        save_adversarial=save_adversarial,
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
    config = resolve.resolve(
        method or resolve.method_of(recipe),
        recipe=recipe,
        dataset=dataset,
        options=options,
        assignments=set_ or (),
    )
    if dry_run:
        plan = plan_of(config)
        print_result(plan, plan_text(plan), as_json=as_json)
        return
    reporter = Reporter(quiet=as_json)

    with process_group(device) as processes:
        if not processes.first:
            runner.run_worker(processes)
            return
        _announce(config, reporter)
        passed = {"argv": sys.argv[1:]}
        with ray_executor(cluster) as executor:
            outcome = runner.run(
                config, reporter, passed=passed, processes=processes, executor=executor
            )
        processes.send(None)
    print_outcome(outcome, results, as_json=as_json)


def plan_of(config: RunConfig) -> dict[str, Any]:
    """Return what a run would do, and how much of it is already done."""
    teacher = {}
    if config.teacher is not None and config.teacher.source == "auto":
        needed = resolve.teacher_run(config)
        teacher = {"teacher": {"run_id": needed.run_id, "training": _training_state(needed)}}
    return {
        "run_id": config.run_id,
        "training": _training_state(config),
        **teacher,
        "recipe_changes": resolve.recipe_changes(config),
        "config": config.model_dump(mode="json"),
    }


def plan_text(plan: dict[str, Any]) -> str:
    """A plan for reading: one setting a line."""
    changed = plan["recipe_changes"]
    lines = [f"run {plan['run_id']}, training {plan['training']}"]
    if "teacher" in plan:
        lines.append(f"teacher {plan['teacher']['run_id']}, training {plan['teacher']['training']}")
    for path, value in flat(plan["config"]).items():
        lines.append(f"{'*' if path in changed else ' '} {path} = {json.dumps(value)}")
    return "\n".join([*lines, "* differs from the recipe"] if changed else lines)


def _training_state(config: RunConfig) -> str:
    directory = RunDirectory(config.results, config.run_id)
    if directory.model_path.exists():
        return "done"
    if directory.checkpoint_path.exists():
        return f"partial ({len(directory.epochs())} of {config.training.epochs} epochs)"
    return "missing"


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
