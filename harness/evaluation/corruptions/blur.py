"""Blur. Images are float64 [H, W, 3] in [0, 1]; what leaves [0, 1] is cut off by the caller."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]


def defocus_blur(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """A disk of that radius in pixels, its edge softened."""
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    kernel = disk(radius, soft)
    blurred: Image = ndimage.correlate(x, kernel[:, :, None], mode="mirror")
    return blurred


def disk(radius: float, soft: float) -> Image:
    """A kernel [17, 17] that sums to 1; ``soft`` is the deviation of a 3 x 3 Gaussian on it."""
    line = np.arange(-8, 9)
    inside = (line[:, None] ** 2 + line[None, :] ** 2 <= radius**2).astype(np.float64)
    edge = math.exp(-1 / (2 * soft**2))
    taps = np.array([edge, 1, edge]) / (1 + 2 * edge)
    softened: Image = ndimage.correlate(inside / inside.sum(), np.outer(taps, taps), mode="mirror")
    return softened


def glass_blur(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """Each pixel takes the value of a near one, between two Gaussian blurs.

    The published code means to swap the two, but comes to copying one; so it is done here.
    """
    sigma, reach, times = (
        (0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2),
    )[severity - 1]  # fmt: skip
    blurred = np.rint(255 * gaussian(x, sigma)) / 255
    size = len(x)
    source = np.arange(size * size).reshape(size, size)
    for _ in range(times):
        steps = generator.integers(-reach, reach, size=(size, size, 2))
        for row in range(size - reach, reach, -1):
            for column in range(size - reach, reach, -1):
                right, down = steps[row - reach, column - reach]
                source[row, column] = source[row + down, column + right]
    return gaussian(blurred.reshape(-1, 3)[source], sigma)


def motion_blur(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """A smear within 45 degrees of the horizontal."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    return smeared(x, radius, sigma, generator.uniform(-45, 45))


def zoom_blur(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """The mean of the image and of enlargements of it in steps of 1%."""
    steps = (6, 11, 16, 21, 26)[severity - 1]
    enlarged = [zoomed(x, 1 + 0.01 * step) for step in range(steps)]
    return (x + sum(enlarged)) / (steps + 1)


def gaussian(x: Image, sigma: float) -> Image:
    """A Gaussian blur of each channel; the edge's values go on outside."""
    blurred: Image = ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest", truncate=4)
    return blurred


def smeared(x: Image, radius: int, sigma: float, angle: float) -> Image:
    """Half a Gaussian of 2 ``radius`` + 1 whole pixels along a line of that angle in degrees."""
    length = 2 * radius + 1
    weights = np.exp(-(np.arange(length) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    rows, columns = np.arange(x.shape[0]), np.arange(x.shape[1])
    found = np.zeros_like(x)
    for step, weight in enumerate(weights):
        row = np.clip(rows + math.ceil(step * down - 0.5), 0, x.shape[0] - 1)
        column = np.clip(columns + math.ceil(step * right - 0.5), 0, x.shape[1] - 1)
        found += weight * x[row][:, column]
    return found


def zoomed(x: Image, factor: float) -> Image:
    """The middle of a square image [H, H, K], enlarged to the whole."""
    size = len(x)
    kept = math.ceil(size / factor)
    top = (size - kept) // 2
    inner = x[top : top + kept, top : top + kept]
    large: Image = ndimage.zoom(inner, (factor, factor, 1), order=1)
    trim = (len(large) - size) // 2
    return large[trim : trim + size, trim : trim + size]
