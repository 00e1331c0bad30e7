"""Users' own folders, as ``folder:PATH``: class folders of images of any size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from harness.data.base import DatasetSource, ImageSet, ImageSource, OfficialSplit, Preparation
from harness.data.imagenet import INFO, FolderSet, central_crop, class_folders, open_folder
from harness.errors import UserError

# The prefix of a folder's path, and the resulting name: title, size of the images and hash.
FOLDER = "folder:"
MADE_NAME = re.compile(rf"{FOLDER}(?P<title>[^/\\]+)@(?P<size>\d+)-[0-9a-f]{{8}}")
# Images up to this size are decoded once, and cropped and flipped like those of CIFAR.
IN_MEMORY_SIZE = 64
# Number of images from which the size of a folder's images is determined.
MEASURED_IMAGES = 16


@dataclass(frozen=True)
class OwnFolder(DatasetSource):
    """A user's own folder, with class folders in ``train`` and in ``test`` or ``val``.

    Attributes:
        path: the folder.
        files: each split that exists to the hash of the names and sizes of its files.
    """

    path: Path
    files: Mapping[str, str]


_opened: dict[str, OwnFolder] = {}


def own_folder(name: str, root: Path | None) -> OwnFolder:
    """The dataset in a user's own folder.

    Args:
        name: ``folder:PATH`` or ``folder:PATH@SIZE``; or the name of the resulting dataset,
            ``folder:TITLE@SIZE-HASH``, whose hash is that of its test files.
        root: for a PATH that does not exist from the working directory, the folder it is relative
            to; for a TITLE the folder itself, or None if this process has opened it before.

    Raises:
        UserError: the folder does not exist, has no test images or only one class, or its test
            images are not those of the name.
    """
    made = MADE_NAME.fullmatch(name)
    if made is None:
        return _open(*_place_and_size(name.removeprefix(FOLDER), root))
    if root is None:
        if name not in _opened:
            raise UserError(f"{name} is a folder of images: give its path with --data-root")
        return _opened[name]
    found = _open(root, int(made["size"]), made["title"])
    if found.info.name != name:
        raise UserError(
            f"the test images in {root} are not those of {name}: the names and sizes of their "
            f"files are those of {found.info.name}; give the right folder with --data-root"
        )
    return found


def _place_and_size(text: str, root: Path | None) -> tuple[Path, int | None]:
    """The folder and the size of ``PATH`` or ``PATH@SIZE``."""
    path, _, size = text.rpartition("@")
    # The name of a folder may end like a size.
    named: list[tuple[str, int | None]] = [(text, None)]
    if path and size.isdecimal() and int(size):
        named.append((path, int(size)))
    for path, pixels in named:
        places = [Path(path).expanduser(), *([root / path] if root else [])]
        for place in places:
            if path and place.is_dir():
                return place.resolve(), pixels
    raise UserError(f"there is no image folder {' or '.join(map(str, places))}: check the path")


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
    classes = class_folders(folders["test"])
    if len(classes) == 1:
        raise UserError(
            f"{folders['test']} has one class folder, {classes[0]}, and nothing to tell apart: "
            "put the images of at least two classes there"
        )
    info = replace(INFO, name=title, num_classes=len(classes))
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
            raise UserError(f"{path} has no folder {split}, but its images are needed: add it")
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
    """Decode all images, each resized and cropped at the centre without a border."""
    size = images.info.image_size
    pixels = images.decoded(torch.arange(len(images)), central_crop(Preparation(size, size)))
    found = ImageSet(pixels, images.labels, images.info, images.split, images.rows, images.complete)
    found.notes = images.notes
    return found
