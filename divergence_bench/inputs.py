"""Convert images and models passed to the Python API into what the engine takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.data import load_dataset
from harness.data.base import Dataset, DatasetInfo, ImageSet
from harness.errors import UserError, first_line
from harness.models.external.probe import (
    FunctionModel,
    check_model,
    class_name,
    device_of,
    evaluating,
    unregistered_modules,
)
from harness.models.normalize import Normalized, Statistics, statistics_of


def test_images(data: Any, model: nn.Module | None, root: Path | None) -> Dataset:
    """Return a dataset with the test split that ``data`` names or holds.

    Args:
        data: a name, a ``Dataset``, a pair (images, labels), or a ``torch.utils.data.Dataset``.
        model: gives the number of classes if ``data`` does not.
        root: folder that holds the datasets.

    Raises:
        UserError: ``data`` is none of these, or its images or labels are invalid.
    """
    if isinstance(data, str):
        return load_dataset(data, root, splits=("test",))
    if isinstance(data, Dataset):
        return data
    if isinstance(data, tuple | list) and len(data) == 2:
        return images_and_labels(data[0], data[1], model)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, dict):
        pairs = [data[position] for position in range(len(data))]
        try:
            images = torch.stack([_image(image) for image, _ in pairs])
            labels = [int(label) for _, label in pairs]
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the {type(data).__name__} does not hold pairs of an image and its class, all "
                f"images of one size ({first_line(error)}): make it do so"
            ) from error
        return images_and_labels(images, labels, model)
    raise UserError(
        f"data is a {type(data).__name__}: give the name of a dataset, (images, labels), or a "
        "torch.utils.data.Dataset"
    )


def images_and_labels(images: Any, labels: Any, model: nn.Module | None) -> Dataset:
    """Return test images and labels as a dataset, named after their hash.

    Args:
        images: [N, K, S, S], or [N, S, S] for one channel; uint8 in 0..255 or floats in [0, 1].
        labels: [N], integers in [0, C).
        model: maps images to C logits; if None, C is one more than the largest label.
    """
    x, y = _tensor(images, "images"), _tensor(labels, "labels")
    x = x[:, None] if x.ndim == 3 else x
    if x.is_floating_point():
        x = x.float()
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.shape[2] != x.shape[3]:
        raise UserError(
            f"images have shape {list(x.shape)}: give square images as [N, channels, size, size] "
            "with 1 or 3 channels"
        )
    if y.is_floating_point() or y.ndim != 1:
        raise UserError(
            f"labels are {y.dtype} of shape {list(y.shape)}: give one integer class per image"
        )
    if not len(x) or len(x) != len(y):
        raise UserError(
            f"there are {len(x)} images and {len(y)} labels: give one label per image, and at "
            "least one image"
        )
    channels, size = x.shape[1], x.shape[2]
    if model is None:
        classes = int(y.max()) + 1
    else:
        grey = torch.full((1, channels, size, size), 0.5, device=device_of(model))
        classes = _classes(model, grey)
    info = DatasetInfo(
        name="images",
        num_classes=classes,
        channels=channels,
        image_size=size,
        class_names=(),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        default_eps=8 / 255,
        max_train_size=0,
        max_test_size=len(x),
        small_scale=True,
    )
    found = ImageSet(x, y.long(), info, "test")
    found.info = replace(info, name=f"images-{found.sha256[:8]}")
    return Dataset(found.info, test=found)


def as_module(model: nn.Module | Callable[[Tensor], Tensor]) -> nn.Module:
    """Return the model as a module; a function is wrapped together with the networks it calls.

    Raises:
        UserError: the model is neither.
    """
    if isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise UserError(
            f"the model is of type {type(model).__name__}: give an nn.Module, or a function from "
            "images to logits"
        )
    return FunctionModel(model)


def check_batch(images: Any, labels: Any, batch_size: Any) -> None:
    """Check a batch of images and labels to attack.

    Raises:
        UserError: they are not float images [B, K, H, W] in [0, 1] with integer labels [B], or the
            batch size is neither None nor a positive integer.
    """
    for what, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise UserError(f"{what} are of type {type(value).__name__}: give a tensor")
    if not images.is_floating_point() or images.ndim != 4 or not len(images):
        raise UserError(
            f"images are {images.dtype} of shape {list(images.shape)}: give at least one, as "
            "floats [B, K, H, W] in [0, 1]"
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise UserError("images have values that are not in [0, 1]: scale them to it")
    if labels.is_floating_point() or labels.shape != images.shape[:1]:
        raise UserError(
            f"labels are {labels.dtype} of shape {list(labels.shape)}: give {len(images)} "
            "integers, one class per image"
        )
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size > 0):
        raise UserError(f"batch_size is {batch_size!r}: give an integer from 1 on")


def classes_of(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Return the model's number of classes; a function's networks become its members.

    Raises:
        UserError: the model cannot take the images [B, K, H, W], or a label [B] is not one of its
            classes.
    """
    classes = _classes(model, images[:1])
    if not (labels.min() >= 0 and labels.max() < classes):
        raise UserError(
            f"labels are from {int(labels.min())} to {int(labels.max())}, but the model has "
            f"{classes} classes: give labels from 0 to {classes - 1}"
        )
    return classes


def probed(
    module: nn.Module, info: DatasetInfo, normalize: str | Statistics | None, name: str | None
) -> tuple[nn.Module, dict[str, Any]]:
    """Check a module; return it with its normalisation in front, and facts about it.

    Raises:
        UserError: the module cannot be evaluated; see ``check_model``.
    """
    described = class_name(module)
    if isinstance(module, FunctionModel):
        module.adopt_members(info, described)
    where = device_of(module)
    notes = check_model(module, info, described)
    statistics = statistics_of(normalize, info)
    network = Normalized(module, *statistics) if statistics else module
    called = {"source": name or described, "model_name": name or described, "arch": described}
    parts = statistics and {"mean": statistics[0], "std": statistics[1]}
    return network.to(where), {**called, "normalize": parts, "notes": notes}


def _tensor(values: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(values).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the {what} cannot be made a tensor ({first_line(error)}): give an array or a tensor"
        ) from error


def _classes(model: nn.Module, image: Tensor) -> int:
    try:
        with torch.no_grad(), evaluating(model), unregistered_modules(model) as found:
            logits = model(image.clone())
    except Exception as error:  # a user's network may raise anything
        raise UserError(
            f"the model cannot take images of {'x'.join(map(str, image.shape[1:]))} "
            f"({first_line(error)}): give images of the size it was trained on"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UserError("the model does not return logits [B, C]: wrap it so that it does")
    if isinstance(model, FunctionModel):
        model.members.extend(found)
    return logits.shape[1]


def _image(image: Any) -> Tensor:
    """Return an image of a dataset as [K, S, S]; Pillow images become uint8."""
    if isinstance(image, Tensor):
        return image
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)
