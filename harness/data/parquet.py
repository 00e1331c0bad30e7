"""Images in Parquet shards, ``{train,test}-00000-of-00005.parquet``.

Each shard has a column ``img`` (a struct whose field ``bytes`` is an encoded image) and an integer
column ``label``. Schema metadata ``class_names``, if present, must be the dataset's classes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from harness.data.base import DatasetInfo, ImageSet, OfficialSplit
from harness.errors import UserError

SHARD = re.compile(r"(train|test)-(\d+)-of-(\d+)\.parquet")
# Without the formats Pillow tries its forty plug-ins, which doubles the decoding time.
FORMATS = ("WEBP", "PNG", "JPEG")


def find_shards(folder: Path) -> dict[str, list[Path]]:
    """The shards in a folder by split, in order; empty if there are none or no folder.

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
    table = _read_table(path, info)
    encoded = pc.struct_field(table["img"], "bytes").to_pylist()
    pixels = np.empty((len(encoded), info.channels, info.image_size, info.image_size), np.uint8)
    # One thread: Pillow's own work per 32x32 image outweighs the part that it does unlocked.
    for row, data in enumerate(encoded):
        try:
            pixels[row] = _decode(data, info)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"{path}: the image at row {row} cannot be used ({error}): download the shard again"
            ) from error
    return pixels, table["label"].to_numpy().astype(np.int64)


def _read_table(path: Path, info: DatasetInfo) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: download the shard again") from error
    schema = table.schema
    names = (schema.metadata or {}).get(b"class_names", b"").decode()
    if names and tuple(names.split(",")) != info.class_names:
        raise UserError(
            f"{path} holds the classes of another dataset than {info.name} "
            f"({names[:40]}...): move it to that dataset's own folder"
        )
    if not (
        "img" in schema.names
        and pa.types.is_struct(schema.field("img").type)
        and schema.field("img").type.get_field_index("bytes") >= 0
        and "label" in schema.names
        and pa.types.is_integer(schema.field("label").type)
        and table["img"].null_count == table["label"].null_count == 0
    ):
        raise UserError(
            f"{path} has columns {', '.join(schema.names)}: it needs img (a struct with the "
            "image's bytes) and label (integers), neither with nulls"
        )
    return table


def _decode(data: bytes, info: DatasetInfo) -> NDArray[np.uint8]:
    """The pixels [K, H, W] of one encoded image.

    Raises:
        OSError, ValueError, SyntaxError: it is not an image of the dataset's size.
    """
    mode = "RGB" if info.channels == 3 else "L"
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.size != (info.image_size, info.image_size):
            raise ValueError(f"it is {image.width}x{image.height} pixels, not {info.image_size}")
        # Lossless WebP has no grey mode: grey images come as RGB, and "L" gives them back exactly.
        raw = (image if image.mode == mode else image.convert(mode)).tobytes()
    pixels = np.frombuffer(raw, np.uint8).reshape(info.image_size, info.image_size, info.channels)
    return pixels.transpose(2, 0, 1)
