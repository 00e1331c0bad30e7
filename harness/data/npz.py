"""Generated images in an npz archive, memory-mapped."""

from __future__ import annotations

import hashlib
import mmap
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.data.base import DatasetInfo
from harness.errors import UserError

# Labels are checked and hashed in chunks: there may be fifty million.
LABEL_CHUNK = 1 << 20
FINGERPRINT_IMAGES = 512


@dataclass(eq=False)
class NpzImages:
    """Images of an npz archive, read one batch at a time; see ``open_npz``.

    Attributes:
        images: uint8 [N, H, W, K], mapped read-only.
        labels: integers [N] in [0, C) of any integer type, mapped read-only.
        info: the description of the dataset that the images resemble.
        path: the archive.
    """

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    info: DatasetInfo
    path: Path

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def gather(self, indices: Tensor) -> Tensor:
        """The images at positions [B]: uint8 [B, K, H, W]."""
        batch = np.asarray(self.images[indices.numpy()])
        return torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))

    def gather_labels(self, indices: Tensor) -> Tensor:
        """The labels at positions [B], int64."""
        return torch.from_numpy(np.asarray(self.labels[indices.numpy()]).astype(np.int64))

    def fingerprint(self) -> dict[str, Any]:
        """Identify the file without reading all of it.

        Returns:
            The archive's ``bytes``, the number of ``images``, the labels' type, and ``sha256`` over
            these, the images' shape, all labels and the pixels of ``FINGERPRINT_IMAGES`` evenly
            spaced images. Archives that differ only in other images have the same fingerprint.
        """
        described = {
            "bytes": self.path.stat().st_size,
            "images": len(self),
            "label_dtype": self.labels.dtype.str,
        }
        digest = hashlib.sha256(f"{described} {self.images.shape}".encode())
        for start in range(0, len(self), LABEL_CHUNK):
            chunk = np.ascontiguousarray(self.labels[start : start + LABEL_CHUNK])
            digest.update(chunk.data)
        positions = np.linspace(0, len(self) - 1, min(FINGERPRINT_IMAGES, len(self)))
        digest.update(self.gather(torch.from_numpy(positions.astype(np.int64))).numpy().data)
        return {**described, "sha256": digest.hexdigest()}


def open_npz(path: Path, info: DatasetInfo) -> NpzImages:
    """Open an archive with ``image`` (uint8 [N, H, W, K]) and ``label`` (integers [N]).

    Raises:
        UserError: the archive is missing, damaged or compressed, or does not match the description.
    """
    try:
        images, labels = _map_member(path, "image"), _map_member(path, "label")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read ({error}): give an npz archive with the arrays image and label"
        ) from error
    expected = (info.image_size, info.image_size, info.channels)
    if images.dtype != np.uint8 or images.shape[1:] != expected:
        raise UserError(
            f"{path}: image is {images.dtype} of shape {list(images.shape)}; {info.name} needs "
            f"uint8 of shape [N, {', '.join(map(str, expected))}]"
        )
    if labels.dtype.kind not in "iu":
        raise UserError(f"{path}: label is {labels.dtype}; save it as integers")
    if labels.shape != (len(images),):
        raise UserError(
            f"{path}: label has shape {list(labels.shape)}; give integers of shape "
            f"[{len(images)}], one for each image"
        )
    if not len(images):
        raise UserError(f"{path} holds no images: give an archive with at least one")
    _check_range(labels, info, path)
    return NpzImages(images, labels, info, path)


def _check_range(labels: NDArray[Any], info: DatasetInfo, path: Path) -> None:
    for start in range(0, len(labels), LABEL_CHUNK):
        chunk = labels[start : start + LABEL_CHUNK]
        outside = (chunk < 0) | (chunk >= info.num_classes)
        if outside.any():
            row = int(outside.argmax())
            raise UserError(
                f"{path}: label {int(chunk[row])} at row {start + row} is outside "
                f"0..{info.num_classes - 1}; check that the file belongs to {info.name}"
            )


def _map_member(path: Path, name: str) -> NDArray[Any]:
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
        # The lengths of the name and extra field can differ from those in the central directory.
        file.seek(int.from_bytes(local[26:28], "little"), os.SEEK_CUR)
        file.seek(int.from_bytes(local[28:30], "little"), os.SEEK_CUR)
        shape, fortran, dtype = _array_header(file)
        offset = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    mapped: np.memmap[Any, np.dtype[Any]] = np.memmap(
        path, dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C"
    )
    base: object = mapped.base
    if name == "image" and isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        # Rows are drawn at random, so reading ahead is useless.
        base.madvise(mmap.MADV_RANDOM)
    return mapped


def _array_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"array format {version[0]}.{version[1]} is not known")
