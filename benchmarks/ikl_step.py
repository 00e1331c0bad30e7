"""Time the harness's IKL-AT training step against the same step in plain code, on CPU.

With the project installed:

    python benchmarks/ikl_step.py [--no-compile] [--json]

Settings: weight perturbation, five attack steps, wrn-16-4, 100 classes, batches of 64, two threads,
float32. The trainer is timed with ``training.channels_last``, and then also with
``training.compile``, whose first step takes a minute and needs a C++ compiler.

The plain step costs as much as 27 forward passes and the trainer's as much as 23; convolutions are
four fifths of either step. Compiled, the ratio is 0.632 on an AMD EPYC and 0.686 [0.674, 0.701] of
15 on an Intel Xeon (eager 0.736), where the trainer's convolutions alone take 0.58 of the plain
step.

First, all take one step in float64 from the same weights, images and noise, and must reach the same
loss and weights; then they are timed in turns. The exit status is 1 if the median ratio is above
0.65, for the compiled trainer or, with ``--no-compile``, for the eager one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from plain import PlainStep, StepSettings
from shared import finish, machine, spread
from torch import Tensor

from harness.data.loader import Loader
from harness.experiment.resolve import resolve
from harness.method import Batch, TaskContext
from harness.models import build_model
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from harness.training.loop import Trainer
from harness.training.schedules import inner_schedule

ARCH, CLASSES, BATCH, EPOCH = "wrn-16-4", 100, 64, 100
MOST_RATIO = 0.65
CPU = torch.device("cpu")


class NoLoader:
    """A loader without batches, since the benchmark calls the trainer's steps directly."""

    steps_per_epoch = 1

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Return no batches."""
        return iter(())


def make_trainer(folder: Path, dtype: torch.dtype, compiled: bool) -> Trainer:
    """Build the CIFAR-100 recipe's trainer for this network, with one BatchNorm batch per pass."""
    config = resolve(
        "ikl",
        recipe="cifar100",
        options={
            "model.arch": ARCH,
            "training.batch_size": BATCH,
            "training.batchnorm_replicas": 1,
            "training.channels_last": True,
            "training.compile": compiled,
            "training.precision": str(dtype).removeprefix("torch."),
        },
    )
    method = METHODS.get("ikl")
    context = TaskContext(CLASSES, config.training.epochs, CPU)
    torch.manual_seed(0)
    return Trainer(
        config,
        method.task(method.params(**config.params), context),
        build_model(ARCH, CLASSES, 3, 32).to(dtype),
        cast(Loader, NoLoader()),
        watched=cast(Any, None),
        run=RunDirectory.create(folder, "benchmark"),
        device=CPU,
    )


def make_plain(trainer: Trainer) -> PlainStep:
    """Build the plain step from the trainer's weights and settings."""
    training = trainer.training
    schedule = inner_schedule(cast(Any, training.attack), EPOCH, training.epochs)
    model = deepcopy(trainer.model).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=training.optimizer.lr,
        momentum=training.optimizer.momentum,
        weight_decay=training.optimizer.weight_decay,
    )
    params = trainer.task.params
    settings = StepSettings(
        schedule.eps,
        schedule.step_size,
        schedule.steps,
        training.weight_perturbation.gamma,
        params.wmse_weight,
        params.ce_weight,
        params.temperature,
    )
    return PlainStep(model, optimizer, settings, CLASSES)


def images(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return random images [B, 3, 32, 32] and labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 3, 32, 32, generator=generator, dtype=dtype)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def our_step(trainer: Trainer, x: Tensor, y: Tensor) -> Tensor:
    """Take one step of the trainer, with noise from seed 2; return the loss."""
    schedule = inner_schedule(cast(Any, trainer.training.attack), EPOCH, trainer.training.epochs)
    batch = Batch(x=x, y=y, index=torch.arange(len(y)), epoch=EPOCH)
    return trainer.step(batch, schedule, torch.Generator().manual_seed(2)).loss.detach()


def plain_step(step: PlainStep, x: Tensor, y: Tensor) -> Tensor:
    """Take one plain step with the noise that the trainer draws in its layout; return the loss."""
    noise = torch.empty_like(x, memory_format=torch.channels_last)
    noise.normal_(generator=torch.Generator().manual_seed(2))
    return step(x, y, noise.contiguous())


def make_trainers(folder: Path, dtype: torch.dtype, compiled: bool) -> dict[str, Trainer]:
    """Build the trainers to be timed, all with the same weights."""
    trainers = {"trainer": make_trainer(folder / "eager", dtype, compiled=False)}
    if compiled:
        trainers["compiled"] = make_trainer(folder / "compiled", dtype, compiled=True)
    return trainers


def difference(folder: Path, batch: int, compiled: bool) -> float:
    """Return the largest relative difference of loss and weights after one step in float64."""
    trainers = make_trainers(folder, torch.float64, compiled)
    plain = make_plain(trainers["trainer"])
    x, y = images(batch, torch.float64)
    expected = [plain_step(plain, x, y), *plain.model.state_dict().values()]
    return max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
        for trainer in trainers.values()
        for a, b in zip(
            [our_step(trainer, x, y), *trainer.model.state_dict().values()], expected, strict=True
        )
    )


def measure(folder: Path, repeats: int, compiled: bool) -> dict[str, Any]:
    """Time all steps in turns; return medians and extremes."""
    apart = difference(folder / "check", batch=8, compiled=compiled)
    if apart > 1e-6:
        raise SystemExit(f"the steps differ by {apart:.1e}: nothing was timed")
    trainers = make_trainers(folder / "timed", torch.float32, compiled)
    plain = make_plain(trainers["trainer"])
    x, y = images(BATCH, torch.float32)
    steps = {name: partial(our_step, trainer, x, y) for name, trainer in trainers.items()}
    steps["plain"] = partial(plain_step, plain, x, y)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    # The first turn compiles, the second warms caches and allocators.
    for turn in range(repeats + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - started)
    ratios = {
        name: [ours / plain for ours, plain in zip(seconds[name], seconds["plain"], strict=True)]
        for name in trainers
    }
    return {
        "repeats": repeats,
        "difference": apart,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": {name: spread(values) for name, values in ratios.items()},
    }


def show(result: dict[str, Any]) -> str:
    """Format the result as text."""

    def cells(values: dict[str, float]) -> str:
        return f"{values['median']:.3f} [{values['min']:.3f}, {values['max']:.3f}]"

    ratio = result["ratio"]
    lines = [
        f"IKL-AT step, {ARCH}, C={CLASSES}, B={BATCH}, weight perturbation, 5 attack steps, "
        f"float32, {result['threads']} threads, torch {result['torch']}, {result['machine']}",
        f"median [min, max] of {result['repeats']}, in turns",
    ]
    for name, values in result["seconds"].items():
        share = f"   {cells(ratio[name])} of plain" if name in ratio else ""
        lines.append(f"  {name:9} {cells(values)} s{share}")
    lines.append(f"  limit     {MOST_RATIO} of plain")
    lines.append(f"  differ by {result['difference']:.1e} after a step in float64")
    return "\n".join(lines)


def main() -> int:
    """Measure and print; the exit status is 1 if the ratio is above its limit."""
    parser = argparse.ArgumentParser(description="IKL-AT step: the trainer against a plain one.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.repeats, options.compile)
    result |= machine()
    judged = result["ratio"]["compiled" if options.compile else "trainer"]
    met = judged["median"] <= MOST_RATIO
    return finish(result, show(result), met=met, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
