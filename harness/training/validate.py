"""Check a training run: its settings before the first step, its losses and weights during it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.config import RunConfig
from harness.data.loader import Loader
from harness.errors import UserError
from harness.method import Task
from harness.models.features import FeatureNetwork
from harness.training.averaging import first_epoch

# Number of steps between reads of the loss from a GPU, since each read stalls it. The first bad
# step is recorded on the device, so the error still names it exactly.
CHECK_EVERY = 50


def validate_training(
    config: RunConfig, model: nn.Module, task: Task, loader: Loader, notify: Callable[[str], None]
) -> None:
    """Check the settings, and the requirements of the networks and the task on their batches.

    ``notify`` receives a message if weight perturbation would start after the last epoch, as in a
    shortened recipe.

    Raises:
        UserError: a requirement is not met.
    """
    training, images = config.training, loader.smallest_batch
    if images < task.least_batch:
        raise UserError(
            f"{config.method} needs {task.least_batch} images in each batch, but the last one of "
            f"an epoch has {images}: set training.drop_last=true or another training.batch_size"
        )
    _check_smallest_part(config, model, task, images)
    _check_remembered_images(config, task)
    _check_attack(config, task)
    begins = first_epoch(training.averaging, training.epochs)
    if training.averaging.kind != "none" and begins > training.epochs:
        raise UserError(
            f"training.averaging begins with epoch {begins} of {training.epochs}, so nothing would "
            "be averaged: lower training.averaging.start_epoch, or set training.averaging.kind=none"
        )
    perturbation = training.weight_perturbation
    if perturbation.gamma and perturbation.start_epoch > training.epochs:
        notify(
            f"training.weight_perturbation would begin with epoch {perturbation.start_epoch} of "
            f"{training.epochs}: no weight is perturbed"
        )


def _check_remembered_images(config: RunConfig, task: Task) -> None:
    if task.remembers_images and config.data.generated_fraction:
        raise UserError(
            f"{config.method} keeps state for each training image, which generated images cannot "
            "have: set data.generated_fraction=0 and data.generated_name=null, or choose another "
            "method"
        )
    if task.remembers_images and config.data.cutmix:
        raise UserError(
            f"{config.method} keeps state for each training image, which CutMix would mix with "
            "other images: set data.cutmix=0, or choose another method"
        )


def _check_attack(config: RunConfig, task: Task) -> None:
    # Other methods may have an attack, with which their robust accuracy is monitored.
    attacks = type(task).attack_objective is not Task.attack_objective
    if attacks and config.training.attack is None:
        raise UserError(
            f"{config.method} trains on adversarial images, but training.attack is null: leave "
            "that setting out, or choose another method"
        )


def _check_smallest_part(config: RunConfig, model: nn.Module, task: Task, images: int) -> None:
    """Check that BatchNorm gets several values per channel, even in the smallest part of a batch.

    Only the trained network's batches are split into parts; a task's own networks get whole ones.
    """
    replicas = config.training.batchnorm_replicas
    parts = torch.arange(images).chunk(replicas)
    own = [network for network in task.children() if isinstance(network, FeatureNetwork)]
    for network, count in ((model, len(parts[-1])), *((network, images) for network in own)):
        if count == 1 and not _trains_on_one_image(network, task):
            split = f", {images} in {len(parts)} parts," if replicas > 1 else ""
            raise UserError(
                f"the last batch of an epoch{split} leaves one image to a BatchNorm of "
                f"{type(network).__name__}, which needs several values per channel: set "
                "training.drop_last=true or another training.batch_size"
            )


def _trains_on_one_image(network: nn.Module, task: Task) -> bool:
    weight = next(network.parameters())
    size = task.context.image_size
    image = weight.new_zeros(1, task.context.in_channels, size, size)
    try:
        with torch.no_grad():
            copy.deepcopy(network).train()(image)
    except ValueError:  # raised by torch's BatchNorm
        return False
    return True


class NonFiniteGuard:
    """Finds the first step of an epoch with a loss that is not finite."""

    def __init__(self, device: torch.device, epoch: int) -> None:
        """Check the steps of ``epoch``."""
        self._epoch = epoch
        self._every = CHECK_EVERY if device.type == "cuda" else 1
        self._first_bad = torch.zeros((), dtype=torch.int64, device=device)

    def check(self, step: int, loss: Tensor) -> None:
        """Check a step's loss; on a GPU the error may be raised some steps later."""
        bad = ~torch.isfinite(loss.detach()) & (self._first_bad == 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        if step % self._every == 0:
            self._raise_if_bad()

    def check_model(self, model: nn.Module) -> None:
        """Check all losses so far and all weights, before an epoch's weights are saved."""
        self._raise_if_bad()
        for name, tensor in model.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise self._diverged(f"{name} is not finite after epoch {self._epoch}")

    def _raise_if_bad(self) -> None:
        step = int(self._first_bad)
        if (step, self._epoch) == (1, 1):
            raise UserError(
                "the loss is not finite at the first step, before any update: check the formula of "
                "the method and its params"
            )
        if step:
            raise self._diverged(f"the loss is not finite at epoch {self._epoch}, step {step}")

    @staticmethod
    def _diverged(what: str) -> UserError:
        return UserError(f"training diverged: {what}: try a lower training.optimizer.lr")
