"""Compare the estimated time of an evaluation with the time it takes.

With the project installed and a folder that holds ``cifar10/*.parquet``:

    python benchmarks/estimate.py --data-root ../shared/data --cache ~/networks [--json]

Standard AutoAttack runs on four networks, each trained for a few epochs: on digits and CIFAR-10, by
natural training, where few images survive, and by adversarial training, where many do. The exit
status is 1 if an error is above 30%. Measure on an idle machine, or with ``--clock processor``,
which counts the processor time of this process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from shared import finish, machine

from harness.config import EvalConfig
from harness.data import load_dataset
from harness.evaluation.attack.executors import InProcess, local_executor
from harness.evaluation.attack.job import Job, chunk_count
from harness.evaluation.driver import plan_of
from harness.evaluation.forecast import forecast
from harness.evaluation.guards import untouched
from harness.evaluation.speed.plan import PLAIN
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.models.loading import load_run_model
from harness.progress import Reporter, no_progress
from harness.store.rundir import RunDirectory

MOST_ERROR = 0.3
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
# Settings of training runs of a minute or two, by dataset and method.
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("digits", "vanilla"): {"training.epochs": 5},
    ("digits", "pgd-at"): {"training.epochs": 10},
    ("cifar10", "vanilla"): {"training.epochs": 3},
    ("cifar10", "pgd-at"): {"training.epochs": 6},
}
SMALL_CIFAR = {
    "model.arch": "resnet20",
    "data.train_limit": 4096,
    "training.batch_size": 64,
    "training.optimizer": {"lr": 0.1, "schedule": "onecycle", "pct_start": 0.3},
}


def trained(dataset: str, method: str, options: argparse.Namespace) -> torch.nn.Module:
    """Return the network of a short training run, stored in the folder ``--cache``."""
    settings = {
        **(SMALL_CIFAR if dataset == "cifar10" else {}),
        **SETTINGS[dataset, method],
        "data.root": options.data_root,
        "training.selection.rule": "last",
        "training.monitor.every": 0,
        "evaluation.attacks": (),
        "evaluation.limit": 100,
        "device": str(options.device),
        "results": options.cache,
    }
    outcome = run(resolve(method, dataset=dataset, options=settings), Reporter(quiet=True))
    return load_run_model(RunDirectory(options.cache, outcome.run_id))


def measure(
    dataset: str, method: str, options: argparse.Namespace, clock: Callable[[], float]
) -> dict[str, Any]:
    """Measure one evaluation: expected seconds, real seconds, and those the estimate took."""
    data = load_dataset(dataset, options.data_root, splits=("test",))
    images = data.test.subset(min(options.images, len(data.test)))
    config = EvalConfig(eps=data.info.default_eps, workers=options.workers)
    executor = local_executor(config.workers, chunk_count(config, images))
    network = trained(dataset, method, options).to(options.device)
    with tempfile.TemporaryDirectory() as folder, untouched(network) as sha256:
        directory = RunDirectory.create(Path(folder), "benchmark").evaluation("benchmark")
        (protocol,) = config.protocols()
        job = Job(network, sha256, images, protocol, PLAIN, directory, options.device)
        job = replace(job, plan=plan_of(job))
        began = clock()
        found = forecast(job, (), clock)
        estimate_s, began = clock() - began, clock()
        executor.attack(job, range(job.chunks), no_progress)
        real_s = clock() - began
    if found is None:
        raise SystemExit(f"{dataset}, {method}: too short to be estimated: give more --images")
    sizes = [len(job.chunk(number).rows) for number in range(job.chunks)]
    workers = 1 if isinstance(executor, InProcess) else config.workers
    expected_s = found.wall_s(sizes, workers)
    alive = found.clean
    for cost in found.stages:
        alive *= cost.survival
    return {
        "images": len(images),
        "survive": alive,
        "expected_s": expected_s,
        "real_s": real_s,
        "error": expected_s / real_s - 1,
        "estimate_s": estimate_s,
    }


def main() -> int:
    """Measure and print; the exit status is 1 if an estimate is further off than its limit."""
    parser = argparse.ArgumentParser(description="Estimated against real time of AutoAttack.")
    parser.add_argument("--data-root", type=Path, help="folder that holds cifar10/*.parquet")
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--dataset", nargs="+", default=["digits", "cifar10"])
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for dataset, method in SETTINGS:
        if dataset in options.dataset:
            name = f"{dataset} {method}"
            results[name] = measure(dataset, method, options, CLOCKS[options.clock])
            print(f"{name}: {text(results[name])}", file=sys.stderr)
    lines = [f"{name:<16} {text(each)}" for name, each in results.items()]
    met = all(abs(each["error"]) <= MOST_ERROR for each in results.values())
    return finish({"runs": results, **machine()}, "\n".join(lines), met=met, as_json=options.json)


def text(result: dict[str, Any]) -> str:
    """Format one evaluation as a line of text."""
    return (
        f"{result['images']} images, {result['survive']:.0%} survive a short attack: expected "
        f"{result['expected_s']:.1f} s, took {result['real_s']:.1f} s ({result['error']:+.0%}), "
        f"estimating took {result['estimate_s']:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
