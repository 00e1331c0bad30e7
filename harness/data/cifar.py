"""CIFAR-10 and CIFAR-100: 32 by 32 colour images.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

from functools import partial

from harness.data.base import DatasetInfo, DatasetSource
from harness.data.files import TorchvisionLayout, load_files

INFO10 = DatasetInfo(
    name="cifar10",
    num_classes=10,
    channels=3,
    image_size=32,
    class_names=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    default_eps=8 / 255,
    max_train_size=50_000,
    max_test_size=10_000,
)

INFO100 = DatasetInfo(
    name="cifar100",
    num_classes=100,
    channels=3,
    image_size=32,
    class_names=tuple(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
        butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
        crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house
        kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
        mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
        plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
        shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
        tank telephone television tiger tractor train trout tulip turtle wardrobe whale
        willow_tree wolf woman worm
        """.split()
    ),
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    default_eps=8 / 255,
    max_train_size=50_000,
    max_test_size=10_000,
)

CIFAR10 = DatasetSource(
    INFO10, partial(load_files, INFO10, TorchvisionLayout("CIFAR10", "cifar-10-batches-py"))
)
CIFAR100 = DatasetSource(
    INFO100, partial(load_files, INFO100, TorchvisionLayout("CIFAR100", "cifar-100-python"))
)
