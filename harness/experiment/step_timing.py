"""Time the training steps of several methods, in turn in one process on one device.

All networks, including teachers, are freshly initialised, which does not change the cost of a step.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.config import RunConfig
from harness.data import Dataset, dataset_info, load_dataset
from harness.data.base import ImageSet
from harness.data.files import without_downloads
from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.experiment.teacher import Teacher, untrained_teacher
from harness.experiment.trainer import TrainingInputs, build_trainer
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from harness.training.build import choose_device
from harness.training.schedules import inner_schedule


@dataclass(frozen=True)
class Plan:
    """The setup of a timing, and the number of steps.

    Attributes:
        teacher: the teacher's network, for methods that have one.
        student: the network being trained.
        dataset: a registered dataset, which sets the shapes and the augmentation.
        batch_size: B.
        repeats: timed steps of each method.
        warmup: untimed steps of each method before them.
        device: auto, cpu, cuda or cuda:N.
        data_root: folder of the images; without one, random images replace missing ones.
    """

    teacher: str
    student: str
    dataset: str = "cifar100"
    batch_size: int = 64
    repeats: int = 20
    warmup: int = 5
    device: str = "auto"
    data_root: Path | None = None


def time_methods(methods: Sequence[str], plan: Plan) -> dict[str, Any]:
    """Time the training steps of each method; see ``Subject``.

    A method that needs teacher logits is timed twice: with the teacher's forward pass in each
    step, and with logits from a complete table.

    Returns:
        ``rows``, one for each method and source of logits, and the conditions of the measurement.

    Raises:
        UserError: there is no method, or a method, network or dataset is unknown or does not fit.
    """
    if not methods:
        raise UserError("there is no method to time: give at least one with --methods")
    data, labels, source = training_images(plan)
    device = choose_device(plan.device)
    with tempfile.TemporaryDirectory() as folder:
        subjects = []
        for config in (_config(name, plan) for name in dict.fromkeys(methods)):
            subjects.append(Subject(config, data, labels, Path(folder), "forward"))
            if subjects[-1].trainer.task.needs_teacher_logits:
                subjects.append(Subject(config, data, labels, Path(folder), "table"))
        for turn in range(plan.warmup + plan.repeats):
            # The first subject of a turn may find cold caches, so the order rotates.
            first = turn % len(subjects)
            for subject in (*subjects[first:], *subjects[:first]):
                subject.step(timed=turn >= plan.warmup)
    return {
        **{name: value for name, value in vars(plan).items() if name != "data_root"},
        "images": source,
        "weights": "freshly initialised, the teacher's too",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": [subject.row() for subject in subjects],
    }


def _config(method: str, plan: Plan) -> RunConfig:
    options = {
        "model.arch": plan.student,
        "training.batch_size": plan.batch_size,
        "teacher.arch": plan.teacher if METHODS.get(method).card.needs_teacher else None,
        "device": plan.device,
        "data.val_size": 0,
        "training.selection.rule": "last",
    }
    return resolve(method, dataset=plan.dataset, options=options)


def training_images(plan: Plan) -> tuple[Dataset, Tensor, str]:
    """Training images for full batches, the labels of the whole training set, and their source.

    The source is ``real``, or ``random`` if no folder is given and the images are missing: images
    and labels are then random.

    Raises:
        UserError: the given folder lacks the images, or the training set is smaller than a batch.
    """
    needed, info = plan.batch_size * (plan.warmup + plan.repeats), dataset_info(plan.dataset)
    try:
        with without_downloads():
            train = load_dataset(plan.dataset, plan.data_root, splits=("train",)).train
    except UserError:
        if plan.data_root is not None:
            raise
        generator = torch.Generator().manual_seed(0)
        shape = (needed, info.channels, info.image_size, info.image_size)
        noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        size = (max(needed, info.max_train_size),)
        labels = torch.randint(info.num_classes, size, generator=generator)
        images = ImageSet(noise, labels[:needed], info, "train")
        return Dataset(info, images, images), labels, "random"
    if len(train) < plan.batch_size:
        raise UserError(
            f"{plan.dataset} has {len(train)} training images, too few for a batch of "
            f"{plan.batch_size}: give a smaller --batch-size"
        ) from None
    subset = train.subset(min(needed, len(train) // plan.batch_size * plan.batch_size))
    return Dataset(subset.info, subset, subset), train.labels, "real"


class Subject:
    """One method's trainer, run one step at a time.

    A step is everything that the trainer does for a batch: teacher logits, forward and backward
    passes, the optimiser. The time "with data" includes loading, augmentation and transfer of the
    batch. Both end when the device has finished. ``logits`` is the source of teacher logits,
    ``forward`` or ``table``; ``labels`` are those of the whole training set.
    """

    def __init__(
        self, config: RunConfig, data: Dataset, labels: Tensor, folder: Path, logits: str
    ) -> None:
        """Build the trainer and fill the table if one is used; ``folder`` is temporary."""
        self.device = choose_device(config.device)
        before = self._allocated()
        self.teacher: Teacher | None = None
        if config.teacher is not None:
            settings = config.teacher.model_copy(update={"logits": logits})
            config = config.model_copy(update={"teacher": settings, "results": folder})
            self.teacher = untrained_teacher(settings.arch, data.info, self.device)
        self.config, self.logits = config, logits
        inputs = TrainingInputs(data, teacher=self.teacher)
        run = RunDirectory.create(folder, f"{config.method}-{logits}")
        # With all labels, memory banks and similar state are as large as in a real run.
        self.trainer = build_trainer(config, inputs, run, Reporter(quiet=True), self.device, labels)
        loader = self.trainer.loader
        self.batches = chain.from_iterable(loader.epoch(0, 1) for _ in count())
        self.seconds: list[tuple[float, float]] = []
        self.peak_bytes = 0
        if logits == "table" and self.trainer.teacher_logits is not None:
            for batch in loader.epoch(0, 1):
                self.trainer.teacher_logits(batch)
        # GPU memory kept between steps.
        self.held_bytes = self._allocated() - before

    def step(self, *, timed: bool) -> None:
        """Load a batch and train on it; ``timed`` records the time and the peak memory."""
        training = self.config.training
        schedule = inner_schedule(training.attack, 1, training.epochs) if training.attack else None
        generator = torch.Generator(device=self.device).manual_seed(0)
        before = self._allocated()
        if before:
            torch.cuda.reset_peak_memory_stats(self.device)
        started = time.perf_counter()
        batch = next(self.batches)
        loaded = self._now()
        self.trainer.step(batch, schedule, generator)
        ended = self._now()
        if timed:
            self.seconds.append((ended - loaded, ended - started))
        if before:
            peak = torch.cuda.max_memory_allocated(self.device) - before + self.held_bytes
            self.peak_bytes = max(self.peak_bytes, peak if timed else 0)
            self.held_bytes += self._allocated() - before

    def row(self) -> dict[str, Any]:
        """The measurements; memory is None on a CPU."""
        step, with_data = zip(*self.seconds, strict=True)
        task = self.trainer.task
        return {
            "method": self.config.method,
            "title": METHODS.get(self.config.method).card.title,
            "teacher_logits": self.logits if task.needs_teacher_logits else None,
            "step_s": quartiles(step),
            "steps_s": list(step),
            "step_with_data_s": quartiles(with_data),
            "extra_parameters": sum(p.numel() for p in task.parameters()),
            "peak_memory_mb": self.peak_bytes / 2**20 if self.peak_bytes else None,
        }

    def _now(self) -> float:
        """The time in seconds, once the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _allocated(self) -> int:
        """Bytes allocated on the GPU; 0 on a CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0


def quartiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "low": low, "high": high}
