"""Datasets: descriptions, splits and their checks, and image decoding."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal, Self, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from harness.errors import UserError

OfficialSplit = Literal["train", "test"]
Split = Literal["train", "val", "test"]

# Without this list Pillow tries all its forty plug-ins, which doubles the decoding time; some of
# them also call other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# Pillow's modes with 8-bit pixels: it converts between them, but clips wider pixels.
EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Preparation:
    """How an image of any shape is made square: it is resized, then cropped at the centre.

    Attributes:
        size: height and width of the result in pixels.
        resize: the shorter side after resizing; None keeps the image's own size.
        interpolation: interpolation used in resizing.
        squash: whether the longer side is resized to ``resize`` too.
    """

    size: int
    resize: int | None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    squash: bool = False

    def __str__(self) -> str:
        """The steps, for a message."""
        sides = "both sides" if self.squash else "the shorter side"
        resized = f"{sides} {self.resize} pixels ({self.interpolation}), " if self.resize else ""
        return f"{resized}a centre crop of {self.size} pixels"


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset's description, known before any file is read.

    Attributes:
        name: the name under which it is registered.
        num_classes: C; labels are in [0, C).
        channels: K, 1 or 3.
        image_size: height and width in pixels; images are square.
        class_names: C names in label order; empty if they are read from the files.
        mean: mean of each channel of the training images in [0, 1].
        std: standard deviation of each channel of the training images in [0, 1].
        default_eps: a customary Linf radius for images in [0, 1].
        max_train_size: images of the official training split.
        max_test_size: images of the official test split.
        small_scale: whether accuracies on it are not comparable with those in the literature.
        part_of: the dataset that this is a named part of, whose name model zoos use for it.
        preparation: how images from files are prepared for evaluation, if a network needs something
            other than the usual resizing of the shorter side to 8/7 of ``image_size``.
    """

    name: str
    num_classes: int
    channels: int
    image_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    default_eps: float
    max_train_size: int
    max_test_size: int
    small_scale: bool = False
    part_of: str | None = None
    preparation: Preparation | None = None

    def prepared(self, preparation: Preparation | None) -> DatasetInfo:
        """The description of the same images with a preparation; None is the usual one."""
        usual = Preparation(self.image_size, self.image_size * 8 // 7)
        if preparation in (None, usual):
            return self
        return replace(self, image_size=preparation.size, preparation=preparation)

    def official_size(self, split: OfficialSplit) -> int:
        """Number of images in an official split."""
        return self.max_train_size if split == "train" else self.max_test_size


class ImageSource(ABC):
    """One split, in memory (``ImageSet``) or on disk (``FolderSet``).

    Attributes:
        info: the dataset's description.
        split: which split it is.
        labels: int64 [N] in [0, C).
        rows: positions of the images in the split as it was read, int64 [N].
        complete: whether no image of the official split is missing or was dropped by a limit.
            Holding out validation images does not make a split incomplete.
        notes: what a user should know about how it was read, one sentence each.
    """

    info: DatasetInfo
    split: Split
    labels: Tensor
    rows: Tensor
    complete: bool
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of images N."""
        return len(self.labels)

    def __str__(self) -> str:
        """The name of the dataset and the split."""
        return f"{self.info.name} {self.split}"

    @cached_property
    @abstractmethod
    def sha256(self) -> str:
        """A hash of the images, their order and their labels."""

    @abstractmethod
    def images_float(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Images at positions [B] without augmentation: float32 [B, K, H, W] in [0, 1]."""

    @abstractmethod
    def take(self, positions: Tensor, *, complete: bool, split: Split | None = None) -> Self:
        """The images at the given positions, in that order."""

    def prepared(self, preparation: Preparation | None) -> Self:
        """The same images with another preparation.

        Raises:
            UserError: the images are in memory, so they have already been prepared.
        """
        raise UserError(
            f"the model needs {preparation}, but the images of {self} are already prepared"
        )

    def subset(self, n: int) -> Self:
        """The first ``n`` images, or all if there are fewer; incomplete if any is dropped."""
        return self if n >= len(self) else self.take(torch.arange(n), complete=False)


class ImageSet(ImageSource):
    """One split in memory, checked on construction.

    Args:
        images: uint8 [N, K, H, W] on the CPU; a test split may be float32 in [0, 1].
        labels: int64 [N] in [0, C).
        info: the dataset's description, which both must match.
        split: which split it is.
        rows: see ``ImageSource``; default 0..N-1.
        complete: see ``ImageSource``.

    Raises:
        UserError: an array has a wrong type, shape, length or range.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        info: DatasetInfo,
        split: Split,
        rows: Tensor | None = None,
        complete: bool = True,
    ) -> None:
        """See the class."""
        where = f"{info.name} {split}"
        check_images(images, info, where, floats=split == "test")
        check_labels(labels, len(images), info, where)
        self.images = images
        self.labels = labels
        self.info = info
        self.split = split
        self.rows = torch.arange(len(images)) if rows is None else rows
        self.complete = complete

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the shape, the pixel bytes and the labels as little-endian int64."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().astype("<i8").data)
        return digest.hexdigest()

    def images_float(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Images at positions [B] (default all): float32 [B, K, H, W]; uint8 is divided by 255."""
        images = self.images[indices]
        return images if images.is_floating_point() else images.float() / 255

    def take(self, positions: Tensor, *, complete: bool, split: Split | None = None) -> Self:
        """The images at the given positions, in that order."""
        return type(self)(
            self.images[positions],
            self.labels[positions],
            self.info,
            split or self.split,
            self.rows[positions],
            complete,
        )


class Dataset:
    """The loaded splits of a dataset; accessing a missing one is a ``RuntimeError``."""

    def __init__(
        self, info: DatasetInfo, train: ImageSource | None = None, test: ImageSource | None = None
    ) -> None:
        """Store the given splits."""
        self.info = info
        self._train = train
        self._test = test

    @property
    def train(self) -> ImageSource:
        """The training split."""
        return self._loaded(self._train, "train")

    @property
    def test(self) -> ImageSource:
        """The test split."""
        return self._loaded(self._test, "test")

    def prepared(self, preparation: Preparation) -> Dataset:
        """The test split with another preparation of its images, which must be in files."""
        return Dataset(self.info.prepared(preparation), test=self.test.prepared(preparation))

    def _loaded(self, source: ImageSource | None, split: OfficialSplit) -> ImageSource:
        if source is None:
            raise RuntimeError(f"the {split} split of {self.info.name} was not loaded")
        return source


@dataclass(frozen=True)
class DatasetSource:
    """A registered dataset: its description, and a function that loads a split from a root folder.

    ``load`` accepts None for the default root; see ``harness.data.files.find_root``.
    """

    info: DatasetInfo
    load: Callable[[Path | None, OfficialSplit], ImageSource]


def decode_image(
    file: Path | BinaryIO, mode: Literal["RGB", "L"], size: int | None = None
) -> Image.Image:
    """Decode an image to 8 bits per channel, in colour or grey.

    In a 16-bit grey PNG the value 65535 is white, as the PNG standard says.

    Args:
        file: the encoded image.
        mode: RGB or grey.
        size: the required height and width; None for any.

    Raises:
        ValueError: the image cannot be read, has another size, or has pixels wider than 8 bits
            whose white value is unknown.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if size is not None and image.size != (size, size):
                raise ValueError(f"it is {image.width}x{image.height} pixels, not {size}")
            if image.format == "PNG" and image.mode.startswith("I"):
                wide = np.asarray(image).astype(np.float64)
                return Image.fromarray(np.rint(wide / 257).astype(np.uint8)).convert(mode)
            if image.mode in EIGHT_BIT_MODES:
                return image.convert(mode)
            kind = image.mode
    except UnidentifiedImageError as error:
        raise ValueError(f"it is not one of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise errors of a dozen kinds
        raise ValueError(str(error) or type(error).__name__) from error
    raise ValueError(f"its pixels have Pillow's mode {kind}: save it with 8 bits per channel")


def check_images(images: Tensor, info: DatasetInfo, where: str, *, floats: bool) -> None:
    """Raise ``UserError`` unless the images have the described shape [N, K, H, W] and range."""
    if images.dtype != torch.uint8 and not (floats and images.dtype == torch.float32):
        allowed = "uint8 in 0..255" + (" or as float32 in [0, 1]" if floats else "")
        raise UserError(f"{where}: images are {images.dtype}; give them as {allowed}")
    expected = (info.channels, info.image_size, info.image_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise UserError(
            f"{where}: images have shape {list(images.shape)}; "
            f"give them as [N, {', '.join(map(str, expected))}]"
        )
    if images.is_floating_point() and not bool(((images >= 0) & (images <= 1)).all()):
        low, high = float(images.min()), float(images.max())
        raise UserError(
            f"{where}: images are in [{low:.4g}, {high:.4g}], not in [0, 1]; give them without "
            "normalisation and let the model normalise"
        )


def check_labels(labels: Tensor, count: int, info: DatasetInfo, where: str) -> None:
    """Raise ``UserError`` unless the labels are int64 [count] in [0, C)."""
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise UserError(
            f"{where}: labels are {labels.dtype} of shape {list(labels.shape)}; "
            f"give int64 of shape [{count}], one for each image"
        )
    outside = (labels < 0) | (labels >= info.num_classes)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise UserError(
            f"{where}: label {int(labels[row])} at row {row} is outside "
            f"0..{info.num_classes - 1}; check that the file belongs to {info.name}"
        )


def check_limit(option: str, limit: int | None, images: Sized) -> None:
    """Raise ``UserError`` if the limit that ``option`` sets exceeds the number of images."""
    size = len(images)
    if limit is not None and limit > size:
        raise UserError(f"{option} is {limit}, but {images} has {size} images: give at most {size}")


S = TypeVar("S", bound=ImageSource)


def limit_train(train: S, limit: int) -> S:
    """The first ``limit`` images of a training split in a random order with seed 0.

    The images of a smaller limit are a subset of those of a larger one.

    Raises:
        UserError: the split has fewer images.
    """
    check_limit("data.train_limit", limit, train)
    if limit == len(train):
        return train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return train.take(order[:limit], complete=False)
