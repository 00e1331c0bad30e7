"""Batches with further views by AutoAugment: which images, by which seed, and what is refused."""

import importlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.compat import import_torchvision
from harness.data.augment import Augmentation
from harness.data.autoaugment import AutoAugmentedLoader, autoaugmented, with_views
from harness.data.base import ImageSet
from harness.data.imagenet import FolderSet
from harness.data.loader import DeviceLoader, Loader
from harness.errors import UserError
from harness.seeding import derive_seed
from tests.harness.data.test_loader import crop_one

CPU = torch.device("cpu")


@pytest.fixture
def smooth(image_set: ImageSet) -> ImageSet:
    """Images of 16 pixels, which shears and rotations change as they do real ones."""
    steps = torch.linspace(0, 150, 16)
    pattern = (steps[:, None] + steps.flip(0)[None]) / 2
    images = pattern + torch.linspace(0, 100, 20)[:, None, None, None].expand(20, 3, 1, 1)
    info = replace(image_set.info, image_size=16)
    return ImageSet(images.to(torch.uint8), image_set.labels, info, "train")


def loader(split: ImageSet, padding: int = 0, flip: bool = False) -> DeviceLoader:
    return DeviceLoader(split, 8, CPU, Augmentation(padding, flip=flip))


def views(loader: Loader, seed: int = 0, epoch: int = 1) -> list[Tensor]:
    return [other.x for batch in loader.epoch(seed, epoch) for other in batch.others]


def test_batches_stay_as_they_are_and_bring_views_of_their_images(smooth):
    plain = loader(smooth, 2, flip=True)
    augmented = with_views(plain, smooth, 2)
    assert augmented.steps_per_epoch == plain.steps_per_epoch == 3
    assert augmented.smallest_batch == plain.smallest_batch == 4
    for ours, theirs in zip(augmented.epoch(0, 1), plain.epoch(0, 1), strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.index, theirs.index)
        assert len(ours.others) == 2
        assert theirs.others == ()
        for other in ours.others:
            assert other.x.shape == ours.x.shape
            assert other.x.dtype == torch.float32
            assert 0 <= other.x.min()
            assert other.x.max() <= 1
            assert torch.equal(other.y, ours.y)
            assert torch.equal(other.index, ours.index)
            assert other.epoch == 1


def test_a_view_is_torchvisions_policy_by_the_seed_of_its_epoch_step_and_number(smooth):
    import_torchvision()
    transforms = importlib.import_module("torchvision.transforms")
    policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=[128.0] * 3)
    augmented = AutoAugmentedLoader(loader(smooth), smooth.images, 2)
    for step, batch in enumerate(augmented.epoch(5, 3)):
        for view, other in enumerate(batch.others):
            with torch.random.fork_rng():
                torch.manual_seed(derive_seed(5, "autoaugment", 3, step, view))
                expected = torch.stack([policy(smooth.images[row]) for row in batch.index])
            assert torch.equal(other.x, expected.float() / 255)


def test_views_differ_from_each_other_and_come_again_with_their_seed(smooth):
    augmented = with_views(loader(smooth, 2, flip=True), smooth, 2)
    first = views(augmented)
    assert all(torch.equal(a, b) for a, b in zip(first, views(augmented), strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], views(augmented, epoch=2)[0])
    assert not torch.equal(first[0], views(augmented, seed=1)[0])


def test_views_are_cropped_and_flipped_again(smooth):
    """Each is the view without crop and flip, moved by a generator in the documented state."""
    still = views(with_views(loader(smooth), smooth, 1))
    moved = views(with_views(loader(smooth, 3, flip=True), smooth, 1))
    for step, (before, after) in enumerate(zip(still, moved, strict=True)):
        seed = derive_seed(0, "autoaugment", 1, step, 0, "crop and flip")
        generator = torch.Generator().manual_seed(seed)
        offsets = torch.randint(7, (len(before), 2), generator=generator)
        coins = torch.randint(2, (len(before),), generator=generator)
        for image, found, offset, coin in zip(before, after, offsets, coins, strict=True):
            expected = crop_one(image, *offset.tolist(), 3)
            assert torch.equal(found, expected.flip(2) if coin else expected)


def test_the_global_random_state_stays(smooth):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    autoaugmented(smooth.images, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_grey_images_are_augmented_too(smooth):
    grey = smooth.images[:, :1]
    changed = autoaugmented(grey, 3)
    assert changed.shape == grey.shape
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, grey)


def test_other_images_than_originals_in_memory_are_refused(smooth):
    class NotInMemory:
        """A loader of images that are not in memory."""

    for refused, split in ((NotInMemory(), smooth), (loader(smooth), FolderSet.__new__(FolderSet))):
        assert with_views(refused, split, 0) is refused
        with pytest.raises(UserError, match=r"set data.generated_fraction=0.* params.views=0"):
            with_views(refused, split, 2)
