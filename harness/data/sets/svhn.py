"""SVHN: cropped 32 by 32 colour images of digits in house numbers.

Source: Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011.
"""

from __future__ import annotations

from functools import partial

from harness.data.base import DatasetInfo, DatasetSource
from harness.data.files import TorchvisionLayout, load_files

INFO = DatasetInfo(
    name="svhn",
    num_classes=10,
    channels=3,
    image_size=32,
    class_names=tuple("0123456789"),
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    default_eps=8 / 255,
    max_train_size=73_257,
    max_test_size=26_032,
)

SVHN = DatasetSource(INFO, partial(load_files, INFO, TorchvisionLayout("SVHN", "svhn", split=True)))
