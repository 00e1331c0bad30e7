"""Images in class folders, decoded on demand, and ImageNet in that layout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from harness.compat import import_torchvision
from harness.data.base import DatasetInfo, DatasetSource, ImageSource, OfficialSplit, Split
from harness.data.files import find_root
from harness.errors import UserError

INFO = DatasetInfo(
    name="imagenet",
    num_classes=1000,
    channels=3,
    image_size=224,
    class_names=(),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    default_eps=4 / 255,
    max_train_size=1_281_167,
    max_test_size=50_000,
)

SUFFIXES = (".jpeg", ".jpg", ".png")
# Seed of the order of the test images.
TEST_ORDER_SEED = 0


@dataclass(eq=False)
class FolderSet(ImageSource):
    """One split in a folder with a subfolder of images for each class, in label order by name.

    Attributes:
        folder: the folder that holds the class folders.
        info: the dataset's description, with the folders' names as class names.
        split: which split it is.
        files: paths [N] relative to ``folder``, as bytes in the file system's encoding.
        labels: int64 [N].
        rows: positions [N] in the sorted list of all files.
        complete: see ``ImageSource``.
    """

    folder: Path
    info: DatasetInfo
    split: Split
    files: NDArray[np.bytes_]
    labels: Tensor
    rows: Tensor
    complete: bool

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over each file's relative path and size, in order, without reading the files."""
        digest = hashlib.sha256()
        for name in self.files:
            path = os.fsdecode(name)
            digest.update(f"{path}\0{(self.folder / path).stat().st_size}\0".encode())
        return digest.hexdigest()

    def images_float(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Images at positions [B] (default all), resized and cropped at the centre, in [0, 1]."""
        if isinstance(indices, slice):
            indices = torch.arange(len(self))[indices]
        prepare = central_crop(self.info.image_size)
        # Pillow releases the GIL while it decodes and resizes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images = pool.map(lambda position: prepare(self.open_image(position)), indices.tolist())
            return torch.stack(list(images)).float() / 255

    def training_image(self, position: int, flip: bool, seed: int) -> Tensor:
        """A random crop of one image, mirrored at random if ``flip``: uint8 [3, S, S]."""
        # The transforms use torch's global CPU generator, which is restored afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return random_crop_resized(self.info.image_size, flip)(self.open_image(position))

    def open_image(self, position: int) -> Image.Image:
        """Read one image as RGB.

        Raises:
            UserError: the file cannot be decoded; the message names it.
        """
        path = self.folder / os.fsdecode(self.files[position])
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{path} is not a readable image ({error}): replace it") from error

    def take(self, positions: Tensor, *, complete: bool, split: Split | None = None) -> Self:
        """The images at those positions, in that order."""
        return replace(
            self,
            split=split or self.split,
            files=self.files[positions.numpy()],
            labels=self.labels[positions],
            rows=self.rows[positions],
            complete=complete,
        )


def open_folder(folder: Path, info: DatasetInfo, split: OfficialSplit) -> FolderSet:
    """The images under ``folder``, which must have one subfolder for each class.

    A training split is in the order of the files, class by class. A test split is in a fixed random
    order, so that its first images, as a limit takes them, are of many classes.

    Raises:
        UserError: class folders are missing or empty, which would shift the labels.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if len(names) != info.num_classes:
        raise UserError(
            f"{folder} has {len(names)} class folders: {info.name} needs all {info.num_classes}, "
            "since labels are their positions"
        )
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        images = sorted(f for f in os.listdir(folder / name) if f.lower().endswith(SUFFIXES))
        if not images:
            raise UserError(
                f"{folder / name} has no images ({', '.join(SUFFIXES)}): add that class's images"
            )
        files += (f"{name}/{image}" for image in images)
        labels += [label] * len(images)
    found = FolderSet(
        folder,
        replace(info, class_names=tuple(names)),
        split,
        np.array([os.fsencode(file) for file in files]),
        torch.tensor(labels),
        torch.arange(len(files)),
        complete=len(files) == info.official_size(split),
    )
    if split == "train":
        return found
    generator = torch.Generator().manual_seed(TEST_ORDER_SEED)
    return found.take(torch.randperm(len(found), generator=generator), complete=found.complete)


def load(root: Path | None, split: OfficialSplit) -> FolderSet:
    """Load a split from ``root/imagenet/{train,val}`` or ``root/{train,val}``.

    Raises:
        UserError: neither folder exists, or it does not have a thousand class folders.
    """
    base = find_root(root)
    part = "train" if split == "train" else "val"
    for folder in (base / INFO.name / part, base / part):
        if folder.is_dir():
            return open_folder(folder, INFO, split)
    raise UserError(
        f"{INFO.name} is not in {base}: put its class folders in {base / INFO.name / part} "
        "or name another data root"
    )


Prepare = Callable[[Image.Image], Tensor]


@lru_cache
def central_crop(size: int) -> Prepare:
    """Resize the shorter side to 8/7 of ``size`` (256 for 224) and crop the centre."""
    v2 = _transforms()
    return _compose([v2.Resize(size * 8 // 7), v2.CenterCrop(size)])


@lru_cache
def random_crop_resized(size: int, flip: bool) -> Prepare:
    """Resize a random crop of 8 to 100 percent of the area to ``size``; mirror it at random."""
    v2 = _transforms()
    return _compose([v2.RandomResizedCrop(size), *([v2.RandomHorizontalFlip()] if flip else [])])


def _compose(steps: Sequence[object]) -> Prepare:
    v2 = _transforms()
    return cast(Prepare, v2.Compose([*steps, v2.PILToTensor()]))


def _transforms() -> ModuleType:
    return import_torchvision("torchvision.transforms.v2")


IMAGENET = DatasetSource(INFO, load)
