"""Damaged images and Parquet shards: pixels of the right shape, or one sentence with the path."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzzing import damaged, outcome, tries
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.data.base import DatasetInfo, ImageSet
from harness.data.imagenet import open_folder
from harness.data.parquet import read_shards

pytestmark = pytest.mark.fuzz

INFO = DatasetInfo(
    name="tiny",
    num_classes=2,
    channels=3,
    image_size=8,
    class_names=("ant", "bee"),
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    default_eps=0.1,
    max_train_size=4,
    max_test_size=4,
)
# Formats by suffix, and which of Pillow's types of pixels each can hold.
MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpg": ("L", "RGB", "CMYK"),
    "webp": ("RGB", "RGBA"),
    "bmp": ("1", "L", "P", "RGB"),
    "gif": ("L", "P", "RGB"),
    "tif": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
}
KINDS = [(suffix, mode) for suffix, modes in MODES.items() for mode in modes]


def encoded(suffix: str, mode: str, seed: int = 0, size: tuple[int, int] = (12, 10)) -> bytes:
    random = np.random.default_rng(seed)
    picture = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(random.integers(0, 65536, size, dtype=np.uint16))
    elif mode in ("I", "F"):
        picture = picture.convert("L").convert(mode)
    buffer = io.BytesIO()
    options = {"lossless": True} if suffix == "webp" else {}
    picture.convert(mode).save(buffer, Image.registered_extensions()[f".{suffix}"], **options)
    return buffer.getvalue()


IMAGES = {kind: encoded(*kind) for kind in KINDS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    for name in INFO.class_names:
        (root / name).mkdir()
        (root / name / "whole.png").write_bytes(IMAGES["png", "RGB"])
    return root


@given(st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), damaged(IMAGES[kind]))))
@tries(1500)
def test_images_in_class_folders(folder, tally, case) -> None:
    (suffix, _), data = case
    path = folder / "ant" / f"damaged.{suffix}"
    path.write_bytes(data)
    found = open_folder(folder, INFO, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind, result = outcome(lambda: found.images_float(slice(0, 2)))
    path.unlink()
    tally["images"][kind] += 1
    if kind == "refused":
        assert str(path) in result
    else:
        assert result.shape == (2, 3, 8, 8)
        assert 0 <= result.min() <= result.max() <= 1


@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20))
@tries(300)
def test_whole_images_of_all_kinds(folder, tally, kind, seed, height, width) -> None:
    """Kinds that keep grey levels give them back; the others are refused."""
    suffix, mode = kind
    path = folder / f"whole.{suffix}"
    path.write_bytes(encoded(suffix, mode, seed, (height, width)))
    found = open_folder(folder, INFO, "train")
    found.files = np.array([path.name.encode()])
    result, picture = outcome(lambda: found.open_image(0))
    tally["whole images"][result] += 1
    assert (result == "refused") == (mode in ("I", "F") or kind == ("tif", "I;16"))
    if result == "refused":
        return
    assert picture.mode == "RGB"
    with Image.open(path) as original:
        if mode == "I;16":
            expected = np.rint(np.asarray(original) / 257).astype(np.uint8)[..., None].repeat(3, 2)
        else:
            expected = np.asarray(original.convert("RGB"))
    assert np.array_equal(np.asarray(picture), expected)


def shard(rows: int = 4) -> bytes:
    images = [{"bytes": encoded("png", "RGB", row, (8, 8)), "path": "x"} for row in range(rows)]
    table = pa.table({"img": images, "label": pa.array([0, 1] * (rows // 2), pa.int64())})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


SHARD = shard()


def check_shard(path: Path, tally: dict) -> None:
    kind, result = outcome(lambda: read_shards([path], INFO, "train"))
    tally["Parquet shards"][kind] += 1
    if kind == "refused":
        assert path.name in result or INFO.name in result
    else:
        assert isinstance(result, ImageSet)
        assert result.images.dtype == torch.uint8
        assert result.images.shape[1:] == (3, 8, 8)
        assert len(result.images) == len(result.labels)
        assert all(0 <= label < 2 for label in result.labels.tolist())
        assert result.complete == (len(result) == 4)


@given(damaged(SHARD))
@tries(1000)
def test_damaged_shards(tmp_path_factory, tally, data) -> None:
    path = tmp_path_factory.getbasetemp() / "train-00000-of-00001.parquet"
    path.write_bytes(data)
    check_shard(path, tally)


CELLS = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=5), st.binary(),
    st.just({"bytes": IMAGES["png", "RGB"], "path": "x"}), st.just({"bytes": None}),
    st.just({"bytes": encoded("png", "RGB", 1, (8, 8))}), st.just({"path": "x"}), st.just([]),
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(("img", "image", "label", "fine_label", "coarse_label", "")),
        st.one_of(
            st.just([{"bytes": encoded("png", "RGB", row, (8, 8))} for row in range(3)]),
            st.just([0, 1, 0]),
            st.lists(CELLS, min_size=3, max_size=3),
        ),
        min_size=1,
    ),
    st.sampled_from((None, b"ant,bee", b"ant", b"\xff\xfe", b"")),
)
@tries(600)
def test_shards_of_other_columns(tmp_path_factory, tally, columns, class_names) -> None:
    path = tmp_path_factory.getbasetemp() / "train-00000-of-00001.parquet"
    try:
        table = pa.table(columns)
        pq.write_table(table.replace_schema_metadata({"class_names": class_names or b""}), path)
    except (pa.ArrowException, TypeError, UnicodeError, OverflowError):
        return  # no such table can be written
    check_shard(path, tally)
