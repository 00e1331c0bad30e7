"""How long runs will take, by what like runs in the store took."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.config import RunConfig
from harness.data import dataset_info
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
SELECT r.method, r.dataset, r.arch, r.device, e.attacks, e.wall_s / e.n AS seconds
FROM evaluations e JOIN runs r USING (run_id)
WHERE e.status = 'success' AND e.wall_s IS NOT NULL AND e.n > 0
"""


@dataclass(frozen=True)
class Timing:
    """One measurement: ``like`` tells what it is of, the method aside; ``seconds`` is per unit."""

    method: str
    like: tuple[Any, ...]
    seconds: float


@dataclass(frozen=True)
class Timings:
    """Seconds of an epoch, and of the evaluation of one image."""

    epochs: Sequence[Timing]
    images: Sequence[Timing]


def stored_timings(results: Path) -> Timings:
    """All measurements in a results folder; none where it has no database."""
    database = Database(results)
    if not database.path.exists():
        return Timings((), ())
    return Timings(
        [_timing(row) for row in database.query(TRAINING).itertuples(index=False)],
        [_timing(row) for row in database.query(EVALUATION).itertuples(index=False)],
    )


def _timing(row: Any) -> Timing:
    method, *like, seconds = row
    return Timing(method, tuple(None if pd.isna(value) else value for value in like), seconds)


def with_estimates(items: Iterable[Item], timings: Timings) -> list[Item]:
    """The items with the seconds that are left of each, where that can be known."""
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
    image = per_unit(timings.images, config.method, (*setting, ",".join(evaluation.attacks)))
    epochs_left = training.epochs - item.epochs
    images = images_of(config) * len(evaluation.eps)
    images_left = max(0, images - item.chunks * evaluation.chunk_size)
    parts = [(unit, left) for unit, left in ((epoch, epochs_left), (image, images_left)) if left]
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
    """How many test images a run's evaluation takes."""
    return config.evaluation.limit or dataset_info(config.data.name).max_test_size


def per_unit(
    timings: Sequence[Timing], method: str, like: tuple[Any, ...]
) -> tuple[float, bool] | None:
    """The median of like measurements, and whether they are of the same method.

    Other methods' are taken where the method itself has none.
    """
    alike = [timing for timing in timings if timing.like == like]
    own = [timing.seconds for timing in alike if timing.method == method]
    if not alike:
        return None
    return statistics.median(own or [timing.seconds for timing in alike]), bool(own)
