"""Batches mixed by CutMix: images, labels, what decides them, and what is refused."""

from dataclasses import replace

import pytest
import torch

from harness.data.augment import Augmentation
from harness.data.base import ImageSet
from harness.data.batch import Batch
from harness.data.cutmix import CutMixLoader, box
from harness.data.loader import DeviceLoader
from harness.seeding import seeded_generator

CPU = torch.device("cpu")


def plain(image_set: ImageSet) -> DeviceLoader:
    return DeviceLoader(image_set, 8, CPU, Augmentation(1, flip=True))


def epoch(image_set: ImageSet, probability: float, seed: int = 0, number: int = 1) -> list[Batch]:
    loader = CutMixLoader(plain(image_set), image_set.info.num_classes, probability)
    return list(loader.epoch(seed, number))


def test_labels_are_mixed_in_the_ratio_of_the_pixels(image_set):
    """Every pixel is the image's own or that of one other image of the batch."""
    torch.manual_seed(0)
    images = torch.randint(256, (20, 3, 16, 16), dtype=torch.uint8)
    info = replace(image_set.info, image_size=16)
    loader = DeviceLoader(ImageSet(images, image_set.labels, info, "train"), 8, CPU)
    shares = []
    for number in range(1, 11):
        before = loader.epoch(0, number)
        for batch, own in zip(
            CutMixLoader(loader, info.num_classes, 1).epoch(0, number), before, strict=True
        ):
            assert batch.soft_labels is not None
            stays = (batch.x == own.x).all(1)
            share = float(stays.float().mean((1, 2)).min())
            for row, kept in enumerate(stays):
                comes = (batch.x[row] == own.x).all(1).logical_or(kept).all(2).all(1)
                other = row if kept.all() else int(comes.nonzero())
                expected = torch.zeros(info.num_classes)
                expected[own.y[row]] += share
                expected[own.y[other]] += 1 - share
                torch.testing.assert_close(batch.soft_labels[row], expected)
                assert batch.y[row] == own.y[row if share >= 0.5 else other]
            shares.append(share)
    assert min(shares) < 0.4
    assert max(shares) > 0.9


def test_probability_counts_batches_and_zero_changes_none(image_set):
    share = [b.soft_labels is not None for n in range(1, 101) for b in epoch(image_set, 0.3, 0, n)]
    assert len(share) == 300
    assert sum(share) / 300 == pytest.approx(0.3, abs=3 * (0.21 / 300) ** 0.5)
    for ours, theirs in zip(epoch(image_set, 0), plain(image_set).epoch(0, 1), strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert ours.targets is ours.y
        assert torch.equal(ours.y, theirs.y)
        assert ours.view is None


def test_batches_depend_on_seed_and_epoch_alone(image_set):
    same, again = epoch(image_set, 1), epoch(image_set, 1)
    assert all(torch.equal(a.x, b.x) for a, b in zip(same, again, strict=True))
    for other in (epoch(image_set, 1, seed=1), epoch(image_set, 1, number=2)):
        assert not all(torch.equal(a.targets, b.targets) for a, b in zip(same, other, strict=True))


def test_the_area_of_a_box_is_uniform_before_it_is_cut_off():
    generator = seeded_generator(CPU, 0, "boxes")
    areas = []
    for _ in range(4000):
        rows, columns = box((64, 64), generator)
        assert 0 <= rows.start <= rows.stop <= 64
        assert 0 <= columns.start <= columns.stop <= 64
        inside = rows.start > 0 and columns.start > 0 and rows.stop < 64 and columns.stop < 64
        if inside:
            assert rows.stop - rows.start == columns.stop - columns.start
        areas.append((rows.stop - rows.start) * (columns.stop - columns.start) / 64**2)
    # For a uniform area a and a uniform centre, each side of length s = sqrt(a) keeps s (1 - s/4)
    # on average, so that the mean is the integral of a (1 - sqrt(a)/4)^2, which is 0.33125.
    assert sum(areas) / 4000 == pytest.approx(0.33125, abs=0.02)
