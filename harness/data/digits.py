"""The handwritten digits that come with scikit-learn: 1,797 images of 8 by 8 pixels.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (test part).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from harness.data.base import DatasetInfo, DatasetSource, ImageSet, OfficialSplit

INFO = DatasetInfo(
    name="digits",
    num_classes=10,
    channels=1,
    image_size=8,
    class_names=tuple("0123456789"),
    mean=(0.3054,),
    std=(0.3760,),
    default_eps=0.15,
    max_train_size=1437,
    max_test_size=360,
    small_scale=True,
)


def load(root: Path | None, split: OfficialSplit) -> ImageSet:
    """Load a split; the root is not used. Grey levels v in 0..16 become round(v * 255 / 16).

    The source has no official split: this one is stratified by class with a fixed seed.
    """
    bunch = load_digits()
    parts = train_test_split(
        np.arange(len(bunch.target)),
        test_size=INFO.max_test_size,
        stratify=bunch.target,
        random_state=0,
    )
    chosen = parts[0] if split == "train" else parts[1]
    pixels = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
    labels = bunch.target[chosen].astype(np.int64)
    return ImageSet(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels), INFO, split)


DIGITS = DatasetSource(INFO, load)
