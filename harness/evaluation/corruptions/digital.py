"""Digital. Images are float64 [H, W, 3] in [0, 1]; what leaves [0, 1] is cut off by the caller."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

Image = NDArray[np.float64]


def contrast(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """Each channel drawn to its mean."""
    kept = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    means = x.mean(axis=(0, 1), keepdims=True)
    found: Image = (x - means) * kept + means
    return found


def elastic_transform(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """A random affine map, then a smooth random displacement of each pixel."""
    size = len(x)
    height, smooth, corner = (
        size * np.array(
            [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05),
             (0.1, 0.03, 0.03)]
        )
    )[severity - 1]  # fmt: skip
    moved = affine(x, generator.uniform(-corner, corner, (3, 2)))
    right, down = (
        height
        * ndimage.gaussian_filter(
            generator.uniform(-1, 1, (size, size)), smooth, mode="reflect", truncate=3
        )
        for _ in range(2)
    )
    rows, columns = np.mgrid[:size, :size]
    return sampled(moved, rows + down, columns + right, mode="reflect")


def affine(x: Image, shifts_32: Image) -> Image:
    """The map that moves three points about the middle by those shifts [3, 2] in pixels (x, y)."""
    size = len(x)
    middle, reach = size // 2, size // 3
    before = np.array(
        [(middle + reach, middle + reach), (middle + reach, middle - reach),
         (middle - reach, middle - reach)]
    )  # fmt: skip
    after = before + shifts_32
    ones = np.ones((3, 1))
    # Rows (x, y, 1) of where a pixel comes from, given where it is.
    back = np.linalg.solve(np.hstack([after, ones]), before)
    rows, columns = np.mgrid[:size, :size]
    source = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ back
    return sampled(x, source[..., 1], source[..., 0], mode="mirror")


def sampled(x: Image, rows: Image, columns: Image, mode: str) -> Image:
    """Bilinear values of each channel at those places [H, W]."""
    channels = [
        ndimage.map_coordinates(x[:, :, channel], (rows, columns), order=1, mode=mode)
        for channel in range(x.shape[2])
    ]
    return np.stack(channels, axis=2)


def pixelate(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """Made smaller and large again, by the mean over boxes."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    size, small = len(x), int(len(x) * share)
    picture = _picture(x).resize((small, small), Pillow.Resampling.BOX)
    return _values(picture.resize((size, size), Pillow.Resampling.BOX))


def jpeg_compression(x: Image, severity: int, generator: np.random.Generator) -> Image:
    """Through a JPEG file of that quality."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    file = BytesIO()
    _picture(x).save(file, "JPEG", quality=quality)
    with Pillow.open(file) as picture:
        return _values(picture)


def _picture(x: Image) -> Pillow.Image:
    return Pillow.fromarray(np.rint(255 * x).astype(np.uint8))


def _values(picture: Pillow.Image) -> Image:
    return np.asarray(picture, dtype=np.float64) / 255
