"""Two evaluation workers with one thread each against one, in turns.

With the project installed, and Parquet shards of CIFAR-10 in a folder:

    python benchmarks/evaluation_workers.py --data-root DATA --cache CACHE

Prediction, written before the first run: workers share nothing but the disk, so the ratio is 2 less
the start of a second interpreter, some 3 to 5 s, and what two cores lose to shared memory: 1.85.

Both evaluate the same images in the same chunks, with APGD-CE and APGD-T, and must find the same
verdicts. The network is the one of ``autoattack.py``. A worker's start counts. A ratio below 1.8
exits with status 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import torch
from autoattack import EPS, TRAIN_IMAGES, robust_network
from torch import nn

from harness.config import EvalConfig
from harness.data import ImageSet, load_dataset
from harness.evaluation.driver import evaluate
from harness.store.rundir import RunDirectory

RATIO_WANTED = 1.8
CPU = torch.device("cpu")


def timed(network: nn.Module, test: ImageSet, chunk: int, workers: int) -> tuple[float, pa.Table]:
    """Wall seconds of an evaluation in so many workers, and its verdicts."""
    config = EvalConfig(eps=EPS, attacks=("apgd-ce", "apgd-t"), chunk_size=chunk, workers=workers)
    # As many threads for the evaluation as workers, so that each worker has one.
    torch.set_num_threads(workers)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder), "benchmark")
        run.update(kind="loaded", dataset=test.info.name)
        began = time.perf_counter()
        evaluate(network, test, config, run, device=CPU)
        seconds = time.perf_counter() - began
        (evaluation,) = run.evaluations()
        return seconds, evaluation.verdicts()


def main() -> int:
    """Measure, print, and say by the exit status whether the ratio is as wanted."""
    parser = argparse.ArgumentParser(description="Two evaluation workers against one.")
    parser.add_argument("--data-root", type=Path, help="folder of cifar10/*.parquet")
    parser.add_argument("--cache", type=Path, help="folder that keeps the trained network")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    data = load_dataset("cifar10", options.data_root, train_limit=TRAIN_IMAGES)
    network = robust_network(options.network, data.train, 6, options.cache, CPU)
    test = data.test.subset(options.images)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(options.rounds):
        verdicts = {}
        for workers in list(seconds)[:: -1 if number % 2 else 1]:
            taken, verdicts[workers] = timed(network, test, options.chunk, workers)
            seconds[workers].append(taken)
        if not verdicts[1].equals(verdicts[2]):
            raise SystemExit("the verdicts depend on the number of workers")
    one, two = (statistics.median(seconds[workers]) for workers in (1, 2))
    ratio = one / two
    if options.json:
        machine = {"torch": torch.__version__, "machine": platform.machine()}
        print(json.dumps({"images": len(test), "seconds": seconds, "ratio": ratio, **machine}))
    else:
        print(f"{options.network}, {len(test)} images in chunks of {options.chunk}")
        print(f"  one worker  {one:7.1f} s, {len(test) / one:6.2f} images/s")
        print(f"  two workers {two:7.1f} s, {len(test) / two:6.2f} images/s")
        print(f"  ratio {ratio:.2f}, wanted {RATIO_WANTED}; verdicts are equal")
    return 0 if ratio >= RATIO_WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
