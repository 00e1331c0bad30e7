"""Build the parts of a training run from its configuration: device, batches, network and task."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from harness.config import RunConfig
from harness.data.augment import Augmentation
from harness.data.autoaugment import with_views
from harness.data.base import DatasetInfo, ImageSource
from harness.data.cutmix import CutMixLoader
from harness.data.generated import MixedLoader, steps_with_generated
from harness.data.loader import Loader, make_loader
from harness.data.npz import NpzImages
from harness.distributed.group import SINGLE_PROCESS, ProcessGroup
from harness.errors import UserError
from harness.method import Method, Task, TaskContext
from harness.models import build_model
from harness.models.normalize import Normalized
from harness.seeding import derive_seed


def choose_device(name: str) -> torch.device:
    """The device with that name; ``auto`` is a GPU if one is available.

    A GPU with a number becomes the current device, so that events and seeds apply to it.

    Raises:
        UserError: the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Torch's other device types, such as mps and meta, lack operations that are needed here.
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:1")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"there is no device {name!r}: torch finds no GPU; use --device cpu")
    if device.type == "cuda" and device.index is not None:
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"there is no device {name!r}: torch finds {torch.cuda.device_count()} GPUs, "
                "numbered from 0"
            )
        torch.cuda.set_device(device)
    return device


def training_loader(
    config: RunConfig,
    split: ImageSource,
    originals: int,
    generated: NpzImages | None,
    device: torch.device,
    processes: ProcessGroup = SINGLE_PROCESS,
    views: int = 0,
) -> Loader:
    """The loader of original and generated images, with ``views`` additional views of each image.

    ``originals`` is the number of original images before a validation split: it sets the length of
    an epoch with generated images, as in released training code.

    Raises:
        UserError: the images cannot be augmented or mixed as configured.
    """
    data, batch_size = config.data, config.training.batch_size
    if data.crop_padding >= (size := split.info.image_size):
        raise UserError(
            f"data.crop_padding={data.crop_padding} is not less than the {size} pixels of an image "
            f"of {split.info.name}: give a smaller one"
        )
    augment = Augmentation(
        data.crop_padding, data.flip, data.crop_mode, data.rotation, data.autoaugment
    )
    if generated is not None:
        loader: Loader = MixedLoader(
            split,
            generated,
            batch_size,
            device,
            fraction=data.generated_fraction,
            steps=steps_with_generated(data, batch_size, originals),
            augment=augment,
            augment_generated=data.augment_generated,
        )
    else:
        loader = make_loader(
            split,
            batch_size,
            device,
            augment,
            drop_last=config.training.drop_last,
            workers=data.workers,
            processes=processes,
        )
    if not data.cutmix:
        return with_views(loader, split, views)
    if views:
        raise UserError(
            f"{config.method} compares views of an image, which CutMix would mix with other "
            "images: set data.cutmix=0"
        )
    return CutMixLoader(loader, split.info.num_classes, data.cutmix)


@contextmanager
def default_dtype(config: RunConfig) -> Iterator[None]:
    """Build networks inside in the run's precision.

    Random float32 numbers differ in the last bit between processors, random float64 ones do not.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(training_dtype(config))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def training_dtype(config: RunConfig) -> torch.dtype:
    """The type of weights and images in training."""
    return torch.float64 if config.training.precision == "float64" else torch.float32


def new_model(config: RunConfig, info: DatasetInfo) -> nn.Module:
    """Build a freshly initialised network, the same for the same seed."""
    with torch.random.fork_rng(devices=[]), default_dtype(config):
        torch.manual_seed(derive_seed(config.seed, "model"))
        model = build_model(config.model.arch, info.num_classes, info.channels, info.image_size)
    return Normalized(model, info.mean, info.std) if config.model.normalize else model


def new_task(config: RunConfig, method: Method, context: TaskContext) -> Task:
    """Build the method's task; its own networks are the same for the same seed."""
    params = method.params.model_validate(config.params)
    with torch.random.fork_rng(devices=[]), default_dtype(config):
        torch.manual_seed(derive_seed(config.seed, "task"))
        task = method.task(params, context)
    if context.teacher is not None and context.teacher in task.modules():
        raise RuntimeError(
            f"the task of {config.method} registers the teacher as a submodule: its weights would "
            "be in every checkpoint; read it from the context"
        )
    return task


def normalisation(config: RunConfig, info: DatasetInfo) -> dict[str, list[float]] | None:
    """The mean and standard deviation per channel that the saved model applies, if any."""
    if not config.model.normalize:
        return None
    return {"mean": list(info.mean), "std": list(info.std)}
