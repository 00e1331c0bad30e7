"""Generated images in an npz archive, mapped from the disk rather than read into memory."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.data.base import DatasetInfo, check_labels
from harness.errors import UserError


class NpzImages:
    """Images of an npz archive, of which a batch at a time is read.

    Attributes:
        info: the description of the data set that the images resemble.
        images: uint8 [N, H, W, K], mapped read-only.
        labels: int64 [N] in [0, C), in memory.
    """

    def __init__(self, images: NDArray[np.uint8], labels: Tensor, info: DatasetInfo) -> None:
        """See ``open_npz``."""
        self.images = images
        self.labels = labels
        self.info = info

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def gather(self, indices: Tensor) -> Tensor:
        """The images at positions [B]: uint8 [B, K, H, W], with memory for the batch only."""
        batch = np.asarray(self.images[indices.numpy()])
        return torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))


def open_npz(path: Path, info: DatasetInfo) -> NpzImages:
    """Open an archive with ``image`` (uint8 [N, H, W, K]) and ``label`` (integers [N]).

    Raises:
        UserError: the archive is missing, damaged, compressed, or does not fit the description.
    """
    try:
        images = _map_member(path, "image")
        with np.load(path) as archive:
            stored = archive["label"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read ({error}): give an npz archive with the arrays image and label"
        ) from error
    wanted = (info.image_size, info.image_size, info.channels)
    if images.dtype != np.uint8 or images.shape[1:] != wanted:
        raise UserError(
            f"{path}: image is {images.dtype} of shape {list(images.shape)}; {info.name} needs "
            f"uint8 of shape [N, {', '.join(map(str, wanted))}]"
        )
    if stored.dtype.kind not in "iu":
        raise UserError(f"{path}: label is {stored.dtype}; save it as integers")
    labels = torch.from_numpy(stored.astype(np.int64))
    check_labels(labels, len(images), info, str(path))
    return NpzImages(images, labels, info)


def _map_member(path: Path, name: str) -> NDArray[np.uint8]:
    """Map the array ``name`` of an uncompressed archive; the caller checks type and shape."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise UserError(
            f"{path} is compressed and cannot be mapped: load it once and save it again with "
            "numpy.savez(path, image=image, label=label)"
        )
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = file.read(30)
        # The local header's own name and extra field may differ in length from the directory's.
        file.seek(int.from_bytes(local[26:28], "little"), os.SEEK_CUR)
        file.seek(int.from_bytes(local[28:30], "little"), os.SEEK_CUR)
        shape, fortran, dtype = _array_header(file)
        offset = file.tell()
    return np.memmap(
        path, dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C"
    )


def _array_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[np.uint8]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"array format {version[0]}.{version[1]} is not known")
