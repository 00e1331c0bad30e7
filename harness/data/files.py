"""Find a dataset's files, and load a split from Parquet shards or torchvision's layout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.compat import import_torchvision
from harness.data.base import DatasetInfo, ImageSet, OfficialSplit
from harness.data.parquet import find_shards, read_shards
from harness.errors import UserError, first_line

ROOT_VARIABLE = "HARNESS_DATA"
_downloads = ContextVar("downloads", default=True)


@dataclass(frozen=True)
class TorchvisionLayout:
    """Where torchvision keeps a dataset.

    Attributes:
        class_name: the class in ``torchvision.datasets``.
        folder: the folder it reads, relative to the root.
        split: whether the class takes ``split`` instead of ``train``, keeps its files directly in
            its ``root``, and stores images as [N, K, H, W] with ``labels``.
    """

    class_name: str
    folder: str
    split: bool = False


def find_root(root: Path | None) -> Path:
    """The data folder: ``root``, else the environment variable ``HARNESS_DATA``, else ``./data``.

    Raises:
        UserError: the given folder does not exist.
    """
    if root is not None:
        if not root.is_dir():
            raise UserError(f"the data root {root} is not a folder: create it or name another one")
        return root
    variable = os.environ.get(ROOT_VARIABLE)
    if variable and not Path(variable).is_dir():
        raise UserError(
            f"{ROOT_VARIABLE}={variable} is not a folder: create it or name another one"
        )
    return Path(variable or "data")


@contextmanager
def without_downloads() -> Iterator[None]:
    """Refuse missing files instead of downloading them."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def load_files(
    info: DatasetInfo, layout: TorchvisionLayout, root: Path | None, split: OfficialSplit
) -> ImageSet:
    """Load a split from Parquet shards in ``root/<name>`` or ``root``, else with torchvision.

    If its files are missing, torchvision downloads the dataset into the root; see
    ``without_downloads``.

    Raises:
        UserError: the files are missing and not downloaded, or they are damaged.
    """
    base = find_root(root)
    for folder in (base / info.name, base):
        if shards := find_shards(folder):
            if split not in shards:
                raise UserError(
                    f"{folder} holds Parquet shards of {info.name} but none named "
                    f"{split}-*-of-*.parquet: add them"
                )
            return read_shards(shards[split], info, split)
    return _read_torchvision(info, layout, base, split)


def _read_torchvision(
    info: DatasetInfo, layout: TorchvisionLayout, root: Path, split: OfficialSplit
) -> ImageSet:
    dataset_class = getattr(import_torchvision("torchvision.datasets"), layout.class_name)
    folder = root / layout.folder
    # A download that failed leaves an empty folder.
    found = folder.is_dir() and any(folder.iterdir())
    put = (
        f"put its Parquet shards in {root / info.name} or torchvision's {layout.folder} in {root}, "
        f"or name another data root, for example with {ROOT_VARIABLE}"
    )
    if not (found or _downloads.get()):
        raise UserError(f"{info.name} is not in {root}: {put}")
    try:
        stored = (
            dataset_class(root=folder, split=split, download=not found)
            if layout.split
            else dataset_class(root=root, train=split == "train", download=not found)
        )
    except (OSError, RuntimeError, ValueError, EOFError, AssertionError) as error:
        if found:
            raise UserError(
                f"{folder} is damaged or incomplete ({first_line(error)}): delete it to have "
                f"{info.name} downloaded again"
            ) from error
        raise UserError(
            f"{info.name} is not in {root} and cannot be downloaded ({first_line(error)}): {put}"
        ) from error
    pixels = np.asarray(stored.data)
    if not layout.split:
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return ImageSet(
        torch.from_numpy(np.ascontiguousarray(pixels)),
        torch.as_tensor(stored.labels if layout.split else stored.targets, dtype=torch.int64),
        info,
        split,
        complete=len(pixels) == info.official_size(split),
    )
