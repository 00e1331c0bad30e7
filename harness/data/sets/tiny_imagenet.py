"""Tiny-ImageNet: 64 by 64 colour images of 200 of ImageNet's classes, in their original folders.

Source: Y. Le and X. Yang, Tiny ImageNet Visual Recognition Challenge, 2015. Its validation images
are the test split, since labels of its test images are not published.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from harness.data.base import DatasetInfo, DatasetSource, ImageSet, OfficialSplit, decode_image
from harness.data.files import find_root
from harness.errors import UserError

INFO = DatasetInfo(
    name="tiny-imagenet",
    num_classes=200,
    channels=3,
    image_size=64,
    class_names=(),
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2770, 0.2691, 0.2821),
    default_eps=8 / 255,
    max_train_size=100_000,
    max_test_size=10_000,
)
FOLDER = "tiny-imagenet-200"
ANNOTATIONS = "val_annotations.txt"
ENDING = ".JPEG"

Listed = list[tuple[Path, int]]


def load(root: Path | None, split: OfficialSplit) -> ImageSet:
    """Load a split from ``root/tiny-imagenet-200`` or ``root``, decoded into memory.

    Validation images are in ``val/images``, labelled by ``val/val_annotations.txt`` as in the
    archive, or in a folder for each class. Either way they are sorted by number.

    Raises:
        UserError: folders, files or labels are missing, or an image is damaged.
    """
    base = find_root(root)
    folder = next((each for each in (base / FOLDER, base) if (each / "train").is_dir()), None)
    if folder is None:
        raise UserError(
            f"{INFO.name} is not in {base}: unpack {FOLDER}.zip there, or name another data root"
        )
    classes = sorted(entry.name for entry in os.scandir(folder / "train") if entry.is_dir())
    if len(classes) != INFO.num_classes:
        raise UserError(
            f"{folder / 'train'} has {len(classes)} class folders, not {INFO.num_classes}: unpack "
            f"{FOLDER}.zip again"
        )
    if split == "train":
        listed = _in_class_folders(folder / "train", classes)
    else:
        listed = _validation(folder / "val", classes)
    return ImageSet(
        torch.from_numpy(_decoded([path for path, _ in listed])),
        torch.tensor([label for _, label in listed]),
        replace(INFO, class_names=tuple(classes)),
        split,
        complete=len(listed) == INFO.official_size(split),
    )


def _validation(folder: Path, classes: Sequence[str]) -> Listed:
    annotations = folder / ANNOTATIONS
    if annotations.is_file() and (folder / "images").is_dir():
        label = {name: number for number, name in enumerate(classes)}
        try:
            rows = [line.split("\t")[:2] for line in annotations.read_text("utf-8").splitlines()]
            found = [(folder / "images" / name, label[wnid]) for name, wnid in rows]
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{annotations} is damaged ({error}): unpack {FOLDER}.zip again"
            ) from error
    else:
        found = _in_class_folders(folder, classes)
    return sorted(found, key=lambda each: (len(each[0].name), each[0].name))


def _in_class_folders(folder: Path, classes: Sequence[str]) -> Listed:
    found: Listed = []
    for label, name in enumerate(classes):
        home = folder / name / "images" if (folder / name / "images").is_dir() else folder / name
        images = sorted(home.glob(f"*{ENDING}"))
        if not images:
            raise UserError(f"{home} has no {ENDING} images: unpack {FOLDER}.zip again")
        found += [(image, label) for image in images]
    return found


def _decoded(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Decode images to [N, 3, 64, 64]; grey ones become colour."""
    pixels = np.empty((len(paths), INFO.channels, INFO.image_size, INFO.image_size), np.uint8)

    def read(number: int) -> None:
        try:
            image = decode_image(paths[number], "RGB", INFO.image_size)
        except ValueError as error:
            raise UserError(
                f"{paths[number]} is not a readable image ({error}): unpack {FOLDER}.zip again"
            ) from error
        pixels[number] = np.asarray(image).transpose(2, 0, 1)

    # Pillow releases the GIL while it decodes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(read, range(len(paths)), chunksize=256):
            pass
    return pixels


TINY_IMAGENET = DatasetSource(INFO, load)
