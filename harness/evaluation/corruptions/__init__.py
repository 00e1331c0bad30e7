"""Common corruptions of images of 32 x 32 pixels: fifteen kinds, five severities.

Kinds and parameters are those of CIFAR-10-C (Hendrycks and Dietterich, Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations, ICLR 2019). The images are computed here and
not downloaded, each from a seed of its own, so they are not the published ones pixel for pixel:

- ``frost-synthetic`` has a drawn texture in place of photographs of ice, and a name of its own:
  its accuracy, and a mean in which it is, is not comparable with published ones;
- results are rounded to eight bits, where the published ones are cut off;
- motion blur is that of ImageMagick in kernel and angle, without its intermediate rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.evaluation.corruptions import blur, digital, noise, weather
from harness.registry import unknown_name
from harness.seeding import derive_seed

Image = NDArray[np.float64]
Corruption = Callable[[Image, int, np.random.Generator], Image]

VERSION = 1
SIZE = 32
SEVERITIES = (1, 2, 3, 4, 5)
GROUPS: dict[str, dict[str, Corruption]] = {
    "noise": {
        "gaussian-noise": noise.gaussian_noise,
        "shot-noise": noise.shot_noise,
        "impulse-noise": noise.impulse_noise,
    },
    "blur": {
        "defocus-blur": blur.defocus_blur,
        "glass-blur": blur.glass_blur,
        "motion-blur": blur.motion_blur,
        "zoom-blur": blur.zoom_blur,
    },
    "weather": {
        "snow": weather.snow,
        "frost-synthetic": weather.frost_synthetic,
        "fog": weather.fog,
        "brightness": weather.brightness,
    },
    "digital": {
        "contrast": digital.contrast,
        "elastic-transform": digital.elastic_transform,
        "pixelate": digital.pixelate,
        "jpeg-compression": digital.jpeg_compression,
    },
}
CORRUPTIONS: dict[str, Corruption] = {
    name: function for group in GROUPS.values() for name, function in group.items()
}


def corrupt(image: NDArray[np.uint8], name: str, severity: int, *seed: object) -> NDArray[np.uint8]:
    """An image [H, W, 3] of eight bits, corrupted; the same for the same seed.

    Args:
        image: of ``SIZE`` pixels in height and width.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: what the image's random numbers depend on, beside the corruption and its severity.

    Raises:
        UserError: the image has another shape.
    """
    if image.shape != (SIZE, SIZE, 3):
        raise UserError(
            f"common corruptions are for colour images of {SIZE} x {SIZE} pixels, and these have "
            f"shape {list(image.shape)}: choose cifar10 or cifar100"
        )
    generator = np.random.default_rng(derive_seed("corruption", name, severity, *seed))
    found = CORRUPTIONS[name](image.astype(np.float64) / 255, severity, generator)
    return np.rint(255 * np.clip(found, 0, 1)).astype(np.uint8)


def chosen(text: str) -> tuple[str, ...]:
    """``"noise,fog"`` as names in the order of ``CORRUPTIONS``; ``all`` is every one.

    Raises:
        UserError: a part is neither a corruption nor a group.
    """
    names: set[str] = set()
    for part in (part.strip() for part in text.split(",")):
        if part == "all":
            names |= set(CORRUPTIONS)
        elif part in GROUPS:
            names |= set(GROUPS[part])
        elif part in CORRUPTIONS:
            names.add(part)
        else:
            raise UserError(unknown_name("corruption", part, ["all", *GROUPS, *CORRUPTIONS]))
    return tuple(name for name in CORRUPTIONS if name in names)
