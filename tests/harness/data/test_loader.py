import multiprocessing

import pytest
import torch

from harness.data import loader
from harness.data.augment import Augmentation, crop, flip
from harness.data.base import ImageSet
from harness.data.loader import DeviceLoader, make_loader
from harness.errors import UserError
from harness.seeding import derive_seed

CPU = torch.device("cpu")


def crop_one(image, top, left, padding):
    """One image [K, H, W], pixel by pixel."""
    out = torch.zeros_like(image)
    height, width = image.shape[1:]
    for row in range(height):
        for column in range(width):
            r, c = row + top - padding, column + left - padding
            if 0 <= r < height and 0 <= c < width:
                out[:, row, column] = image[:, r, c]
    return out


@pytest.mark.parametrize("padding", [1, 2, 9])
@pytest.mark.parametrize("shape", [(7, 3, 6, 6), (4, 1, 8, 5), (1, 3, 6, 6)])
def test_crop_is_the_plain_loop(padding, shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    offsets = torch.randint(2 * padding + 1, (shape[0], 2))
    offsets[0] = torch.tensor([0, 2 * padding])
    cropped = crop(images, offsets, padding)
    for image, (top, left), found in zip(images, offsets.tolist(), cropped, strict=True):
        assert torch.equal(found, crop_one(image, top, left, padding))
    assert cropped.dtype == torch.uint8
    middle = torch.full((shape[0], 2), padding)
    assert torch.equal(crop(images, middle, padding), images)


def test_flip_is_the_plain_loop():
    images = torch.randint(0, 256, (9, 3, 6, 5), dtype=torch.uint8)
    mirrored = torch.arange(9) % 3 == 0
    flipped = flip(images, mirrored)
    for image, turned, found in zip(images, mirrored.tolist(), flipped, strict=True):
        assert torch.equal(found, torch.stack(list(image.unbind(2))[::-1], 2) if turned else image)


def test_random_crop_draws_each_window_for_each_image():
    """A marked pixel tells the offset; all 25 occur about equally often, rows and columns apart."""
    images = torch.zeros(5000, 1, 9, 9, dtype=torch.uint8)
    images[:, 0, 4, 4] = 1
    cropped = Augmentation(2)(images, torch.Generator().manual_seed(0))
    _, _, rows, columns = cropped.nonzero(as_tuple=True)
    counts = torch.bincount((rows - 2) * 5 + columns - 2, minlength=25)
    assert len(counts) == 25
    chi_squared = ((counts - 200.0) ** 2 / 200).sum()
    assert chi_squared < 51.2  # the 0.1 percent point at 24 degrees of freedom


def test_random_flip_is_fair_and_per_image():
    images = torch.zeros(5000, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = 1
    turned = Augmentation(flip=True)(images, torch.Generator().manual_seed(0))[:, 0, 0, 1]
    assert abs(turned.float().mean() - 0.5) < 3.3 * 0.5 / 5000**0.5


def test_batch_is_what_the_seed_drew(image_set):
    """The whole epoch again, image by image, from a generator in the documented state."""
    loader = DeviceLoader(image_set, 8, CPU, Augmentation(2, flip=True))
    generator = torch.Generator().manual_seed(derive_seed(7, "loader", 3))
    order = torch.randperm(20, generator=generator)
    for step, batch in enumerate(loader.epoch(seed=7, epoch=3)):
        index = order[8 * step : 8 * step + 8]
        offsets = torch.randint(5, (len(index), 2), generator=generator)
        coins = torch.randint(2, (len(index),), generator=generator)
        assert torch.equal(batch.index, index)
        assert torch.equal(batch.y, image_set.labels[index])
        assert batch.epoch == 3
        for i, row in enumerate(index):
            expected = crop_one(image_set.images[row], *offsets[i].tolist(), 2)
            expected = expected.flip(2) if coins[i] else expected
            assert torch.equal(batch.x[i], expected.float() / 255)


@pytest.mark.parametrize(
    ("batch_size", "drop_last"), [(6, False), (6, True), (5, True), (64, False)]
)
def test_each_epoch_visits_each_row_once(image_set, batch_size, drop_last):
    loader = DeviceLoader(image_set, batch_size, CPU, Augmentation(2, flip=True), drop_last)
    seen = []
    for epoch in (1, 2):
        batches = list(loader.epoch(0, epoch))
        assert len(batches) == loader.steps_per_epoch
        rows = torch.cat([batch.index for batch in batches]).tolist()
        assert len(set(rows)) == len(rows) == (20 // batch_size * batch_size if drop_last else 20)
        seen.append(rows)
    assert seen[0] != seen[1]


def whole_epoch(loader, seed, epoch):
    batches = list(loader.epoch(seed, epoch))
    return torch.cat([b.index for b in batches]), torch.cat([b.x for b in batches])


def test_epochs_depend_only_on_seed_and_epoch(image_set):
    loader = DeviceLoader(image_set, 6, CPU, Augmentation(2, flip=True))
    index, images = whole_epoch(loader, 1, 4)
    state = torch.get_rng_state()
    restarted = DeviceLoader(image_set, 6, CPU, Augmentation(2, flip=True))
    list(restarted.epoch(1, 3))
    torch.rand(5)
    again = whole_epoch(restarted, 1, 4)
    assert torch.equal(again[0], index)
    assert torch.equal(again[1], images)
    torch.set_rng_state(state)
    for seed, epoch in ((1, 5), (2, 4)):
        assert not torch.equal(whole_epoch(loader, seed, epoch)[0], index)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_augmentation_images_are_as_stored(image_set):
    index, images = whole_epoch(DeviceLoader(image_set, 6, CPU), 0, 1)
    assert torch.equal(images, image_set.images_float(index))
    assert image_set.images.dtype == torch.uint8


def test_a_batch_does_not_write_through_to_the_set(image_set):
    before = image_set.images.clone()
    for batch in DeviceLoader(image_set, 20, CPU).epoch(0, 1):
        batch.x.zero_()
        batch.y.zero_()
    assert torch.equal(image_set.images, before)
    assert image_set.labels.any()


def test_make_loader_picks_the_device_loader(image_set):
    loader = make_loader(image_set, 6, CPU, Augmentation(2, flip=True), drop_last=True, workers=3)
    assert isinstance(loader, DeviceLoader)
    assert loader.steps_per_epoch == 3


def test_an_epoch_without_batches_is_refused(image_set, info):
    with pytest.raises(UserError, match="tiny has 20 training images, fewer than a batch of 21"):
        DeviceLoader(image_set, 21, CPU, drop_last=True)
    empty = ImageSet(image_set.images[:0], image_set.labels[:0], info, "train")
    with pytest.raises(UserError, match="tiny has 0 training images"):
        DeviceLoader(empty, 4, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_same_batches(image_set):
    cuda = torch.device("cuda")
    here = DeviceLoader(image_set, 6, CPU, Augmentation(2, flip=True))
    there = DeviceLoader(image_set, 6, cuda, Augmentation(2, flip=True))
    for mine, its in zip(here.epoch(0, 1), there.epoch(0, 1), strict=True):
        assert its.x.device.type == "cuda"
        assert torch.equal(mine.x, its.x.cpu())
        assert torch.equal(mine.index, its.index.cpu())


def test_workers_are_spawned_where_there_is_no_fork_server(monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert loader._server().get_start_method() == "spawn"
    monkeypatch.undo()
    assert loader._server().get_start_method() == "forkserver"
