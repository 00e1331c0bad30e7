"""Images in Parquet shards, ``{train,test}-00000-of-00005.parquet``.

As in published sets, each shard has a column ``img`` or ``image`` (a struct whose field ``bytes``
is an encoded image) and an integer column ``label`` or ``fine_label``. Schema metadata
``class_names``, if present, must be the dataset's classes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from harness.data.base import DatasetInfo, ImageSet, OfficialSplit, decode_image
from harness.errors import UserError

SHARD = re.compile(r"(train|test)-(\d+)-of-(\d+)\.parquet")
IMAGES, LABELS = ("img", "image"), ("label", "fine_label")


def find_shards(folder: Path) -> dict[str, list[Path]]:
    """The shards in a folder by split, in order; empty if the folder has none or does not exist.

    Raises:
        UserError: shards of one split disagree about their number.
    """
    shards: dict[str, list[Path]] = {}
    totals: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.parquet")):
        if match := SHARD.fullmatch(path.name):
            shards.setdefault(match[1], []).append(path)
            totals.setdefault(match[1], set()).add(match[3])
    for split, counts in totals.items():
        if len(counts) > 1:
            raise UserError(
                f"{folder} holds {split} shards of different sets "
                f"(-of-{', -of-'.join(sorted(counts))}): keep the shards of one set"
            )
    return shards


def read_shards(shards: Sequence[Path], info: DatasetInfo, split: OfficialSplit) -> ImageSet:
    """Read the images of the shards, in order; the result is incomplete if shards are missing.

    Raises:
        UserError: a shard is damaged or has other content; the message names it.
    """
    parts = [_read_shard(path, info) for path in shards]
    images = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts]))
    labels = torch.from_numpy(np.concatenate([labels for _, labels in parts]))
    complete = len(labels) == info.official_size(split)
    return ImageSet(images, labels, info, split, complete=complete)


def _read_shard(path: Path, info: DatasetInfo) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = _read_columns(path, info)
    encoded = pc.struct_field(images, "bytes").to_pylist()
    pixels = np.empty((len(encoded), info.channels, info.image_size, info.image_size), np.uint8)
    # One thread: for 32x32 images most of Pillow's work holds the GIL.
    for row, data in enumerate(encoded):
        try:
            pixels[row] = _decode(data, info)
        except ValueError as error:
            raise UserError(
                f"{path}: the image at row {row} cannot be used ({error}): download the shard again"
            ) from error
    return pixels, labels.to_numpy().astype(np.int64)


def _read_columns(path: Path, info: DatasetInfo) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """The columns of images and of labels."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: download the shard again") from error
    schema = table.schema
    names = (schema.metadata or {}).get(b"class_names", b"").decode(errors="replace")
    if names and tuple(names.split(",")) != info.class_names:
        raise UserError(
            f"{path} holds the classes of a dataset other than {info.name} "
            f"({names[:40]}...): move it to that dataset's own folder"
        )
    images = [schema.field(name) for name in IMAGES if schema.names.count(name) == 1]
    labels = [schema.field(name) for name in LABELS if schema.names.count(name) == 1]
    if not (
        len(images) == len(labels) == 1
        and pa.types.is_struct(images[0].type)
        and images[0].type.get_field_index("bytes") >= 0
        and pa.types.is_integer(labels[0].type)
        and table[images[0].name].null_count == table[labels[0].name].null_count == 0
    ):
        raise UserError(
            f"{path} has columns {', '.join(schema.names)}: it needs one of {' or '.join(IMAGES)} "
            f"(a struct with the image's bytes) and one of {' or '.join(LABELS)} (integers), "
            "neither with nulls"
        )
    return table[images[0].name], table[labels[0].name]


def _decode(data: bytes | None, info: DatasetInfo) -> NDArray[np.uint8]:
    """The pixels [K, H, W] of one encoded image.

    Raises:
        ValueError: it is not an image of the dataset's size.
    """
    if not isinstance(data, bytes):
        raise ValueError("it has no bytes")
    # Lossless WebP has no grey mode: grey images are stored as RGB, and "L" restores them exactly.
    mode: Literal["RGB", "L"] = "RGB" if info.channels == 3 else "L"
    image = decode_image(io.BytesIO(data), mode, info.image_size)
    pixels = np.asarray(image).reshape(info.image_size, info.image_size, info.channels)
    return pixels.transpose(2, 0, 1)
