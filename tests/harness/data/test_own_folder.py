"""Folders of the user's own, as ``folder:PATH``: what images become, and how they are named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import ImageSet, dataset_info, load_dataset
from harness.data.imagenet import FolderSet
from harness.errors import UserError
from harness.experiment.resolve import resolve

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Writes class folders ``b`` and ``a`` of three random images a class and split."""

    def write(
        *shapes: tuple[int, int], place: str = "flowers", splits: tuple[str, ...] = ("train", "val")
    ) -> Path:
        rng = np.random.default_rng(0)
        for split in splits:
            for name in ("b", "a"):
                folder = tmp_path / place / split / name
                folder.mkdir(parents=True)
                for number, (height, width) in enumerate(shapes or ((8, 8),) * 3):
                    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number}.png")
        return tmp_path / place

    return write


def test_small_images_are_decoded_once_and_stay_as_they_are(tree: Tree) -> None:
    place = tree()
    data = load_dataset(f"folder:{place}")
    assert isinstance(data.train, ImageSet)
    assert (data.info.num_classes, data.info.channels, data.info.image_size) == (2, 3, 8)
    assert data.info.class_names == ("a", "b")
    assert data.info.small_scale
    assert data.train.complete
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for position, name in enumerate(["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]):
        with Image.open(place / "train" / f"{name}.png") as image:
            expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(data.train.images[position], expected)
    assert sorted(data.test.labels.tolist()) == [0, 0, 0, 1, 1, 1]


def test_other_shapes_are_resized_by_the_shorter_side_and_cropped(tree: Tree) -> None:
    place = tree((8, 8), (8, 12), (16, 16))
    data = load_dataset(f"folder:{place}")
    assert data.info.image_size == 8
    with Image.open(place / "train" / "a" / "1.png") as wide:
        assert torch.equal(
            data.train.images[1], torch.from_numpy(np.array(wide)).permute(2, 0, 1)[..., 2:10]
        )
    with Image.open(place / "train" / "a" / "2.png") as large:
        small = np.array(large.resize((8, 8), Image.Resampling.BILINEAR))
    assert torch.equal(data.train.images[2], torch.from_numpy(small).permute(2, 0, 1))
    assert load_dataset(f"folder:{place}@6").train.images.shape == (6, 3, 6, 6)


def test_large_images_are_decoded_on_demand(tree: Tree) -> None:
    data = load_dataset(f"folder:{tree((70, 90), (300, 80), (75, 75))}")
    assert isinstance(data.test, FolderSet)
    assert data.info.image_size == 75
    assert data.test.images_float(slice(2)).shape == (2, 3, 75, 75)
    huge = dataset_info(f"folder:{tree((300, 400), place='huge')}")
    assert (huge.image_size, huge.default_eps) == (224, 4 / 255)


def test_test_goes_before_val_and_may_be_alone(tree: Tree) -> None:
    place = tree(splits=("val", "test"))
    (place / "test" / "a" / "0.png").unlink()
    name = f"folder:{place}"
    assert len(load_dataset(name, splits=("test",)).test) == 5
    with pytest.raises(UserError, match="flowers has no folder train, but its images are needed"):
        load_dataset(name)


def test_the_name_is_of_the_content_and_not_of_the_place(tree: Tree, tmp_path: Path) -> None:
    place = tree()
    name = dataset_info(f"folder:{place}").name
    assert name.startswith("folder:flowers@8-")
    moved = tmp_path / "elsewhere" / "flowers"
    shutil.copytree(place, moved)
    assert dataset_info(f"folder:{moved}").name == name
    assert dataset_info("folder:flowers", moved.parent).name == name
    assert dataset_info(f"folder:{place}@6").name != name
    shutil.rmtree(place)
    assert len(load_dataset(name, moved).test) == 6
    with (moved / "val" / "a" / "0.png").open("ab") as file:
        file.write(b"0")
    with pytest.raises(UserError, match=f"are not those of {name}"):
        load_dataset(name, moved)
    with pytest.raises(UserError, match="give its path with --data-root"):
        dataset_info("folder:roses@8-00000000")


def test_a_run_is_of_the_content_of_its_training_images(tree: Tree, tmp_path: Path) -> None:
    place = tree()
    config = resolve("vanilla", dataset=f"folder:{place}")
    assert (config.recipe, config.data.root) == ("digits", place)
    moved = tmp_path / "elsewhere" / "flowers"
    shutil.copytree(place, moved)
    assert resolve("vanilla", dataset=f"folder:{moved}").run_id == config.run_id
    assert resolve("vanilla", options=config.model_dump(exclude={"method", "recipe"})) == (
        config.model_copy(update={"recipe": "digits"})
    )
    with (moved / "train" / "a" / "0.png").open("ab") as file:
        file.write(b"0")
    other = resolve("vanilla", dataset=f"folder:{moved}")
    assert other.data.name == config.data.name
    assert other.run_id != config.run_id


def test_teachers_of_other_datasets_are_trained_on_the_folder(tree: Tree) -> None:
    """The recipe's teacher has the accuracy of the recipe's own dataset, or published weights."""
    config = resolve("kd", dataset=f"folder:{tree((224, 224))}")
    assert (config.recipe, config.teacher.source, config.teacher.minimum) == (
        "imagenet",
        "auto",
        None,
    )
    assert config.teacher.weights.startswith("vanilla-")
    assert resolve("kd", dataset="digits").teacher.minimum == 0.95


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder:nowhere", "there is no image folder nowhere: check the path"),
        ("folder:", "there is no image folder"),
        ("folder:{place}/val", "has neither a folder test nor val"),
    ],
)
def test_a_mistake_is_one_sentence(name: str, message: str, tree: Tree) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(name.format(place=tree()))


def test_a_name_that_ends_like_a_size_is_tried_first(tree: Tree) -> None:
    place = tree(place="at@6")
    assert dataset_info(f"folder:{place}").name.startswith("folder:at@6@8-")
    assert dataset_info("folder:at@6", place.parent).image_size == 8
    assert dataset_info(f"folder:{place}@5").name.startswith("folder:at@6@5-")


def test_a_single_class_is_refused(tree: Tree) -> None:
    place = tree()
    for split in ("train", "val"):
        shutil.rmtree(place / split / "b")
    with pytest.raises(UserError, match=r"val has one class folder, a, .* at least two classes"):
        dataset_info(f"folder:{place}")


def test_splits_of_other_classes_are_refused(tree: Tree) -> None:
    place = tree()
    (place / "train" / "a").rename(place / "train" / "c")
    with pytest.raises(UserError, match="different class folders"):
        load_dataset(f"folder:{place}")


def test_a_method_without_a_fitting_recipe_names_those_it_has(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"has no recipe for folder:.*--recipe \(.*cifar10"):
        resolve("trades", dataset=f"folder:{tree((100, 100))}")
