"""Images in class folders, decoded on demand: ImageNet, and folders of the user's own."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
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
from harness.data.base import (
    DatasetInfo,
    DatasetSource,
    ImageSet,
    ImageSource,
    OfficialSplit,
    Split,
)
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

# A folder of the user's own by its place, or by its name, the size of its images and a hash.
FOLDER = "folder:"
MADE_NAME = re.compile(rf"{FOLDER}(?P<title>[^/\\]+)@(?P<size>\d+)-[0-9a-f]{{8}}")
# Images up to this size are decoded once, and cropped and flipped like those of CIFAR.
IN_MEMORY_SIZE = 64
# Images from which the size of a folder's images is read.
MEASURED_IMAGES = 16

Prepare = Callable[[Image.Image], Tensor]


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
        return self.decoded(indices, central_crop(self.info.image_size)).float() / 255

    def decoded(self, indices: Tensor, prepare: Prepare) -> Tensor:
        """Images at positions [B] after ``prepare``, uint8 [B, 3, S, S]."""
        # Pillow releases the GIL while it decodes and resizes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images = pool.map(lambda position: prepare(self.open_image(position)), indices.tolist())
            return torch.stack(list(images))

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
    names = class_folders(folder)
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


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders, in label order."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


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


@lru_cache
def central_crop(size: int) -> Prepare:
    """Resize the shorter side to 8/7 of ``size`` (256 for 224) and crop the centre."""
    v2 = _transforms()
    return _compose([v2.Resize(size * 8 // 7), v2.CenterCrop(size)])


@lru_cache
def fitted(size: int) -> Prepare:
    """Resize the shorter side to ``size`` and crop the centre; a square of that size stays."""
    v2 = _transforms()
    return _compose([v2.Resize(size), v2.CenterCrop(size)])


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


@dataclass(frozen=True)
class OwnFolder(DatasetSource):
    """A folder of the user's own, with class folders in ``train`` and in ``test`` or ``val``.

    Attributes:
        path: the folder.
        files: hash of the names and sizes of the files of each split that is there.
    """

    path: Path
    files: Mapping[str, str]


_opened: dict[str, OwnFolder] = {}


def own_folder(name: str, root: Path | None) -> OwnFolder:
    """The dataset in a folder of the user's own.

    Args:
        name: ``folder:PATH`` or ``folder:PATH@SIZE``; or the name of the dataset that was made of
            it, ``folder:TITLE@SIZE-HASH``, whose hash is that of its test files.
        root: of a PATH that is not found from here, the folder that it is relative to; of a TITLE
            the folder itself, or None if this process has opened it before.

    Raises:
        UserError: there is no such folder, it lacks test images, or they are not those of the name.
    """
    made = MADE_NAME.fullmatch(name)
    if made is None:
        return _open(*_place_and_size(name.removeprefix(FOLDER), root))
    if root is None:
        if name not in _opened:
            raise UserError(f"{name} is a folder of images: give its place by --data-root")
        return _opened[name]
    found = _open(root, int(made["size"]), made["title"])
    if found.info.name != name:
        raise UserError(
            f"the test images in {root} are not those of {name}: by the names and sizes of their "
            f"files they are {found.info.name}; give the right folder by --data-root"
        )
    return found


def _place_and_size(text: str, root: Path | None) -> tuple[Path, int | None]:
    """The folder and the size of ``PATH`` or ``PATH@SIZE``."""
    path, _, size = text.rpartition("@")
    if not (path and size.isdecimal() and int(size)):
        path, size = text, ""
    places = [Path(path).expanduser(), *([root / path] if root else [])]
    for place in places:
        if path and place.is_dir():
            return place.resolve(), int(size) if size else None
    raise UserError(f"there is no folder {' or '.join(map(str, places))} of images: check the path")


def _open(path: Path, size: int | None, title: str | None = None) -> OwnFolder:
    folders = {"train": path / "train", "test": path / "test"}
    if not folders["test"].is_dir():
        folders["test"] = path / "val"
    if not folders["test"].is_dir():
        raise UserError(
            f"{path} has neither a folder test nor val: put the class folders of the test images "
            f"there, and those of the training images in {folders['train']}"
        )
    title = f"{FOLDER}{title or path.name}"
    info = replace(INFO, name=title, num_classes=len(class_folders(folders["test"])))
    splits: Sequence[OfficialSplit] = ("train", "test")
    found = {
        split: open_folder(folders[split], info, split)
        for split in splits
        if folders[split].is_dir()
    }
    size = size or _usual_size(found["test"])
    info = replace(
        info,
        name=f"{title}@{size}-{found['test'].sha256[:8]}",
        image_size=size,
        default_eps=8 / 255 if size <= IN_MEMORY_SIZE else INFO.default_eps,
        max_train_size=len(found["train"]) if "train" in found else 0,
        max_test_size=len(found["test"]),
        small_scale=True,
    )

    def load(root: Path | None, split: OfficialSplit) -> ImageSource:
        if split not in found:
            raise UserError(f"{path} has no folder {split}, whose images are needed: add it")
        part = found[split]
        named = replace(info, class_names=part.info.class_names)
        part = replace(part, info=named, complete=True)
        return in_memory(part) if size <= IN_MEMORY_SIZE else part

    _opened[info.name] = OwnFolder(
        info, load, path, {split: part.sha256 for split, part in found.items()}
    )
    return _opened[info.name]


def _usual_size(images: FolderSet) -> int:
    """The median of the shorter sides of some images, at most ImageNet's 224."""
    positions = torch.linspace(0, len(images) - 1, min(len(images), MEASURED_IMAGES)).long()
    sides = sorted(min(images.open_image(position).size) for position in positions.tolist())
    return min(sides[len(sides) // 2], INFO.image_size)


def in_memory(images: FolderSet) -> ImageSet:
    """The images decoded, each resized and cropped at the centre without a border."""
    pixels = images.decoded(torch.arange(len(images)), fitted(images.info.image_size))
    return ImageSet(pixels, images.labels, images.info, images.split, images.rows, images.complete)
