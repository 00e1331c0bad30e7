"""Estimate how long runs will take from the stored times of similar runs."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.config import RunConfig
from harness.data import dataset_info
from harness.errors import UserError
from harness.evaluation.attack.protocol import attack_version
from harness.experiment.record import INDEX_WAIT_S
from harness.experiment.sweep import Item
from harness.provenance import device_name
from harness.store.database import Database
from harness.training.build import choose_device

TRAINING = """
SELECT method, dataset, arch, device, train_limit,
       CAST(config->>'$.training.batch_size' AS INTEGER) AS batch_size,
       CAST(config->'$.training.attack' AS VARCHAR) NOT IN ('null') AS attacked,
       seconds
FROM epochs JOIN runs USING (run_id) WHERE seconds IS NOT NULL AND device IS NOT NULL
"""
EVALUATION = """
SELECT r.method, r.dataset, r.arch, r.device, e.attack_version, e.wall_s / e.n AS seconds
FROM evaluations e JOIN runs r USING (run_id)
WHERE e.status = 'success' AND e.wall_s IS NOT NULL AND e.n > 0
"""


@dataclass(frozen=True)
class Timing:
    """Seconds per unit of work of a method in a setting (dataset, network, device and so on)."""

    method: str
    setting: tuple[Any, ...]
    seconds: float


@dataclass(frozen=True)
class Timings:
    """Timings per epoch of training, and per evaluated image."""

    epochs: Sequence[Timing]
    images: Sequence[Timing]


def stored_timings(results: Path) -> Timings:
    """All measurements in a results folder; none if its database is missing or cannot be read."""
    database = Database(results, INDEX_WAIT_S)
    try:
        tables = [database.query(sql) for sql in (TRAINING, EVALUATION)]
    except UserError:
        return Timings((), ())
    epochs, images = ([_timing(row) for row in table.itertuples(index=False)] for table in tables)
    return Timings(epochs, images)


def _timing(row: Any) -> Timing:
    method, *setting, seconds = row
    return Timing(method, tuple(None if pd.isna(value) else value for value in setting), seconds)


def with_estimates(items: Iterable[Item], timings: Timings) -> list[Item]:
    """The items with the estimated seconds remaining, where there are measurements."""
    return [_estimated(item, timings) for item in items]


def _estimated(item: Item, timings: Timings) -> Item:
    if item.state == "done":
        return dataclasses.replace(item, seconds=0.0, whole=True, alike=True)
    config = item.config
    device = device_name(choose_device(config.device))
    training, evaluation = config.training, config.evaluation
    setting = (config.data.name, config.model.arch, device)
    epoch = per_unit(
        timings.epochs,
        config.method,
        (*setting, config.data.train_limit, training.batch_size, training.attack is not None),
    )
    classes = dataset_info(config.data.name, config.data.root).num_classes
    version = attack_version(evaluation.protocols()[-1], classes)
    image = per_unit(timings.images, config.method, (*setting, version))
    epochs_left = training.epochs - item.epochs
    images = images_of(config) * len(evaluation.eps)
    images_left = max(0, images - item.chunks * evaluation.chunk_size)
    # Stored times are summed over the processes that attacked chunks side by side.
    chunks_left = math.ceil(images_left / evaluation.chunk_size)
    images_each = images_left / max(1, min(evaluation.workers, chunks_left))
    parts = [(unit, left) for unit, left in ((epoch, epochs_left), (image, images_each)) if left]
    known = [(unit, left) for unit, left in parts if unit is not None]
    if parts and not known:
        return item
    return dataclasses.replace(
        item,
        seconds=sum(unit[0] * left for unit, left in known),
        whole=len(known) == len(parts),
        alike=all(unit[1] for unit, _ in known),
    )


def images_of(config: RunConfig) -> int:
    """The number of test images in a run's evaluation."""
    return config.evaluation.limit or dataset_info(config.data.name, config.data.root).max_test_size


def per_unit(
    timings: Sequence[Timing], method: str, setting: tuple[Any, ...]
) -> tuple[float, bool] | None:
    """The median time in a setting, and whether it is that of the method itself.

    A method without measurements gets the median of other methods; None if there is none either.
    """
    alike = [timing for timing in timings if timing.setting == setting]
    own = [timing.seconds for timing in alike if timing.method == method]
    if not alike:
        return None
    return statistics.median(own or [timing.seconds for timing in alike]), bool(own)
