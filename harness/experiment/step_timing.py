"""Seconds per training step of several methods, timed in turns in one process on one device.

Nothing is learned and no accuracy measured: networks, the teacher's too, are freshly initialised,
which does not change what a step costs.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness.config import RunConfig
from harness.data import dataset_info, load_dataset
from harness.data.base import DatasetInfo, ImageSet, ImageSource
from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.experiment.teacher import Teacher, teacher_logits_fn
from harness.method import Batch, TaskContext
from harness.models import ARCHITECTURES, build_model
from harness.models.checkpoint import state_dict_sha256
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from harness.training.build import choose_device, new_model, new_task, training_loader
from harness.training.loop import Trainer
from harness.training.schedules import inner_schedule

FORWARD, TABLE = "forward", "table"


@dataclass(frozen=True)
class Plan:
    """What is timed, and how long.

    Attributes:
        teacher: network of the teacher, for methods that have one.
        student: network that is trained.
        dataset: registered data set, for shapes and augmentation.
        batch_size: B.
        repeats: timed steps of each method.
        warmup: steps of each before them.
        device: auto, cpu, cuda or cuda:N.
        data_root: folder of the images; where they are missing, random images take their place.
    """

    teacher: str
    student: str
    dataset: str = "cifar100"
    batch_size: int = 64
    repeats: int = 20
    warmup: int = 5
    device: str = "auto"
    data_root: Path | None = None


def split_pair(pair: str) -> tuple[str, str]:
    """``resnet56-resnet20`` as teacher and student; names may themselves hold dashes.

    Raises:
        UserError: the text is no two registered networks with a dash between them.
    """
    places = [place for place, sign in enumerate(pair) if sign == "-"]
    for place in places:
        teacher, student = pair[:place], pair[place + 1 :]
        if teacher in ARCHITECTURES and student in ARCHITECTURES:
            return teacher, student
    raise UserError(
        f"{pair!r} is no TEACHER-STUDENT of two networks of `list models`, such as "
        "resnet56-resnet20"
    )


def time_methods(methods: Sequence[str], plan: Plan) -> dict[str, Any]:
    """Time a training step of each method; see ``Subject`` for what one step is.

    A method that asks for teacher logits is timed twice: with the teacher's forward pass in each
    step, and with its logits from a table that has them all.

    Returns:
        ``rows``, one for each method and way, and what they were measured on.

    Raises:
        UserError: a method, network or data set is unknown or does not fit.
    """
    device = choose_device(plan.device)
    images, labels, note = training_images(plan)
    with tempfile.TemporaryDirectory() as folder:
        subjects = [
            subject
            for name in dict.fromkeys(methods)
            for subject in subjects_of(name, plan, images, labels, device, Path(folder))
        ]
        for turn in range(plan.warmup + plan.repeats):
            # Whoever comes first after a pause may find caches cold: the order goes round.
            first = turn % len(subjects)
            for subject in (*subjects[first:], *subjects[:first]):
                subject.step(timed=turn >= plan.warmup)
    return {
        "teacher": plan.teacher,
        "student": plan.student,
        "dataset": plan.dataset,
        "batch_size": plan.batch_size,
        "repeats": plan.repeats,
        "warmup": plan.warmup,
        "images": note,
        "weights": "freshly initialised, the teacher's too",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": [subject.row() for subject in subjects],
    }


def training_images(plan: Plan) -> tuple[ImageSource, Tensor, str]:
    """As many training images as the steps take, the whole set's labels, and where they are from.

    Where the images cannot be had, noise of their shape with random labels takes their place.
    """
    needed = plan.batch_size * (plan.warmup + plan.repeats)
    info = dataset_info(plan.dataset)
    try:
        train = load_dataset(plan.dataset, plan.data_root, splits=("train",)).train
    except UserError:
        generator = torch.Generator().manual_seed(0)
        shape = (needed, info.channels, info.image_size, info.image_size)
        noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        size = (max(needed, info.max_train_size),)
        labels = torch.randint(info.num_classes, size, generator=generator)
        return ImageSet(noise, labels[:needed], info, "train"), labels, "random"
    return train.subset(needed), train.labels, "real"


def subjects_of(
    name: str,
    plan: Plan,
    images: ImageSource,
    labels: Tensor,
    device: torch.device,
    folder: Path,
) -> Iterator[Subject]:
    """A method, or both ways of a method that asks for teacher logits."""
    needs_teacher = METHODS.get(name).card.needs_teacher
    options = {
        "model.arch": plan.student,
        "training.batch_size": plan.batch_size,
        "teacher.arch": plan.teacher if needs_teacher else None,
        "device": plan.device,
    }
    config = resolve(name, dataset=plan.dataset, options=options)
    first = Subject(config, FORWARD, images, labels, device, folder)
    yield first
    if first.trainer.task.needs_teacher_logits:
        yield Subject(config, TABLE, images, labels, device, folder)


class Subject:
    """One method's trainer, which takes a step at a time.

    A step is all that the trainer does for a batch: the teacher's part, forward and backward
    passes, the optimiser. The time "with data" also has the loading, augmentation and transfer of
    the batch. Both end when the device has finished.

    Args:
        config: the method's run.
        way: how teacher logits come where they are asked for: ``forward`` or ``table``.
        images: the training images of the steps.
        labels: those of the whole training set, which begins with the images.
        device: where to train.
        folder: a temporary folder for tables.
    """

    def __init__(
        self,
        config: RunConfig,
        way: str,
        images: ImageSource,
        labels: Tensor,
        device: torch.device,
        folder: Path,
    ) -> None:
        """See the class."""
        if config.teacher is not None:
            settings = config.teacher.model_copy(update={"logits": way})
            config = config.model_copy(update={"teacher": settings, "results": folder})
        self.config, self.way, self.device = config, way, device
        info = images.info
        self.teacher = self._new_teacher(info) if config.teacher is not None else None
        model = new_model(config, info).to(device)
        context = TaskContext(
            num_classes=info.num_classes,
            epochs=config.training.epochs,
            # Memory banks and the like are as large as in a real run.
            train_size=len(labels),
            device=device,
            teacher=self.teacher.model if self.teacher else None,
            in_channels=info.channels,
            image_size=info.image_size,
            student=model,
            train_labels=labels,
        )
        task = new_task(config, METHODS.get(config.method), context)
        loader = training_loader(
            config, images, len(images), None, device, views=task.autoaugmented_views
        )
        quiet = Reporter(quiet=True)
        self.trainer = Trainer(
            config,
            task,
            model,
            loader,
            watched=images,
            run=RunDirectory.create(folder, f"{config.method}-{way}"),
            reporter=cast(Any, None),
            device=device,
            teacher_logits=teacher_logits_fn(config, task, self.teacher, images, loader, quiet),
        )
        self.batches = chain.from_iterable(loader.epoch(0, 1) for _ in iter(int, 1))
        self.seconds: list[tuple[float, float]] = []
        self.peak_bytes = 0
        if way == TABLE and self.trainer.teacher_logits is not None:
            for batch in loader.epoch(0, 1):
                self.trainer.teacher_logits(batch)

    def step(self, *, timed: bool) -> None:
        """Load a batch and train on it."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        began = time.perf_counter()
        batch = next(self.batches)
        self._wait()
        loaded = time.perf_counter()
        self._train(batch)
        self._wait()
        ended = time.perf_counter()
        if timed:
            self.seconds.append((ended - loaded, ended - began))
            if self.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(self.device) - before
                self.peak_bytes = max(self.peak_bytes, peak + self._held_bytes())

    def row(self) -> dict[str, Any]:
        """What was measured; memory is None where the device does not count it."""
        without, whole = zip(*self.seconds, strict=True)
        return {
            "method": self.config.method,
            "title": METHODS.get(self.config.method).card.title,
            "teacher_logits": self.way if self.trainer.task.needs_teacher_logits else None,
            "step_s": spread(without),
            "steps_s": list(without),
            "step_with_data_s": spread(whole),
            "extra_parameters": sum(p.numel() for p in self.trainer.task.parameters()),
            "peak_memory_mb": self.peak_bytes / 2**20 if self.peak_bytes else None,
        }

    def _train(self, batch: Batch) -> None:
        training = self.config.training
        attack = training.attack
        schedule = inner_schedule(attack, 1, training.epochs) if attack else None
        generator = torch.Generator(device=self.device).manual_seed(0)
        self.trainer.step(batch, schedule, generator)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _held_bytes(self) -> int:
        """What the subject keeps on the device between steps."""
        modules: list[nn.Module] = [self.trainer.model, self.trainer.task]
        if self.teacher is not None:
            modules.append(self.teacher.model)
        tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        for state in self.trainer.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _new_teacher(self, info: DatasetInfo) -> Teacher:
        assert self.config.teacher is not None
        arch = self.config.teacher.arch
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_model(arch, info.num_classes, info.channels, info.image_size)
        model = model.to(self.device).eval().requires_grad_(False)
        sha256 = state_dict_sha256(model)
        return Teacher(model, sha256, sha256, {"arch": arch})


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(seconds) < 2:
        return {"median": seconds[0], "low": seconds[0], "high": seconds[0]}
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def text(result: dict[str, Any]) -> str:
    """The result as a table for reading."""
    head = ("method", "teacher logits", "step", "step with data", "extra parameters", "memory")
    lines = [head]
    for row in result["rows"]:
        memory = row["peak_memory_mb"]
        lines.append(
            (
                row["method"],
                row["teacher_logits"] or "",
                cell(row["step_s"]),
                cell(row["step_with_data_s"]),
                f"{row['extra_parameters']:,}",
                "" if memory is None else f"{memory:.0f} MiB",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(
        [
            f"{result['teacher']} -> {result['student']}, {result['dataset']} "
            f"(images: {result['images']}; weights: {result['weights']}), batches of "
            f"{result['batch_size']}, {result['device']}, {result['threads']} threads, "
            f"torch {result['torch']}, {result['machine']}",
            *(line.rstrip() for line in table),
            f"ms, median [quartiles] of {result['repeats']} after {result['warmup']}, in turns; "
            "memory is counted on GPUs only",
        ]
    )


def cell(values: dict[str, float]) -> str:
    """A spread in milliseconds."""
    return f"{1e3 * values['median']:.2f} [{1e3 * values['low']:.2f}, {1e3 * values['high']:.2f}]"
