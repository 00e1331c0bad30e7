"""CIFAR as it is, where it can be found; never downloaded here."""

import os
from pathlib import Path

import pytest

from harness.data import dataset_info, load_dataset

BESIDE = Path(__file__).parents[3].parent / "shared" / "data"
ROOT = Path(os.environ.get("HARNESS_DATA") or BESIDE)


def real(name, split):
    if not list((ROOT / name).glob(f"{split}-*-of-*.parquet")):
        pytest.skip(f"no Parquet shards of {name} {split} in {ROOT}: set HARNESS_DATA")
    data = load_dataset(name, ROOT, splits=(split,))
    return data.train if split == "train" else data.test


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_test_split_is_complete_and_balanced(name):
    found = real(name, "test")
    info = dataset_info(name)
    assert found.complete
    assert found.labels.bincount().tolist() == [10_000 // info.num_classes] * info.num_classes


def test_channel_statistics_of_cifar10():
    """10,000 of 50,000 images: the mean of a channel varies by about 0.0011, the deviation less."""
    found = real("cifar10", "train")
    info = dataset_info("cifar10")
    pixels = found.images_float()
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(info.mean, abs=4e-3)
    assert pixels.std((0, 2, 3)).tolist() == pytest.approx(info.std, abs=4e-3)
    assert found.complete == (len(found) == 50_000)
