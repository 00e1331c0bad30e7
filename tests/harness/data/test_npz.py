from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.data.npz import open_npz
from harness.errors import UserError


@pytest.fixture
def labels():
    return np.arange(20) % 3


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_batches_are_read_from_the_mapped_file(tmp_path, pixels, labels, info, dtype):
    path = tmp_path / "generated.npz"
    np.savez(path, label=labels.astype(dtype), image=pixels)
    opened = open_npz(path, info)
    assert isinstance(opened.images, np.memmap)
    assert not opened.images.flags.writeable
    assert len(opened) == 20
    assert isinstance(opened.labels, np.memmap)
    assert opened.labels.dtype == dtype
    assert opened.labels.tolist() == labels.tolist()
    given = opened.gather_labels(torch.tensor([4, 0, 4]))
    assert given.dtype == torch.int64
    assert given.tolist() == [labels[4], labels[0], labels[4]]
    chosen = torch.tensor([3, 19, 3, 0])
    batch = opened.gather(chosen)
    assert torch.equal(batch, torch.from_numpy(pixels)[chosen].permute(0, 3, 1, 2))
    assert batch.is_contiguous()
    assert batch.dtype == torch.uint8


def test_memory_order_of_columns_is_understood(tmp_path, pixels, labels, info):
    np.savez(tmp_path / "g.npz", image=np.asfortranarray(pixels), label=labels)
    opened = open_npz(tmp_path / "g.npz", info)
    assert torch.equal(
        opened.gather(torch.arange(20)), torch.from_numpy(pixels).permute(0, 3, 1, 2)
    )


def test_compressed_archive_is_refused_with_the_remedy(tmp_path, pixels, labels, info):
    np.savez_compressed(tmp_path / "g.npz", image=pixels, label=labels)
    with pytest.raises(UserError, match=r"g.npz is compressed .*numpy.savez\(path, image=image"):
        open_npz(tmp_path / "g.npz", info)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((20, 6, 6, 3), np.float32)}, "image is float32 of shape"),
        ({"image": np.zeros((20, 3, 6, 6), np.uint8)}, r"needs uint8 of shape \[N, 6, 6, 3\]"),
        ({"image": np.zeros((20, 6), np.uint8)}, r"of shape \[20, 6\]"),
        ({"image": np.zeros((19, 6, 6, 3), np.uint8)}, r"give integers of shape \[19\]"),
        ({"label": np.full(20, 3)}, r"g.npz: label 3 at row 0 is outside 0\.\.2"),
        ({"label": np.zeros(20)}, "label is float64; save it as integers"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, pixels, labels, info, change, message):
    np.savez(tmp_path / "g.npz", **({"image": pixels, "label": labels} | change))
    with pytest.raises(UserError, match=message):
        open_npz(tmp_path / "g.npz", info)


@pytest.mark.parametrize("missing", ["image", "label"])
def test_missing_array_is_named(tmp_path, pixels, labels, info, missing):
    arrays = {"image": pixels, "label": labels}
    del arrays[missing]
    np.savez(tmp_path / "g.npz", **arrays)
    with pytest.raises(
        UserError, match=f"g.npz cannot be read .*{missing}.*arrays image and label"
    ):
        open_npz(tmp_path / "g.npz", info)


def test_missing_and_truncated_archives_are_refused(tmp_path, pixels, labels, info):
    with pytest.raises(UserError, match=r"nowhere.npz cannot be read"):
        open_npz(tmp_path / "nowhere.npz", info)
    path = tmp_path / "g.npz"
    np.savez(path, image=pixels, label=labels)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"g.npz cannot be read"):
        open_npz(path, info)


def test_grey_images(tmp_path, pixels, labels, info):
    grey = replace(info, channels=1)
    np.savez(tmp_path / "g.npz", image=pixels[..., :1], label=labels)
    assert open_npz(tmp_path / "g.npz", grey).gather(torch.arange(2)).shape == (2, 1, 6, 6)
