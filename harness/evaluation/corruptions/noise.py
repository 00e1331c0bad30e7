"""Noise. Images are float64 [H, W, 3] in [0, 1]; what leaves [0, 1] is cut off by the caller."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]


def gaussian_noise(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """Independent normal noise on every value."""
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + generator.normal(scale=sigma, size=x.shape)


def shot_noise(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """Poisson counts of so many photons at full brightness."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return generator.poisson(x * photons) / photons


def impulse_noise(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """A share of all values becomes 0 or 1, evenly."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    hit = generator.random(x.shape) < share
    return np.where(hit, (generator.random(x.shape) < 0.5).astype(np.float64), x)
