"""Build the trainer of a run from its configuration and its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from harness.config import RunConfig
from harness.data.base import Dataset, ImageSource
from harness.data.loader import split_validation
from harness.data.npz import NpzImages
from harness.distributed.group import SINGLE_PROCESS, ProcessGroup
from harness.errors import UserError
from harness.evaluation.clean import clean_accuracy
from harness.experiment.teacher import Teacher, teacher_logits_fn
from harness.method import TaskContext
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from harness.training.build import new_model, new_task, training_loader
from harness.training.loop import Trainer
from harness.training.schedules import cycle_ends


@dataclass(frozen=True)
class TrainingInputs:
    """What a training run needs in addition to its configuration."""

    data: Dataset
    generated: NpzImages | None = None
    teacher: Teacher | None = None
    processes: ProcessGroup = SINGLE_PROCESS


def build_trainer(
    config: RunConfig,
    inputs: TrainingInputs,
    directory: RunDirectory,
    reporter: Reporter,
    device: torch.device,
    labels: Tensor | None = None,
) -> Trainer:
    """Build the trainer of a run, resumed from its last checkpoint if there is one.

    Args:
        config: the run.
        inputs: images, teacher and processes.
        directory: the run's directory.
        reporter: receives messages on how teacher logits are computed or stored, and on a student
            larger than its teacher.
        device: the training device.
        labels: labels of the whole training set [N], if ``inputs`` has only some of its images.

    Raises:
        UserError: the configuration, the images and the teacher do not fit together.
    """
    data, teacher, processes = inputs.data, inputs.teacher, inputs.processes
    train_set, watched = _splits(config, data)
    labels = train_set.labels if labels is None else labels
    model = new_model(config, data.info)
    if teacher is not None:
        _note_larger_student(config, model, teacher.model, reporter)
    context = TaskContext(
        num_classes=data.info.num_classes,
        epochs=config.training.epochs,
        device=device,
        teacher=teacher.model if teacher else None,
        in_channels=data.info.channels,
        image_size=data.info.image_size,
        student=model,
        train_labels=labels,
        cycle_ends=tuple(cycle_ends(config.training.epochs, config.training.optimizer.cycles)),
    )
    task = new_task(config, METHODS.get(config.method), context)
    loader = training_loader(
        config,
        train_set,
        len(data.train),
        inputs.generated,
        device,
        processes,
        task.autoaugmented_views,
    )
    test_accuracy = None
    if config.training.selection.track_test:
        test_accuracy = partial(clean_accuracy, images=data.test, device=device)
    return Trainer(
        config,
        task,
        model,
        loader,
        watched=watched,
        run=directory,
        device=device,
        test_accuracy=test_accuracy,
        teacher_logits=teacher_logits_fn(
            config, task, teacher, train_set, loader, reporter, processes
        ),
        processes=processes,
    )


def _note_larger_student(
    config: RunConfig, student: nn.Module, teacher: nn.Module, reporter: Reporter
) -> None:
    own, taught_by = (sum(p.numel() for p in model.parameters()) for model in (student, teacher))
    if own > taught_by:
        reporter.line(
            f"the student {config.model.arch} is larger than its teacher: {own:,} parameters "
            f"against {taught_by:,} in the teacher"
        )


def _splits(config: RunConfig, data: Dataset) -> tuple[ImageSource, ImageSource]:
    """The training images, and the images whose accuracy is monitored during training."""
    on_test = config.training.selection.rule == "best-on-test"
    if config.data.val_size:
        train_set, validation = split_validation(data.train, config.data.val_size, config.seed)
        return train_set, data.test if on_test else validation
    if config.training.selection.rule == "best-on-val":
        raise UserError("selection best-on-val needs held-out images: set data.val_size")
    return data.train, data.test
