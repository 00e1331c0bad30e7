"""Two evaluation workers with one thread each, or two Ray tasks, against one worker, in turns.

With the project installed, and Parquet shards of CIFAR-10 in a folder:

    python benchmarks/evaluation_workers.py --data-root DATA --cache CACHE

Prediction, written before the first run: workers share nothing but the disk, so the ratio is 2 less
the start of a second interpreter, some 3 to 5 s, and what two cores lose to shared memory: 1.85.

With ``--ray`` a third side has the chunks attacked by tasks of one core on a local Ray. Prediction:
as two workers; its processes are there when the clock starts.

All evaluate the same images in the same chunks, with APGD-CE and APGD-T, and must find the same
verdicts. The network is the one of ``autoattack.py``. A worker's start counts; that of Ray itself
does not, since a cluster is up before. A ratio below 1.8 exits with status 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from autoattack import EPS, TRAIN_IMAGES, robust_network
from torch import nn

from harness.config import EvalConfig
from harness.data import ImageSet, load_dataset
from harness.distributed.ray_cluster import Cluster
from harness.evaluation.attack.ray_executor import ray_executor
from harness.evaluation.driver import evaluate
from harness.store.rundir import RunDirectory

RATIO_WANTED = 1.8
CPU = torch.device("cpu")
LOCAL = Cluster("local")


@dataclass(frozen=True)
class Side:
    """A way to share the chunks: so many workers, or as many tasks of a local Ray at once."""

    name: str
    workers: int
    ray: bool = False


SIDES = (Side("one worker", 1), Side("two workers", 2), Side("two Ray tasks", 2, ray=True))


def timed(network: nn.Module, test: ImageSet, chunk: int, side: Side) -> tuple[float, pa.Table]:
    """Wall seconds of an evaluation, and its verdicts."""
    config = EvalConfig(
        eps=EPS, attacks=("apgd-ce", "apgd-t"), chunk_size=chunk, workers=side.workers
    )
    # As many threads for the evaluation as workers, so that each worker has one.
    torch.set_num_threads(side.workers)
    cluster = LOCAL if side.ray else None
    with tempfile.TemporaryDirectory() as folder, ray_executor(cluster) as executor:
        run = RunDirectory.create(Path(folder), "benchmark")
        run.update(kind="loaded", dataset=test.info.name)
        began = time.perf_counter()
        evaluate(network, test, config, run, device=CPU, executor=executor)
        seconds = time.perf_counter() - began
        (evaluation,) = run.evaluations()
        return seconds, evaluation.verdicts()


def main() -> int:
    """Measure, print, and say by the exit status whether every ratio is as wanted."""
    parser = argparse.ArgumentParser(description="Two evaluation workers against one.")
    parser.add_argument("--data-root", type=Path, help="folder of cifar10/*.parquet")
    parser.add_argument("--cache", type=Path, help="folder that keeps the trained network")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="time tasks of a local Ray as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    data = load_dataset("cifar10", options.data_root, train_limit=TRAIN_IMAGES)
    network = robust_network(options.network, data.train, 6, options.cache, CPU)
    test = data.test.subset(options.images)
    sides = [side for side in SIDES if options.ray or not side.ray]
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(options.rounds):
        verdicts = []
        for side in sides[:: -1 if number % 2 else 1]:
            taken, found = timed(network, test, options.chunk, side)
            seconds[side.name].append(taken)
            verdicts.append(found)
        if not all(found.equals(verdicts[0]) for found in verdicts):
            raise SystemExit("the verdicts depend on who attacks the chunks")
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    ratios = {name: medians[SIDES[0].name] / taken for name, taken in medians.items()}
    if options.json:
        machine = {"torch": torch.__version__, "machine": platform.machine()}
        print(json.dumps({"images": len(test), "seconds": seconds, "ratios": ratios, **machine}))
    else:
        print(f"{options.network}, {len(test)} images in chunks of {options.chunk}")
        for name, taken in medians.items():
            print(f"  {name:<14}{taken:7.1f} s, {len(test) / taken:6.2f} images/s", end="")
            print(f", {ratios[name]:.2f} times")
        print(f"  wanted {RATIO_WANTED}; verdicts are equal")
    return 0 if min(list(ratios.values())[1:]) >= RATIO_WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
