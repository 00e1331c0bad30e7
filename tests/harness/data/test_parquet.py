import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from harness.data import load_dataset
from harness.data.cifar import INFO10
from harness.data.parquet import find_shards, read_shards
from harness.errors import UserError


def test_pixels_and_order_survive(tmp_path, pixels, write_shard, info):
    labels = [row % 3 for row in range(20)]
    for shard in range(2):
        part = slice(10 * shard, 10 * shard + 10)
        write_shard(tmp_path / f"train-0000{shard}-of-00002.parquet", pixels[part], labels[part])
    shards = find_shards(tmp_path)["train"]
    found = read_shards(shards, info, "train")
    assert torch.equal(found.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert found.labels.tolist() == labels
    assert found.rows.tolist() == list(range(20))
    assert found.complete


@pytest.mark.parametrize("image_format", ["WEBP", "PNG"])
def test_grey_images_survive_though_webp_keeps_them_in_colour(
    tmp_path, pixels, write_shard, image_format
):
    from dataclasses import replace

    from harness.data.sets.fashion_mnist import INFO

    grey = np.ascontiguousarray(pixels[..., 0])
    write_shard(tmp_path / "test-00000-of-00001.parquet", grey, [0] * 20, image_format=image_format)
    small = replace(INFO, image_size=6, max_test_size=20)
    found = read_shards(find_shards(tmp_path)["test"], small, "test")
    assert torch.equal(found.images[:, 0], torch.from_numpy(grey))
    assert found.complete


@pytest.mark.parametrize("image", ["img", "image"])
@pytest.mark.parametrize("label", ["label", "fine_label"])
def test_columns_have_the_names_of_published_sets(
    tmp_path, pixels, write_shard, info, image, label
):
    path = write_shard(tmp_path / "train-00000-of-00001.parquet", pixels, [2] * 20)
    table = pq.read_table(path).rename_columns([image, label])
    pq.write_table(table.append_column("coarse_label", table[label]), path)
    found = read_shards([path], info, "train")
    assert torch.equal(found.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert found.labels.tolist() == [2] * 20


def test_missing_shards_make_the_split_incomplete(tmp_path, pixels, write_shard, info):
    write_shard(tmp_path / "train-00000-of-00005.parquet", pixels[:4], [0, 1, 2, 0])
    found = read_shards(find_shards(tmp_path)["train"], info, "train")
    assert len(found) == 4
    assert not found.complete


def test_other_files_are_no_shards(tmp_path, pixels, write_shard):
    for name in ("train.parquet", "val-00000-of-00001.parquet", "train-00000-of-00001.parquet.tmp"):
        write_shard(tmp_path / name, pixels[:1], [0])
    assert find_shards(tmp_path) == {}
    assert find_shards(tmp_path / "nowhere") == {}


def test_shards_of_two_sets_are_refused(tmp_path, pixels, write_shard):
    write_shard(tmp_path / "train-00000-of-00001.parquet", pixels[:1], [0])
    write_shard(tmp_path / "train-00000-of-00005.parquet", pixels[:1], [0])
    with pytest.raises(UserError, match=r"shards of different sets \(-of-00001, -of-00005\)"):
        find_shards(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_truncated_shard_is_named(tmp_path, pixels, write_shard, info, keep):
    path = write_shard(tmp_path / "train-00000-of-00001.parquet", pixels, [0] * 20)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(UserError, match=r"train-00000-of-00001.parquet cannot be read as Parquet"):
        read_shards([path], info, "train")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda encoded: b"", "it is not one of JPEG, PNG"),
        (lambda encoded: b"RIFF", "it is not one of JPEG, PNG"),
        (lambda encoded: None, "it has no bytes"),
        (lambda encoded: b"\x89PNG\r\n\x1a\nab", ""),
        (lambda encoded: encoded[:-60], ""),
    ],
)
def test_damaged_image_is_named(tmp_path, pixels, write_shard, info, damage, message):
    path = write_shard(tmp_path / "train-00000-of-00001.parquet", pixels[:3], [0, 1, 2])
    table = pq.read_table(path)
    images = table["img"].to_pylist()
    images[1]["bytes"] = damage(images[1]["bytes"])
    pq.write_table(pa.table({"img": images, "label": table["label"]}), path)
    with pytest.raises(UserError, match=rf"of-00001.parquet: the image at row 1 .*{message}"):
        read_shards([path], info, "train")


def test_image_of_another_size_is_named(tmp_path, pixels, write_shard, info):
    path = write_shard(tmp_path / "train-00000-of-00001.parquet", pixels[:2, :5], [0, 1])
    with pytest.raises(UserError, match=r"row 0 cannot be used \(it is 6x5 pixels, not 6\)"):
        read_shards([path], info, "train")


@pytest.mark.parametrize(
    "columns",
    [
        {"picture": [{"bytes": b"", "path": ""}], "label": [0]},
        {"img": [{"bytes": b"", "path": ""}], "image": [{"bytes": b"", "path": ""}], "label": [0]},
        {"img": [b""], "label": [0]},
        {"img": [{"path": ""}], "label": [0]},
        {"img": [{"bytes": b"", "path": ""}], "label": [0.5]},
        {"img": [{"bytes": b"", "path": ""}], "label": pa.array([None], pa.int64())},
        {"img": pa.array([None], pa.struct({"bytes": pa.binary()})), "label": [0]},
        {"img": [{"bytes": b"", "path": ""}], "coarse_label": [0]},
        {"img": [{"bytes": b"", "path": ""}], "fine_label": [0], "label": [0]},
    ],
)
def test_wrong_columns_are_named(tmp_path, info, columns):
    path = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UserError, match=f"has columns {', '.join(columns)}: it needs one of img"):
        read_shards([path], info, "train")


def write_cifar10(folder, write_shard, split, count=2, names=INFO10.class_names):
    images = np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    path = folder / f"{split}-00000-of-00001.parquet"
    write_shard(path, images, list(range(count)), ",".join(names))
    return images


@pytest.mark.parametrize("inside", ["cifar10", "."])
def test_dataset_is_found_in_its_folder_or_in_the_root(tmp_path, write_shard, inside, monkeypatch):
    for split in ("train", "test"):
        images = write_cifar10(tmp_path / inside, write_shard, split)
    data = load_dataset("cifar10", tmp_path)
    assert torch.equal(data.test.images, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert not data.test.complete
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert load_dataset("cifar10").test.sha256 == data.test.sha256


def test_split_without_shards_is_named(tmp_path, write_shard):
    write_cifar10(tmp_path / "cifar10", write_shard, "test")
    assert len(load_dataset("cifar10", tmp_path, splits=("test",)).test) == 2
    with pytest.raises(UserError, match=r"cifar10 but none named train-\*-of-\*.parquet"):
        load_dataset("cifar10", tmp_path)


def test_shards_of_another_data_set_are_refused(tmp_path, write_shard):
    write_cifar10(tmp_path, write_shard, "test", names=("apple", "aquarium_fish"))
    with pytest.raises(UserError, match="the classes of a dataset other than cifar10"):
        load_dataset("cifar10", tmp_path, splits=("test",))
