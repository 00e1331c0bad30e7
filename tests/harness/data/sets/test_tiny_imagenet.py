"""Tiny-ImageNet's archive in its own layout and with class folders, with 200 tiny classes."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import load_dataset
from harness.errors import UserError
from harness.experiment.resolve import resolve, teacher_run
from harness.models import build_model

CLASSES = [f"n{number:08}" for number in range(200)]
VALIDATION = 12


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two training images of each class, and validation images of random classes.

    The first image of each class is grey, as some of the archive's are.
    """
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("data")
    base = root / "tiny-imagenet-200"

    def save(path, grey=False):
        pixels = rng.integers(0, 256, (64, 64) if grey else (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, quality=95)

    for name in CLASSES:
        home = base / "train" / name / "images"
        home.mkdir(parents=True)
        for number in range(2):
            save(home / f"{name}_{number}.JPEG", grey=number == 0)
        (base / "train" / name / f"{name}_boxes.txt").write_text("not an image")
    (base / "val" / "images").mkdir(parents=True)
    lines = []
    for number in rng.permutation(VALIDATION):
        save(base / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{CLASSES[7 * number % 200]}\t0\t0\t62\t62\n")
    (base / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def test_archive_as_it_is(archive):
    data = load_dataset("tiny-imagenet", archive)
    assert data.info.class_names == tuple(CLASSES)
    assert data.train.labels.tolist() == [label for label in range(200) for _ in range(2)]
    assert data.test.labels.tolist() == [7 * number for number in range(VALIDATION)]
    assert data.train.images.shape == (400, 3, 64, 64)
    assert not data.train.complete
    for part, row, name in (
        (data.train, 11, f"train/{CLASSES[5]}/images/{CLASSES[5]}_1.JPEG"),
        (data.train, 10, f"train/{CLASSES[5]}/images/{CLASSES[5]}_0.JPEG"),
        (data.test, 10, "val/images/val_10.JPEG"),
    ):
        with Image.open(archive / "tiny-imagenet-200" / name) as image:
            expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(part.images[row].numpy(), expected)


@pytest.mark.parametrize("inner", ["images", "."])
def test_validation_images_in_class_folders_are_the_same_split(archive, tmp_path, inner):
    """As scripts for other frameworks sort them."""
    expected = load_dataset("tiny-imagenet", archive, splits=("test",)).test
    base = tmp_path / "tiny-imagenet-200"
    shutil.copytree(archive / "tiny-imagenet-200", base)
    for line in (base / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid, *_ = line.split("\t")
        home = base / "val" / wnid / inner
        home.mkdir(parents=True, exist_ok=True)
        (base / "val" / "images" / name).rename(home / name)
    (base / "val" / "images").rmdir()
    for wnid in set(CLASSES) - {each.name for each in (base / "val").iterdir() if each.is_dir()}:
        shutil.copytree(base / "train" / wnid / "images", base / "val" / wnid)
    found = load_dataset("tiny-imagenet", tmp_path, splits=("test",)).test
    chosen = [
        row for row, label in enumerate(found.labels.tolist()) if label % 7 == 0 and label < 84
    ]
    assert torch.equal(found.images[chosen], expected.images)
    assert torch.equal(found.labels[chosen], expected.labels)


def test_root_may_be_the_archives_folder(archive):
    inside = load_dataset("tiny-imagenet", archive / "tiny-imagenet-200", splits=("test",))
    assert (
        inside.test.sha256 == load_dataset("tiny-imagenet", archive, splits=("test",)).test.sha256
    )


def test_what_is_missing_or_damaged_is_named(archive, tmp_path):
    with pytest.raises(UserError, match=r"tiny-imagenet is not in .*unpack tiny-imagenet-200\.zip"):
        load_dataset("tiny-imagenet", tmp_path)
    base = tmp_path / "tiny-imagenet-200"
    shutil.copytree(archive / "tiny-imagenet-200", base)
    image = base / "val" / "images" / "val_3.JPEG"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(UserError, match=r"val_3\.JPEG is not a readable image"):
        load_dataset("tiny-imagenet", tmp_path, splits=("test",))
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(image)
    with pytest.raises(UserError, match=r"val_3\.JPEG .* \(it is 1x1 pixels, not 64\)"):
        load_dataset("tiny-imagenet", tmp_path, splits=("test",))
    (base / "val" / "val_annotations.txt").write_text("val_3.JPEG\tn9\n")
    with pytest.raises(UserError, match=r"val_annotations\.txt is damaged \('n9'\)"):
        load_dataset("tiny-imagenet", tmp_path, splits=("test",))
    shutil.rmtree(base / "train" / CLASSES[3])
    with pytest.raises(UserError, match="has 199 class folders, not 200"):
        load_dataset("tiny-imagenet", tmp_path)


def test_recipes_of_another_dataset_serve_it():
    config = resolve("kd", recipe="cifar100", dataset="tiny-imagenet")
    assert config.data.name == teacher_run(config).data.name == "tiny-imagenet"
    network = build_model(config.model.arch, 200, 3, 64)
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 200)
