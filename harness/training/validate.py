"""What a training must fulfil, asked before its first step."""

from __future__ import annotations

from collections.abc import Callable

from harness.config import RunConfig
from harness.data.loader import Loader
from harness.errors import UserError
from harness.method import Task
from harness.training.averaging import first_epoch


def validate_training(
    config: RunConfig, task: Task, loader: Loader, say: Callable[[str], None]
) -> None:
    """A task's demands on its batches, and those of the configuration on itself.

    ``say`` is told what may stand but may not be meant, as where a recipe was shortened.

    Raises:
        UserError: one is not met.
    """
    training, images = config.training, loader.smallest_batch
    if images < task.least_batch:
        raise UserError(
            f"{config.method} needs {task.least_batch} images in each batch, but the last one of "
            f"an epoch has {images}: set training.drop_last=true or another training.batch_size"
        )
    if task.remembers_images and config.data.generated_fraction:
        raise UserError(
            f"{config.method} remembers each training image, and generated images are none of "
            "them: set data.generated_fraction=0, or choose another method"
        )
    begins = first_epoch(training.averaging, training.epochs)
    if training.averaging.kind != "none" and begins > training.epochs:
        raise UserError(
            f"training.averaging begins with epoch {begins} of {training.epochs}, so that nothing "
            "would be averaged: lower training.averaging.start_epoch, or set "
            "training.averaging.kind=none"
        )
    perturbation = training.weight_perturbation
    if perturbation.gamma and perturbation.start_epoch > training.epochs:
        say(
            f"training.weight_perturbation begins with epoch {perturbation.start_epoch} of "
            f"{training.epochs}: no weight is perturbed"
        )
