"""Random crops, flips, rotations and AutoAugment of batches of training images.

Cubuk et al.: AutoAugment: Learning Augmentation Policies from Data, CVPR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.compat import import_torchvision

# Fill value where a rotation or a shift uncovers pixels, as in the policy's first PyTorch release.
FILL = 128.0
SEEDS = 2**63 - 1


def crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Cut a window of the original size out of each image padded with zeros.

    Args:
        images: [B, K, H, W].
        offsets: int64 [B, 2], the top and left of each window in the padded image, in 0..2*padding;
            ``padding`` in both leaves the image unchanged.
        padding: width of the padding in pixels.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    each = torch.arange(len(images), device=images.device)
    return windows[each, :, offsets[:, 0], offsets[:, 1]]


def reflect_crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """``crop`` with reflection padding, which does not repeat the edge pixels.

    ``padding`` must be less than the height and the width.
    """
    rows, columns = (
        _reflected(offsets[:, axis, None] + torch.arange(size, device=images.device), size, padding)
        for axis, size in enumerate(images.shape[2:])
    )
    each = torch.arange(len(images), device=images.device)[:, None, None]
    pixels_BHWK = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return pixels_BHWK.permute(0, 3, 1, 2).contiguous()


def _reflected(position: Tensor, size: int, padding: int) -> Tensor:
    """Map positions in a padded axis to positions in the axis of ``size`` pixels."""
    inside = (position - padding).abs()
    return torch.minimum(inside, 2 * (size - 1) - inside)


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror horizontally the images [B, K, H, W] for which ``mirrored`` (bool [B]) is true."""
    columns = torch.arange(images.shape[3], device=images.device)
    source = torch.where(mirrored[:, None], columns.flip(0), columns)
    return images.gather(3, source[:, None, None, :].expand(images.shape))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each image [B, K, H, W] anticlockwise about its centre by ``degrees`` [B].

    Nearest-neighbour interpolation; pixels from outside the image are zero.
    """
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device)[:, None] + 0.5 - height / 2
    x = torch.arange(width, device=images.device)[None, :] + 0.5 - width / 2
    angle = (degrees * (math.pi / 180))[:, None, None]
    column = (angle.cos() * x - angle.sin() * y + width / 2).floor().long()
    row = (angle.sin() * x + angle.cos() * y + height / 2).floor().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    source = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    flat = images.flatten(2)
    rotated = flat.gather(2, source.flatten(1)[:, None].expand(flat.shape)).view(images.shape)
    return rotated * inside[:, None].to(images.dtype)


def random_rotation(images: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """``rotate`` each image by an angle drawn uniformly from +-``most`` degrees."""
    degrees = torch.empty(len(images), device=generator.device)
    degrees.uniform_(-most, most, generator=generator)
    return rotate(images, degrees.to(images.device, non_blocking=True))


def autoaugmented(images: Tensor, seed: int) -> Tensor:
    """AutoAugmented copies of images, uint8 [B, K, H, W], on the CPU.

    The sub-policy of each image is drawn from the seed. The sub-policies are those of AutoAugment's
    CIFAR-10 policy for every dataset.
    """
    policy = _policy(images.shape[1])
    # torchvision draws from torch's global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([policy(image) for image in images.cpu()])


@cache
def _policy(channels: int) -> Callable[[Tensor], Tensor]:
    transforms = import_torchvision("torchvision.transforms")
    made: Callable[[Tensor], Tensor] = transforms.AutoAugment(
        transforms.AutoAugmentPolicy.CIFAR10, fill=[FILL] * channels
    )
    return made


@dataclass(frozen=True)
class Augmentation:
    """AutoAugment, random crop, flip and rotation of each training image, in this order.

    Attributes:
        crop_padding: padding of the random crop in pixels; 0 is no crop.
        flip: mirror half of the images.
        crop_mode: the padding's content: ``zero`` or ``reflect``.
        rotation: the largest angle in degrees; 0 is no rotation.
        autoaugment: apply AutoAugment to each image, which must be uint8.
    """

    crop_padding: int = 0
    flip: bool = False
    crop_mode: str = "zero"
    rotation: float = 0.0
    autoaugment: bool = False

    @property
    def views(self) -> int | None:
        """Number of different views of one image; None with rotation or AutoAugment."""
        if self.rotation or self.autoaugment:
            return None
        return (2 * self.crop_padding + 1) ** 2 * (2 if self.flip else 1)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of images [B, K, H, W]; random numbers come from ``generator``."""
        return self.viewed(images, generator)[0]

    def viewed(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Augmented copies and the view number of each: int64 [B] on the generator's device.

        With (top, left) the crop's offsets, p its padding and m whether the image is mirrored, a
        view's number is (top (2p + 1) + left) 2 + m, or top (2p + 1) + left if there is no flip.
        The numbers are None if ``views`` is.
        """
        count, where = len(images), generator.device
        if self.autoaugment:
            seed = int(torch.randint(SEEDS, (), generator=generator, device=where))
            images = autoaugmented(images, seed).to(images.device)
        view = torch.zeros(count, dtype=torch.int64, device=where)
        if self.crop_padding:
            side = 2 * self.crop_padding + 1
            offsets = torch.randint(side, (count, 2), generator=generator, device=where)
            cut = reflect_crop if self.crop_mode == "reflect" else crop
            images = cut(images, offsets.to(images.device, non_blocking=True), self.crop_padding)
            view = offsets[:, 0] * side + offsets[:, 1]
        if self.flip:
            coins = torch.randint(2, (count,), generator=generator, device=where)
            images = flip(images, coins.to(images.device, non_blocking=True).bool())
            view = 2 * view + coins
        if self.rotation:
            images = random_rotation(images, self.rotation, generator)
        return images, None if self.views is None else view
