"""Standard AutoAttack by the harness against ``pyautoattack`` as its users call it, in turns.

With the project installed, and Parquet shards of CIFAR-10 in a folder:

    python benchmarks/autoattack.py --data-root DATA --cache CACHE

A GPU, and a shorter version:

    python benchmarks/autoattack.py --data-root DATA --cache CACHE --device cuda \
        --network wrn-28-10 --wanted 2.5
    python benchmarks/autoattack.py --data-root DATA --cache CACHE --images 64 --network resnet20

On 2 cores, whole runs gave 1.21 and 1.25 times on resnet20 and 1.16 on wrn-16-2 (AMD EPYC), less
than the 1.7 predicted. Folding and the channels-last layout make a pass of 12 images on one thread
cost 0.7 of the reference's pass of 24 on two, so two workers reach 1.35 to 1.54 at most. They also
start, plan and look for flags for 5 s of 123, and one of them has more of the surviving images.

Both attack the same images, in turns, batch by batch. With ``--workers 1`` they do so with the same
seeds, and their verdicts are compared. By default the harness shares each batch among as many
workers as there are threads, as ``evaluate --workers`` does; its noise is then not the reference's,
which has the whole batch and all threads, so that a few verdicts may differ. With ``--ray`` tasks
of one core on a local Ray attack the chunks; its start does not count, as a cluster is up before.

The networks are made robust first by a short adversarial training, since on a network that breaks
at once the long attacks have nothing to do; ``--cache`` keeps the runs. The harness's time has
all that ``evaluate`` does: it starts workers, prepares its copy of the network again for every
batch, judges, and writes verdicts to disk. A ratio below ``--wanted`` exits with status 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyautoattack import AutoAttack
from shared import finish, machine
from torch import Tensor, nn

from harness.config import EvalConfig
from harness.data import ImageSet, load_dataset
from harness.distributed.ray_cluster import Cluster
from harness.evaluation.attack.executors import ChunkExecutor
from harness.evaluation.attack.protocol import chunk_seed
from harness.evaluation.attack.ray_executor import ray_executor
from harness.evaluation.driver import evaluate
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.models.loading import load_model_file
from harness.progress import Reporter
from harness.store.rundir import RunDirectory

RATIO_WANTED = 1.8
EPS = 8 / 255


@dataclass
class Timed:
    """One side's work on one batch: wall time in seconds, and which images are still correct."""

    seconds: float
    robust: Tensor


def robust_network(arch: str, options: argparse.Namespace) -> nn.Module:
    """A network after a short adversarial training with two steps of the radius; in eval mode.

    The training is a run in the folder ``--cache``, so the same settings train only once.
    """
    settings = {
        "model.arch": arch,
        "model.normalize": True,
        "data.root": options.data_root,
        "data.train_limit": options.train_images,
        "data.val_size": 0,
        "training.epochs": options.epochs,
        "training.batch_size": 64,
        "training.drop_last": True,
        "training.optimizer": {"lr": 0.1, "schedule": "onecycle", "pct_start": 0.3},
        "training.attack": {"eps": EPS, "step_rule": "two-full", "start": "uniform"},
        "training.selection.rule": "last",
        "training.monitor.every": 0,
        "evaluation.attacks": (),
        "evaluation.limit": 250,
        "device": str(options.device),
        "results": options.cache,
    }
    config = resolve("pgd-at", dataset="cifar10", options=settings)
    outcome = run(config, Reporter())
    return load_model_file(RunDirectory(options.cache, outcome.run_id).trained_model)


def by_harness(
    network: nn.Module,
    part: ImageSet,
    device: torch.device,
    workers: int,
    executor: ChunkExecutor | None,
) -> Timed:
    """The batch by the harness, a chunk for each worker."""
    config = EvalConfig(eps=EPS, chunk_size=-(-len(part) // workers), workers=workers)
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory.create(Path(folder), "benchmark")
        directory.update(kind="loaded", dataset=part.info.name)
        began = time.perf_counter()
        (result,) = evaluate(network, part, config, directory, device=device, executor=executor)
        seconds = time.perf_counter() - began
    return Timed(seconds, torch.tensor(result.verdicts["broken_by"].isna().to_numpy()))


def by_reference(network: nn.Module, part: ImageSet, device: torch.device) -> Timed:
    """The batch by the reference package, with the seed that the harness gives its chunk."""
    x, y = part.images_float().to(device), part.labels.to(device)
    began = time.perf_counter()
    attack = AutoAttack(
        network,
        norm="Linf",
        eps=EPS,
        version="standard",
        device=device,
        seed=chunk_seed(EvalConfig().seed, 0),
    )
    _, predicted = attack.run_standard_evaluation(x, y, batch_size=len(x))
    robust = (predicted == y).cpu()
    return Timed(time.perf_counter() - began, robust)


def compare(
    network: nn.Module,
    test: ImageSet,
    batch: int,
    device: torch.device,
    workers: int,
    executor: ChunkExecutor | None,
) -> dict[str, Any]:
    """Both on every batch, in turns; who begins changes from batch to batch."""
    ours = partial(by_harness, workers=workers, executor=executor)
    sides = {"harness": ours, "reference": by_reference}
    found: dict[str, list[Timed]] = {name: [] for name in sides}
    for number, rows in enumerate(torch.arange(len(test)).split(batch)):
        part = test.take(rows, complete=False)
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[name].append(sides[name](network, part, device))
            print(f"  batch {number}, {name}: {found[name][-1].seconds:.1f} s", file=sys.stderr)
    seconds = {name: sum(timed.seconds for timed in parts) for name, parts in found.items()}
    robust = {name: torch.cat([timed.robust for timed in parts]) for name, parts in found.items()}
    return {
        "images": len(test),
        "batch": batch,
        "workers": workers,
        "seconds": seconds,
        "ratio": seconds["reference"] / seconds["harness"],
        "survivors": {name: int(kept.sum()) for name, kept in robust.items()},
        "robust_accuracy": {name: float(kept.float().mean()) for name, kept in robust.items()},
        "verdicts_that_differ": int((robust["harness"] != robust["reference"]).sum()),
    }


def show(name: str, result: dict[str, Any], wanted: float) -> str:
    """One network's result as a few lines of text."""
    seconds, accuracy, left = (result[key] for key in ("seconds", "robust_accuracy", "survivors"))
    lines = [
        f"{name}: {result['images']} images in batches of {result['batch']}, "
        f"{result['workers']} workers of the harness"
    ]
    lines += [
        f"  {side:<10} {seconds[side]:8.1f} s, {left[side]} survive, robust accuracy "
        f"{accuracy[side]:.2%}"
        for side in seconds
    ]
    lines += [
        f"  ratio      {result['ratio']:8.2f} times, wanted {wanted}",
        f"  verdicts that differ: {result['verdicts_that_differ']}",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and say by the exit status whether every ratio is as wanted."""
    parser = argparse.ArgumentParser(description="Standard AutoAttack: harness against reference.")
    parser.add_argument("--data-root", type=Path, help="folder of cifar10/*.parquet")
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--network", nargs="+", default=["resnet20", "wrn-16-2"])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=12, help="of the adversarial training")
    parser.add_argument("--train-images", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, help="default: threads on a CPU, 1 on a GPU")
    parser.add_argument("--ray", action="store_true", help="attack in tasks of a local Ray")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--wanted", type=float, default=RATIO_WANTED)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    device = options.device
    torch.set_num_threads(options.threads)
    workers = options.workers or (options.threads if device.type == "cpu" else 1)
    # The reference warns of flags that this comparison does not turn on.
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    data = load_dataset("cifar10", options.data_root, splits=("test",))
    test = data.test.subset(options.images)
    results = {}
    with ray_executor(Cluster("local") if options.ray else None) as executor:
        for name in options.network:
            network = robust_network(name, options).to(device)
            results[name] = compare(network, test, options.batch, device, workers, executor)
    found = {"networks": results, "device": str(device), **machine()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    text = "\n".join(show(name, each, options.wanted) for name, each in results.items())
    met = all(each["ratio"] >= options.wanted for each in results.values())
    return finish(found, text, met=met, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
