"""Weather. Images are float64 [H, W, 3] in [0, 1]; what leaves [0, 1] is cut off by the caller."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.corruptions.blur import smeared, zoomed

Image = NDArray[np.float64]

GREY = np.array([0.299, 0.587, 0.114])
ICE = np.array([0.85, 0.93, 1.0])


def snow(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """Flakes that fall in two opposite slants, over an image that is paler."""
    mean, deviation, zoom, least, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    layer = zoomed(generator.normal(mean, deviation, (*x.shape[:2], 1)), zoom)
    flakes = np.clip(np.where(layer < least, 0, layer), 0, 1)
    flakes = smeared(flakes, int(radius), sigma, generator.uniform(-135, -45))
    pale = np.maximum(x, (x @ GREY)[:, :, None] * 1.5 + 0.5)
    found: Image = kept * x + (1 - kept) * pale + flakes + np.rot90(flakes, 2)
    return found


def frost_synthetic(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """A drawn texture of ice over the image, in the published proportions."""
    kept, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    return kept * x + ice * ice_texture(len(x), generator)


def ice_texture(size: int, generator: np.random.Generator) -> Image:
    """Needles in three directions over uneven ground, bluish white: [size, size, 3] in [0, 1]."""
    ground = plasma(size, 1.8, generator)
    needles = np.zeros((size, size))
    for angle in generator.uniform(0, 180, 3):
        seeds = (generator.random((size, size, 1)) < 0.06).astype(np.float64)
        needles = np.maximum(needles, smeared(seeds, 6, 4, angle)[:, :, 0])
    texture = 0.6 * ground + 0.4 * needles / needles.max(initial=1e-12)
    tinted: Image = texture[:, :, None] * ICE
    return tinted


def fog(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """A bright cloud over the image, which keeps its largest value."""
    density, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    cloud = plasma(len(x), decay, generator)[:, :, None]
    brightest = float(x.max())
    found: Image = (x + density * cloud) * brightest / (brightest + density)
    return found


def brightness(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """A larger value of HSV; hue and saturation stay, so that channels keep their proportions."""
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = x.max(axis=2, keepdims=True)
    raised = np.clip(value + more, 0, 1)
    found: Image = np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised)
    return found


def plasma(size: int, decay: float, generator: np.random.Generator) -> Image:
    """A fractal height map [size, size] from 0 to 1 by diamonds and squares on a torus.

    Source: A. Fournier, D. Fussell and L. Carpenter, CACM 25 (1982) 371-384.

    Args:
        size: a power of two.
        decay: by which the random part falls with each halving of the step; its square acts.
        generator: of the random part.
    """
    field = np.zeros((size, size))
    step, height = size, 100.0
    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        square = corners + np.roll(corners, -1, 0)
        square = square + np.roll(square, -1, 1)
        centres = square / 4 + _wobble(square.shape, height, generator)
        field[half::step, half::step] = centres
        above = centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1)
        field[::step, half::step] = above / 4 + _wobble(above.shape, height, generator)
        beside = centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0)
        field[half::step, ::step] = beside / 4 + _wobble(beside.shape, height, generator)
        step, height = half, height / decay
    field -= field.min()
    scaled: Image = field / field.max()
    return scaled


def _wobble(shape: tuple[int, ...], height: float, generator: np.random.Generator) -> Image:
    return height * generator.uniform(-height, height, shape)
