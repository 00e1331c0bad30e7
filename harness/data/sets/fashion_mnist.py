"""Fashion-MNIST: 28 by 28 grey images of clothes.

Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv:1708.07747.
"""

from __future__ import annotations

from functools import partial

from harness.data.base import DatasetInfo, DatasetSource
from harness.data.files import TorchvisionLayout, load_files

INFO = DatasetInfo(
    name="fashion-mnist",
    num_classes=10,
    channels=1,
    image_size=28,
    class_names=tuple(
        "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
    ),
    mean=(0.2860,),
    std=(0.3530,),
    default_eps=0.1,
    max_train_size=60_000,
    max_test_size=10_000,
    small_scale=True,
)

FASHION_MNIST = DatasetSource(
    INFO, partial(load_files, INFO, TorchvisionLayout("FashionMNIST", "FashionMNIST/raw"))
)
