"""What the tests of data sets share: a small data set's description, and a writer of shards."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from harness.data.base import DatasetInfo, ImageSet

INFO = DatasetInfo(
    name="tiny",
    num_classes=3,
    channels=3,
    image_size=6,
    class_names=("ant", "bee", "cat"),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    default_eps=0.1,
    max_train_size=20,
    max_test_size=8,
)


@pytest.fixture
def info() -> DatasetInfo:
    return INFO


@pytest.fixture
def pixels() -> np.ndarray:
    """Twenty random images [20, 6, 6, 3]."""
    return np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)


@pytest.fixture
def image_set(pixels: np.ndarray) -> ImageSet:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.arange(20) % 3, INFO, "train")


@pytest.fixture
def write_shard() -> Callable[..., Path]:
    """Write images [N, H, W] or [N, H, W, 3] and labels as one shard of lossless images."""

    def write(
        path: Path,
        pixels: np.ndarray,
        labels: list[int],
        class_names: str | None = None,
        image_format: str = "WEBP",
    ) -> Path:
        encoded = []
        for image in pixels:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, image_format, lossless=True)
            encoded.append({"bytes": buffer.getvalue(), "path": "image"})
        table = pa.table({"img": encoded, "label": pa.array(labels, pa.int64())})
        if class_names:
            table = table.replace_schema_metadata({"class_names": class_names})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return path

    return write
