"""Images in class folders, decoded on demand, and ImageNet in that layout."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections import Counter
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
from harness.data.base import (
    DatasetInfo,
    DatasetSource,
    ImageSource,
    OfficialSplit,
    Preparation,
    Split,
    decode_image,
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

ROBUSTBENCH = replace(INFO, name="imagenet-robustbench", max_test_size=5000, part_of="imagenet")

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Number of names that a message lists.
NAMED = 5
# Seed of the order of the test images.
TEST_ORDER_SEED = 0

Prepare = Callable[[Image.Image], Tensor]


@dataclass(eq=False)
class FolderSet(ImageSource):
    """One split in a folder with a subfolder for each class; labels follow the sorted names.

    Attributes:
        folder: the folder that holds the class folders.
        info: the dataset's description, with the folders' names as class names.
        split: which split it is.
        files: paths [N] relative to ``folder``, as bytes in the file system's encoding.
        labels: int64 [N].
        rows: positions [N] in the sorted list of all files.
        complete, notes: see ``ImageSource``.
    """

    folder: Path
    info: DatasetInfo
    split: Split
    files: NDArray[np.bytes_]
    labels: Tensor
    rows: Tensor
    complete: bool
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over each file's relative path and size, in order, without reading the files.

        A preparation other than the usual one is included.
        """
        digest = hashlib.sha256()
        if self.info.preparation is not None:
            digest.update(repr(self.info.preparation).encode())
        for name in self.files:
            path = os.fsdecode(name)
            digest.update(f"{path}\0{_size(self.folder / path)}\0".encode())
        return digest.hexdigest()

    def images_float(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Prepared images at positions [B] (default all), in [0, 1]."""
        if isinstance(indices, slice):
            indices = torch.arange(len(self))[indices]
        size = self.info.image_size
        usual = Preparation(size, size * 8 // 7)
        return self.decoded(indices, central_crop(self.info.preparation or usual)).float() / 255

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
            return decode_image(path, "RGB")
        except ValueError as error:
            raise UserError(f"{path} is not a readable image ({error}): replace it") from error

    def prepared(self, preparation: Preparation | None) -> Self:
        """The same images with another preparation."""
        return replace(self, info=self.info.prepared(preparation))

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
    order, so that its first images, which a limit selects, come from many classes.

    Raises:
        UserError: class folders are missing or empty, which would shift the labels.
    """
    names = class_folders(folder)
    if not names:
        raise UserError(f"{folder} has no class folders: put each class's images in its own folder")
    if len(names) != info.num_classes:
        raise UserError(
            f"{folder} has {len(names)} class folders: {info.name} needs all {info.num_classes}, "
            f"since a label is the position of its folder{_unusual(folder, names)}"
        )
    files: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for label, name in enumerate(names):
        found = _visible(folder / name)
        images = [file for file in found if file.lower().endswith(SUFFIXES)]
        if not images:
            raise UserError(
                f"{folder / name} has no images ({', '.join(SUFFIXES)}): add that class's images"
            )
        files += (f"{name}/{image}" for image in images)
        labels += [label] * len(images)
        others += (f"{name}/{file}" for file in found if not file.lower().endswith(SUFFIXES))
    return _in_order(
        FolderSet(
            folder,
            replace(info, class_names=tuple(names)),
            split,
            np.array([os.fsencode(file) for file in files]),
            torch.tensor(labels),
            torch.arange(len(files)),
            complete=len(files) == info.official_size(split),
            notes=(_left_out(folder, others),) if others else (),
        )
    )


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders in ``folder``, in label order."""
    return [name for name in _visible(folder) if (folder / name).is_dir()]


def _visible(folder: Path) -> list[str]:
    """The sorted names in a folder without hidden ones, which start with a dot."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}): change its permissions"
        ) from error


def _size(path: Path) -> int:
    """The size of a file in bytes; ``UserError`` if it cannot be read, such as a broken link."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): replace it") from error


def _in_order(found: FolderSet) -> FolderSet:
    """A test split in its fixed random order; a training split as it is."""
    if found.split == "train":
        return found
    generator = torch.Generator().manual_seed(TEST_ORDER_SEED)
    return found.take(torch.randperm(len(found), generator=generator), complete=found.complete)


def _left_out(folder: Path, others: Sequence[str]) -> str:
    return f"{len(others)} files in {folder} are not images and are left out: {_listed(others)}"


def _unusual(folder: Path, names: Sequence[str]) -> str:
    """The folders that are probably superfluous or missing, as the end of a sentence."""
    shapes = {name: re.sub(r"\d", "0", name) for name in names}
    (usual, count), *_ = Counter(shapes.values()).most_common(1) or [("", 0)]
    odd = [name for name in names if shapes[name] != usual] if 2 * count > len(names) else []
    other = folder.with_name("val" if folder.name == "train" else "train")
    beside = set(class_folders(other)) if other.is_dir() else set()
    missing = sorted(beside - set(names))
    return (f"; unlike the others: {_listed(odd)}" if odd else "") + (
        f"; in {other} but not here: {_listed(missing)}" if missing else ""
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


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


def load_robustbench(root: Path | None, split: OfficialSplit) -> FolderSet:
    """Load ImageNet with the 5,000 test images that RobustBench evaluates on.

    Raises:
        UserError: see ``load``; or RobustBench, which has the list of these images, is not
            installed, or an image is missing.
    """
    whole = load(root, split)
    found = replace(whole, info=replace(ROBUSTBENCH, class_names=whole.info.class_names))
    if split == "train":
        return found
    position = {os.fsdecode(name): number for number, name in enumerate(whole.files)}
    listed = robustbench_images()
    missing = [name for name in listed if name not in position]
    if missing:
        raise UserError(
            f"{whole.folder} lacks {len(missing)} of RobustBench's {len(listed)} images: add "
            f"{_listed(missing)}"
        )
    chosen = sorted(position[name] for name in listed)
    return found.take(torch.tensor(chosen), complete=len(chosen) == ROBUSTBENCH.max_test_size)


def robustbench_images() -> list[str]:
    """RobustBench's test images, such as ``n01440764/ILSVRC2012_val_00000293.JPEG``.

    Raises:
        UserError: RobustBench is not installed.
    """
    # ``find_spec`` does not import the package, which would need the work-arounds in
    # ``harness.compat``.
    package = importlib.util.find_spec("robustbench")
    if package is None or package.origin is None:
        raise UserError(
            "the list of RobustBench's images comes with robustbench, which is not installed: "
            'pip install "divergence-bench[zoo]"'
        )
    listed = Path(package.origin).parent / "helper_files" / "imagenet_test_image_ids.txt"
    return listed.read_text(encoding="utf-8").split()


@lru_cache
def central_crop(preparation: Preparation) -> Prepare:
    """Resize and crop at the centre."""
    v2, side = _transforms(), preparation.resize
    crop = v2.CenterCrop(preparation.size)
    if side is None:
        return _compose([crop])
    mode = v2.InterpolationMode(preparation.interpolation)
    return _compose([v2.Resize([side, side] if preparation.squash else side, mode), crop])


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
IMAGENET_ROBUSTBENCH = DatasetSource(ROBUSTBENCH, load_robustbench)
