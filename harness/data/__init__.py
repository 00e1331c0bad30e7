"""Datasets by name; listing the names does not import torch, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.registry import Registry

if TYPE_CHECKING:
    from harness.data.base import Dataset as Dataset
    from harness.data.base import DatasetInfo, DatasetSource, OfficialSplit
    from harness.data.base import ImageSet as ImageSet

DATASETS: Registry[DatasetSource] = Registry(
    "dataset",
    targets={
        "digits": "harness.data.digits:DIGITS",
        "cifar10": "harness.data.cifar:CIFAR10",
        "cifar100": "harness.data.cifar:CIFAR100",
        "fashion-mnist": "harness.data.sets.fashion_mnist:FASHION_MNIST",
        "imagenet": "harness.data.imagenet:IMAGENET",
        "imagenet-robustbench": "harness.data.imagenet:IMAGENET_ROBUSTBENCH",
        "svhn": "harness.data.sets.svhn:SVHN",
        "tiny-imagenet": "harness.data.sets.tiny_imagenet:TINY_IMAGENET",
    },
    entry_points="harness.datasets",
    members=("info", "load"),
)


def __getattr__(name: str) -> Any:
    """Import a class of ``harness.data.base`` when it is first used."""
    if name in ("Dataset", "ImageSet"):
        from harness.data import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def dataset_source(name: str, root: Path | str | None = None) -> DatasetSource:
    """A registered dataset, or a user's own folder; see ``own_folder``.

    Raises:
        UserError: the name is unknown, or the folder does not exist.
    """
    if not name.startswith("folder:"):
        return DATASETS.get(name)
    from harness.data.own.folder import own_folder

    return own_folder(name, None if root is None else Path(root))


def dataset_info(name: str, root: Path | str | None = None) -> DatasetInfo:
    """The description of a dataset, without reading its images; ``UserError`` if it is unknown."""
    return dataset_source(name, root).info


def load_dataset(
    name: str,
    root: Path | str | None = None,
    train_limit: int | None = None,
    splits: Sequence[OfficialSplit] = ("train", "test"),
) -> Dataset:
    """Load splits of a dataset.

    Args:
        name: a name in ``DATASETS``, or a folder; see ``own_folder``.
        root: the data folder; by default the environment variable ``HARNESS_DATA``, else
            ``./data``.
        train_limit: number of training images to use; see ``limit_train``.
        splits: which splits to load.

    Raises:
        UserError: the name is unknown, or the data is missing, damaged or inconsistent.
    """
    from harness.data.base import Dataset, limit_train

    source = dataset_source(name, root)
    folder = None if root is None else Path(root)
    loaded = {split: source.load(folder, split) for split in splits}
    train = loaded.get("train")
    if train is not None and train_limit is not None:
        train = limit_train(train, train_limit)
    infos = {part.info for part in loaded.values()}
    if len(infos) > 1:
        train_names, test_names = (set(info.class_names) for info in infos)
        differing = ", ".join(sorted(train_names ^ test_names)[:5])
        raise UserError(
            f"the training and test folders of {name} have different class folders ({differing}): "
            "make them the same, since a label is the position of its folder"
        )
    return Dataset(infos.pop(), train, loaded.get("test"))
