"""Reflected crops against numpy's padding, rotations against Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.augment import Augmentation, random_rotation, reflect_crop, rotate


@pytest.mark.parametrize("padding", [1, 4])
def test_reflected_crop_is_numpys(padding):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (30, 3, 6, 5), dtype=torch.uint8)
    offsets = torch.randint(2 * padding + 1, (30, 2))
    border = [(0, 0), (padding, padding), (padding, padding)]
    cropped = reflect_crop(images, offsets, padding)
    assert cropped.dtype == torch.uint8
    for image, (top, left), found in zip(images, offsets.tolist(), cropped, strict=True):
        bordered = np.pad(image.numpy(), border, mode="reflect")
        assert np.array_equal(found.numpy(), bordered[:, top : top + 6, left : left + 5])


def test_rotation_is_pillows():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 32, 32), dtype=torch.uint8)
    degrees = torch.empty(40).uniform_(-40, 40)
    expected = [
        np.asarray(Image.fromarray(image[0].numpy()).rotate(float(angle)))
        for image, angle in zip(images, degrees, strict=True)
    ]
    different = rotate(images, degrees)[:, 0].numpy() != np.stack(expected)
    # Pillow computes in fixed point: a pixel on an edge may fall to the other side.
    assert different.mean() < 1e-3


def test_rotation_by_nothing_and_by_quarters():
    images = torch.randint(0, 256, (3, 2, 7, 7), dtype=torch.uint8)
    assert torch.equal(rotate(images, torch.zeros(3)), images)
    quarter = rotate(images, torch.full((3,), 90.0))
    assert torch.equal(quarter, images.rot90(1, (2, 3)))


def test_random_angles_fill_their_range_on_both_sides():
    images = torch.zeros(2000, 1, 65, 65, dtype=torch.uint8)
    images[:, 0, 32, 64] = 1
    turned = random_rotation(images, 15, torch.Generator().manual_seed(0))
    rows = turned[:, 0].amax(2).float().argmax(1)[turned.flatten(1).any(1)]
    reach = 32 * np.sin(np.radians(15))
    assert rows.min() == pytest.approx(32 - reach, abs=1)
    assert rows.max() == pytest.approx(32 + reach, abs=1)
    assert abs(rows.float().mean() - 32) < 0.5


def test_an_augmentation_without_any_is_the_identity():
    images = torch.randint(0, 256, (3, 1, 4, 4), dtype=torch.uint8)
    assert Augmentation()(images, torch.Generator()) is images
    changed = Augmentation(2, True, "reflect", 15.0)(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert not torch.equal(changed, images)
