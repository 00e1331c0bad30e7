"""Compare the time of an evaluation with that of its passes alone and with ``pyautoattack``.

With the project installed, and Parquet shards of CIFAR-10 in a folder:

    python benchmarks/autoattack.py --data-root DATA --cache CACHE

On a GPU, and a shorter version:

    python benchmarks/autoattack.py --data-root DATA --cache CACHE --device cuda \
        --network wrn-28-10 --workers 1 --graph-sizes 16 32 64
    python benchmarks/autoattack.py --data-root DATA --cache CACHE --images 64 --network resnet20

Several sides take turns on each batch of images, each in a separate process:

- ``harness`` evaluates the network as an external model, in chunks that the workers share. Its
  time includes everything: imports, reading the images, plan, flags, attacks, judging and files.
- ``passes`` repeats only the passes of those attacks (forward, or forward and backward), with the
  same sizes, order, copy of the network and number of workers.
- ``reference`` attacks the same chunks with the same seeds by ``pyautoattack`` with all threads.
  Its time starts after the images are read.
- ``graphs``, if ``--graph-sizes`` are given, is the harness with ``evaluation.graph_sizes``.

``overhead`` is the time of the harness divided by that of the passes, and ``ratio`` the time of the
reference divided by that of the harness, both in processor time, which hardly depends on other
load, and in wall time. If a process has several threads, use wall time on an idle machine: threads
that wait for others count as busy, and they wait longer on a busy machine. Wall time of the passes
assumes that the workers end together. On a GPU only wall time counts.

The networks are first made robust by a short adversarial training run, since the long attacks have
nothing to do on a network that breaks at once; ``--cache`` keeps these runs. In ``resnet8-folded``
each BatchNorm is already folded into a convolution, so the harness has nothing left to fold. The
exit status is 1 if an overhead is above ``--most-overhead``, a ratio is below ``--wanted``, or a
verdict differs.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from operator import ne
from pathlib import Path
from typing import Any

import torch
from passes import Cost, Recording, all_processor_seconds, cost_of_passes, timed
from pyautoattack import AutoAttack
from shared import finish, machine
from torch import fx, nn

from harness.config import EvalConfig
from harness.data import Dataset, load_dataset
from harness.evaluation.attack.executors import ChunkExecutor, local_executor
from harness.evaluation.attack.protocol import chunk_seed
from harness.evaluation.speed.rewriting import fold_batchnorm
from harness.experiment.external import evaluate_model
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.models.loading import load_model_file
from harness.progress import Reporter
from harness.store.rundir import RunDirectory

MOST_OVERHEAD = 1.15
RATIO_WANTED = 1.1
EPS = 8 / 255
# Architecture, whether BatchNorm is folded beforehand, and the radius.
NETWORKS = {"resnet8-folded": ("resnet8", True, 2 / 255)}
SIDES = ("harness", "passes", "reference")


@dataclass(frozen=True)
class Task:
    """What a side needs to process one batch in a separate process.

    Attributes:
        model: file of the trained network.
        folded: whether its BatchNorm is folded first.
        eps: radius in Linf.
        data_root: folder of the images.
        start: position of the batch's first image.
        stop: position after its last image.
        chunk: images per chunk.
        workers: number of the harness's workers.
        threads: number of the process's threads.
        device: where to compute.
        graph_sizes: batch sizes of CUDA graphs, for the side ``graphs``.
        folder: where the harness writes results and passes.
    """

    model: Path
    folded: bool
    eps: float
    data_root: Path | None
    start: int
    stop: int
    chunk: int
    workers: int
    threads: int
    device: str
    graph_sizes: tuple[int, ...]
    folder: Path

    def network(self) -> nn.Module:
        """Load the network on the CPU, in eval mode."""
        network: nn.Module = load_model_file(self.model).eval()
        if self.folded:
            traced = fx.symbolic_trace(network)
            fold_batchnorm(traced)
            for name, module in list(network.named_modules()):
                if isinstance(module, nn.BatchNorm2d):
                    network.set_submodule(name, nn.Identity())
                elif isinstance(module, nn.Conv2d):
                    network.set_submodule(name, traced.get_submodule(name))
        return network

    def data(self) -> Dataset:
        """Load CIFAR-10 with the batch as its test split."""
        data = load_dataset("cifar10", self.data_root, splits=("test",))
        rows = torch.arange(self.start, self.stop)
        return Dataset(data.info, test=data.test.take(rows, complete=False))

    def executor(self) -> ChunkExecutor:
        """Return the harness's executor for this number of workers."""
        return local_executor(self.workers, -(-(self.stop - self.start) // self.chunk))


def by_harness(task: Task, side: str) -> list[bool]:
    """Return which images survive the evaluation, and record its passes."""
    config = EvalConfig(
        eps=(task.eps,),
        chunk_size=task.chunk,
        workers=task.workers,
        graph_sizes=task.graph_sizes if side == "graphs" else (),
    )
    outcome = evaluate_model(
        task.network(),
        task.data(),
        config,
        facts={},
        results=task.folder / side,
        reporter=Reporter(quiet=True),
        device=task.device,
        executor=Recording(task.executor(), task.folder / f"{side}.job"),
    )
    robust: list[bool] = outcome.evaluation.verdicts["broken_by"].isna().tolist()
    return robust


def by_reference(task: Task) -> tuple[list[bool], Cost]:
    """Return which images survive the reference package, attacked by chunks, and its cost."""
    # Hide its warnings about flags, which this comparison does not use.
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    device, test = torch.device(task.device), task.data().test
    network, robust = task.network().to(device), []
    with timed(device) as cost:
        for number, rows in enumerate(torch.arange(len(test)).split(task.chunk)):
            x, y = test.images_float(rows).to(device), test.labels[rows].to(device)
            seed = chunk_seed(EvalConfig().seed, number)
            attack = AutoAttack(network, norm="Linf", eps=task.eps, device=device, seed=seed)
            _, predicted = attack.run_standard_evaluation(x, y, batch_size=len(x))
            robust += (predicted == y).tolist()
    return robust, cost()


def work(side: str, task: Task, began: float, answer: Connection) -> None:
    """Run one side in the process just started for it."""
    torch.set_num_threads(task.threads)
    if side == "passes":
        executor, device = task.executor(), torch.device(task.device)
        answer.send(
            ([], cost_of_passes(task.folder / "harness.job", executor, device, task.workers))
        )
    elif side == "reference":
        answer.send(by_reference(task))
    else:
        robust = by_harness(task, side)
        answer.send((robust, Cost(all_processor_seconds(), time.perf_counter() - began)))


def started(side: str, task: Task) -> tuple[list[bool], Cost]:
    """Run one side in a new process; return its surviving images and cost."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(side, task, time.perf_counter(), sender))
    process.start()
    sender.close()
    try:
        answer: tuple[list[bool], Cost] = receiver.recv()
    finally:
        process.join()
    return answer


def robust_network(arch: str, options: argparse.Namespace) -> Path:
    """Return the file of a network after short adversarial training with two steps of size eps.

    The training run is stored in the folder ``--cache``, so the same settings train only once.
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
    return RunDirectory(options.cache, outcome.run_id).trained_model


def compare(name: str, workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides on every batch, in turns."""
    arch, folded, eps = NETWORKS.get(name, (name, False, EPS))
    model = robust_network(arch, options)
    sides = (*SIDES, "graphs") if options.graph_sizes else SIDES
    costs = dict.fromkeys(sides, Cost(0.0, 0.0))
    robust: dict[str, list[bool]] = {side: [] for side in sides}
    for start in range(0, options.images, options.batch):
        stop = min(start + options.batch, options.images)
        with tempfile.TemporaryDirectory() as folder:
            task = Task(
                model, folded, eps, options.data_root, start, stop, options.chunk, workers,
                options.threads, str(options.device), tuple(options.graph_sizes), Path(folder),
            )  # fmt: skip
            for side in sides:
                survivors, cost = started(side, task)
                robust[side] += survivors
                costs[side] += cost
                print(f"  {name}, from image {start}, {side}: {cost}", file=sys.stderr)
    everything, passes, reference = (costs[side] for side in SIDES)
    clocks = ("processor", "wall")
    return {
        "images": options.images,
        "batch": options.batch,
        "chunk": options.chunk,
        "workers": workers,
        "seconds": {side: asdict(cost) for side, cost in costs.items()},
        "overhead": {c: getattr(everything, c) / getattr(passes, c) for c in clocks},
        "ratio": {c: getattr(reference, c) / getattr(everything, c) for c in clocks},
        "survivors": sum(robust["harness"]),
        "verdicts_that_differ": {
            side: sum(map(ne, robust[side], robust["reference"]))
            for side in sides
            if side not in ("passes", "reference")
        },
    }


def show(name: str, result: dict[str, Any], options: argparse.Namespace) -> str:
    """Format one comparison as text."""
    overhead, ratio = result["overhead"], result["ratio"]
    lines = [
        f"{name}: {result['images']} images in chunks of {result['chunk']}, "
        f"{result['workers']} workers, {result['survivors']} images survive"
    ]
    lines += [
        f"  {side:<10} {cost['processor']:8.1f} processor seconds {cost['wall']:8.1f} s"
        for side, cost in result["seconds"].items()
    ]
    lines += [
        f"  overhead   {overhead['processor']:8.3f} processor time, {overhead['wall']:.3f} wall "
        f"time, at most {options.most_overhead}",
        f"  ratio      {ratio['processor']:8.3f} processor time, {ratio['wall']:.3f} wall time, "
        f"at least {options.wanted}",
        *(
            f"  verdicts that differ from the reference, {side}: {count}"
            for side, count in result["verdicts_that_differ"].items()
        ),
    ]
    return "\n".join(lines)


def met(result: dict[str, Any], options: argparse.Namespace) -> bool:
    """Return whether a comparison is within its limits and no verdict differs."""
    clock = "processor" if options.device.type == "cpu" else "wall"
    return (
        result["overhead"][clock] <= options.most_overhead
        and result["ratio"][clock] >= options.wanted
        and not any(result["verdicts_that_differ"].values())
    )


def main() -> int:
    """Measure and print; the exit status is 1 if a comparison misses a limit."""
    parser = argparse.ArgumentParser(description="Standard AutoAttack: harness against reference.")
    parser.add_argument("--data-root", type=Path, help="folder that holds cifar10/*.parquet")
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--network", nargs="+", default=["resnet20", "wrn-16-2", *NETWORKS])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128, help="images per evaluation")
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12, help="epochs of adversarial training")
    parser.add_argument("--train-images", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--graph-sizes", type=int, nargs="+", default=[], help="batch sizes")
    parser.add_argument("--most-overhead", type=float, default=MOST_OVERHEAD)
    parser.add_argument("--wanted", type=float, default=RATIO_WANTED)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = [
        (name, compare(name, workers, options))
        for name in options.network
        for workers in options.workers
    ]
    found = {
        "comparisons": [{"network": name, **each} for name, each in results],
        "device": str(options.device),
        **machine(),
    }
    if options.device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(options.device)
    text = "\n".join(show(name, each, options) for name, each in results)
    as_wanted = all(met(each, options) for _, each in results)
    return finish(found, text, met=as_wanted, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
