import hashlib
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from harness.compat import import_torchvision
from harness.data import base, imagenet, load_dataset
from harness.data.augment import Augmentation
from harness.data.imagenet import open_folder
from harness.data.loader import StreamLoader, make_loader, split_validation
from harness.errors import UserError

SIZE = 14
CPU = torch.device("cpu")


@pytest.fixture
def info(info):
    return replace(info, image_size=SIZE, class_names=(), max_train_size=9, max_test_size=9)


@pytest.fixture
def tree(tmp_path):
    """Three classes of three images of different shapes and modes, and a file that is no image."""
    rng = np.random.default_rng(0)
    for name in ("n03", "n01", "n02"):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for i, shape in enumerate([(20, 30, 3), (40, 17, 3), (24, 24)]):
            image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            image.save(folder / f"{name}_{2 - i}.JPEG", quality=95)
        (folder / "notes.txt").write_text("not an image")
    return tmp_path / "train"


def test_labels_follow_sorted_folders_and_files(tree, info):
    found = open_folder(tree, info, "train")
    names = [name.decode() for name in found.files]
    assert names == [f"n0{c}/n0{c}_{i}.JPEG" for c in (1, 2, 3) for i in range(3)]
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.info.class_names == ("n01", "n02", "n03")
    assert found.complete
    assert not found.subset(4).complete
    assert found.subset(9) is found


def test_the_first_test_images_are_of_many_classes(tmp_path, info):
    """Files lie class by class; the first tenth of the test split must not be of one class."""
    classes, each = 20, 10
    for c in range(classes):
        folder = tmp_path / f"n{c:02}"
        folder.mkdir()
        for i in range(each):
            (folder / f"{i}.png").touch()
    info = replace(info, num_classes=classes, max_test_size=classes * each)
    found = open_folder(tmp_path, info, "test")
    assert found.complete
    assert len(set(found.labels[:each].tolist())) > each / 2
    # The rows give the place of each image among the sorted files, as they did.
    assert sorted(found.rows.tolist()) == list(range(classes * each))
    assert torch.equal(found.labels, found.rows // each)
    names = [name.decode() for name in found.files]
    assert names == [f"n{row // each:02}/{row % each}.png" for row in found.rows.tolist()]
    # The order is the same each time, and a smaller limit's images are the first of a larger one's.
    assert torch.equal(open_folder(tmp_path, info, "test").rows, found.rows)
    assert found.rows[:4].tolist() == [44, 57, 157, 64]
    assert open_folder(tmp_path, info, "train").rows.tolist() == list(range(classes * each))


def test_images_are_resized_and_cropped_at_the_centre(tree, info):
    """Against Pillow alone: the shorter side becomes 16 (8/7 of 14), then the middle 14 stay."""
    found = open_folder(tree, info, "test")
    images = found.images_float()
    assert images.shape == (9, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    for position in range(9):
        with Image.open(tree / found.files[position].decode()) as image:
            picture = image.convert("RGB")
        width, height = picture.size
        scale = 16 / min(width, height)
        small = picture.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
        left, top = round((small.width - SIZE) / 2), round((small.height - SIZE) / 2)
        expected = np.asarray(small.crop((left, top, left + SIZE, top + SIZE))) / 255
        assert np.allclose(images[position].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    chosen = torch.tensor([7, 2])
    assert torch.equal(found.images_float(chosen), images[chosen])
    assert torch.equal(found.images_float(slice(2, 5)), images[2:5])


def test_hash_is_of_paths_and_sizes(tree, info):
    found = open_folder(tree, info, "train")
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*.JPEG")):
        digest.update(f"{path.relative_to(tree)}\0{path.stat().st_size}\0".encode())
    assert found.sha256 == digest.hexdigest()
    assert found.take(torch.arange(8), complete=False).sha256 != found.sha256
    with (tree / "n02" / "n02_1.JPEG").open("ab") as file:
        file.write(b"x")
    assert open_folder(tree, info, "train").sha256 != found.sha256
    (tree / "n02" / "n02_1.JPEG").rename(tree / "n02" / "n02_7.JPEG")
    assert open_folder(tree, info, "train").sha256 != found.sha256


def test_missing_class_folders_are_refused(tree, info):
    with pytest.raises(UserError, match="has 3 class folders: tiny needs all 4"):
        open_folder(tree, replace(info, num_classes=4), "train")
    (tree / "n00").mkdir()
    with pytest.raises(UserError, match=r"n00 has no images"):
        open_folder(tree, replace(info, num_classes=4), "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_named_in_one_sentence(tree, info, workers):
    found = open_folder(tree, info, "train")
    for content in (b"", b"\xff\xd8\xff\xe0 not much of an image"):
        (tree / "n02" / "n02_1.JPEG").write_bytes(content)
        message = r"^[^\n]*n02_1.JPEG is not a readable image.*: replace it$"
        with pytest.raises(UserError, match=message):
            found.images_float()
        with pytest.raises(UserError, match=message):
            list(StreamLoader(found, 4, CPU, workers=workers).epoch(0, 1))


def test_an_image_of_too_many_pixels_is_named(tree, info, monkeypatch):
    """Pillow's error for it is neither an OSError nor a ValueError."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"n01_0.JPEG is not a readable image .*pixels.*replace it"):
        open_folder(tree, info, "train").images_float()


def test_sixteen_bit_grey_png_is_scaled(tree, info):
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    grey[0, :2] = 0, 255
    for number, picture in enumerate((grey, grey.astype(np.uint16) * 257)):
        Image.fromarray(picture).save(tree / "n01" / f"n01_{number}.png")
    images = [tree / "n01" / f"n01_{number}.png" for number in range(2)]
    plain, wide = (np.asarray(base.decode_image(path, "L")) for path in images)
    assert np.array_equal(plain, grey)
    assert np.array_equal(wide, grey)
    found = open_folder(tree, info, "train")
    positions = [found.files.tolist().index(b"n01/n01_%d.png" % number) for number in range(2)]
    assert torch.equal(*found.images_float(torch.tensor(positions)))


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint16])
def test_pixels_without_a_known_white_are_refused(tree, info, kind):
    picture = Image.fromarray(np.full((20, 20), 3, kind))
    picture.save(tree / "n02" / "n02_1.tif")
    with pytest.raises(UserError, match=r"n02_1.tif .*save it with 8 bits per channel"):
        open_folder(tree, info, "train").images_float()


def test_a_link_to_nothing_is_named(tree, info):
    for target in ("nothing.png", "link.png"):
        (tree / "n02" / "link.png").symlink_to(target)
        found = open_folder(tree, info, "train")
        for read in (lambda found=found: found.sha256, found.images_float):
            with pytest.raises(UserError, match=r"^\S+link.png .*: replace it$"):
                read()
        (tree / "n02" / "link.png").unlink()


def test_hidden_names_are_no_data(tree, info):
    before = open_folder(tree, info, "train")
    (tree / ".ipynb_checkpoints").mkdir()
    for name in ("._n01_0.JPEG", ".n01_9.png"):
        (tree / "n01" / name).write_bytes(b"not an image")
    found = open_folder(tree, info, "train")
    assert found.info.class_names == ("n01", "n02", "n03")
    assert found.sha256 == before.sha256
    assert found.labels.tolist() == before.labels.tolist()


def test_files_left_out_are_counted(tree, info):
    for number in range(4):
        (tree / "n02" / f"list{number}.csv").touch()
    (note,) = open_folder(tree, info, "test").notes
    assert note == (
        f"7 files in {tree} are not images and are left out: n01/notes.txt, n02/list0.csv, "
        "n02/list1.csv, n02/list2.csv, n02/list3.csv and 2 more"
    )
    for path in [*tree.rglob("*.txt"), *tree.rglob("*.csv")]:
        path.unlink()
    assert open_folder(tree, info, "test").notes == ()


def test_class_folders_too_many_or_missing_are_named(tree, info):
    shutil.copytree(tree, tree.parent / "val")
    (tree / "extras").mkdir()
    (tree / "n02").rename(tree / "n04")
    with pytest.raises(UserError, match=r"has 4 class folders: tiny needs all 3.*") as caught:
        open_folder(tree, info, "train")
    message = str(caught.value)
    assert message.endswith(
        f"; unlike the others: extras; in {tree.parent / 'val'} but not here: n02"
    )


def test_loader_serves_each_image_once(tree, info):
    found = open_folder(tree, info, "train")
    loader = make_loader(found, 4, CPU, Augmentation(4, flip=True))
    assert isinstance(loader, StreamLoader)
    batches = list(loader.epoch(seed=0, epoch=2))
    assert [len(batch.y) for batch in batches] == [4, 4, 1]
    assert loader.steps_per_epoch == 3
    index = torch.cat([batch.index for batch in batches])
    assert sorted(index.tolist()) == list(range(9))
    assert index.tolist() != list(range(9))
    for batch in batches:
        assert torch.equal(batch.y, found.labels[batch.index])
        assert batch.x.dtype == torch.float32
        assert batch.x.shape[1:] == (3, SIZE, SIZE)
        assert 0 <= batch.x.min() <= batch.x.max() <= 1
        assert batch.epoch == 2
    short = make_loader(found, 4, CPU, drop_last=True)
    assert len(list(short.epoch(0, 1))) == short.steps_per_epoch == 2


def epoch_of(split, seed, epoch, workers=0, flip=True):
    batches = list(StreamLoader(split, 4, CPU, flip=flip, workers=workers).epoch(seed, epoch))
    return torch.cat([b.index for b in batches]), torch.cat([b.x for b in batches])


def test_epochs_depend_only_on_seed_and_epoch(tree, info):
    found = open_folder(tree, info, "train")
    state = torch.get_rng_state()
    index, images = epoch_of(found, seed=3, epoch=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    for workers in (0, 2):
        again = epoch_of(found, seed=3, epoch=5, workers=workers)
        assert torch.equal(again[0], index)
        assert torch.equal(again[1], images)
    for seed, epoch in ((3, 6), (4, 5)):
        assert not torch.equal(epoch_of(found, seed, epoch)[1], images)


def test_training_crop_is_torchvisions(tree, info):
    import_torchvision()
    from torchvision.transforms import v2

    found = open_folder(tree, info, "train")
    for flip in (False, True):
        mirror = [v2.RandomHorizontalFlip()] if flip else []
        steps = v2.Compose([v2.RandomResizedCrop(SIZE), *mirror, v2.PILToTensor()])
        for seed in range(4):
            torch.manual_seed(seed)
            expected = steps(found.open_image(4))
            assert torch.equal(found.training_image(4, flip, seed), expected)


def test_validation_split_of_a_folder(tree, info):
    kept, held = split_validation(open_folder(tree, info, "train"), 3, seed=0)
    assert sorted(kept.rows.tolist() + held.rows.tolist()) == list(range(9))
    assert held.split == "val"
    assert held.images_float().shape == (3, 3, SIZE, SIZE)
    assert torch.equal(held.labels, held.rows // 3)


@pytest.fixture
def small_imagenet(monkeypatch, info):
    source = base.DatasetSource(info, imagenet.load)
    monkeypatch.setattr(imagenet, "INFO", replace(info, name="imagenet"))
    monkeypatch.setattr(imagenet, "IMAGENET", source)


@pytest.mark.usefixtures("small_imagenet")
@pytest.mark.parametrize("inside", ["imagenet", "."])
def test_imagenet_is_found_in_its_folder_or_in_the_root(tree, tmp_path, inside):
    root = tmp_path / "root"
    (root / inside).mkdir(parents=True)
    tree.rename(root / inside / "val")
    data = load_dataset("imagenet", root, splits=("test",))
    assert len(data.test) == 9
    assert data.info.class_names == ("n01", "n02", "n03")
    with pytest.raises(UserError, match=r"imagenet is not in .*put its class folders in .*train"):
        load_dataset("imagenet", root)


@pytest.mark.usefixtures("small_imagenet")
def test_splits_must_have_the_same_classes(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "val")
    assert len(load_dataset("imagenet", tmp_path).train) == 9
    (tmp_path / "val" / "n02").rename(tmp_path / "val" / "n04")
    match = r"imagenet have different class folders \(n02, n04\)"
    with pytest.raises(UserError, match=match):
        load_dataset("imagenet", tmp_path)


@pytest.mark.usefixtures("small_imagenet")
def test_robustbenchs_images_are_a_set_of_their_own(tree, tmp_path, monkeypatch, info):
    tree.rename(tmp_path / "val")
    part = replace(info, name="imagenet-robustbench", max_test_size=4, part_of="imagenet")
    monkeypatch.setattr(imagenet, "ROBUSTBENCH", part)
    listed = ["n03/n03_1.JPEG", "n01/n01_0.JPEG", "n02/n02_2.JPEG", "n01/n01_2.JPEG"]
    monkeypatch.setattr(imagenet, "robustbench_images", lambda: listed)
    data = load_dataset("imagenet-robustbench", tmp_path, splits=("test",))
    found, whole = data.test, load_dataset("imagenet", tmp_path, splits=("test",)).test
    assert {os.fsdecode(name) for name in found.files} == set(listed)
    assert [f"n0{label + 1}" for label in found.labels] == [n[:3].decode() for n in found.files]
    assert found.complete
    assert data.info.name == "imagenet-robustbench"
    # In the order of the whole test set, of which it keeps the rows.
    assert [whole.files[whole.rows.tolist().index(row)] for row in found.rows.tolist()] == list(
        found.files
    )
    listed.append("n02/n02_7.JPEG")
    with pytest.raises(UserError, match=r"val lacks 1 of RobustBench's 5 images: add n02/n02_7"):
        load_dataset("imagenet-robustbench", tmp_path, splits=("test",))


def test_robustbench_lists_5000_images():
    pytest.importorskip("gdown", reason="RobustBench is not installed")
    found = imagenet.robustbench_images()
    assert len(set(found)) == len(found) == imagenet.ROBUSTBENCH.max_test_size
    assert all(re.fullmatch(r"n\d{8}/ILSVRC2012_val_\d{8}\.JPEG", name) for name in found)
