"""CIFAR-10 and CIFAR-100, and their corrupted test sets CIFAR-10-C and CIFAR-100-C.

Sources: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
D. Hendrycks and T. Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.data.base import DatasetInfo, DatasetSource, check_labels
from harness.data.files import TorchvisionLayout, find_root, load_files
from harness.errors import UserError

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

INFO100 = replace(
    INFO10,
    name="cifar100",
    num_classes=100,
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
)

CIFAR10 = DatasetSource(
    INFO10, partial(load_files, INFO10, TorchvisionLayout("CIFAR10", "cifar-10-batches-py"))
)
CIFAR100 = DatasetSource(
    INFO100, partial(load_files, INFO100, TorchvisionLayout("CIFAR100", "cifar-100-python"))
)

# The fifteen corruptions over which published means are taken; the archives hold four more.
CORRUPTIONS = tuple(
    """
    gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost
    fog brightness contrast elastic_transform pixelate jpeg_compression
    """.split()
)
SEVERITIES = (1, 2, 3, 4, 5)
# Dataset to its description, the folder of its corrupted test images, and their Zenodo record.
PUBLISHED = {
    "cifar10": (INFO10, "CIFAR-10-C", 2535967),
    "cifar100": (INFO100, "CIFAR-100-C", 3555552),
}


@dataclass(frozen=True)
class CorruptedImages:
    """The corrupted test images of a dataset.

    Attributes:
        name: ``CIFAR-10-C`` or ``CIFAR-100-C``.
        arrays: corruption to its images, uint8 [5N, 32, 32, 3], memory-mapped: severity 1 first,
            each severity in the order of the test set.
        labels: int64 [N].
        complete: whether N is the size of the official test set.
    """

    name: str
    arrays: dict[str, NDArray[np.uint8]]
    labels: Tensor
    complete: bool

    def __len__(self) -> int:
        """N, the number of images of one corruption at one severity."""
        return len(self.labels)

    def __str__(self) -> str:
        """The name."""
        return self.name

    def batch(self, corruption: str, severity: int, rows: slice) -> Tensor:
        """Images at rows [B] of one severity: float32 [B, 3, 32, 32] in [0, 1]."""
        pixels = np.array(self._severity(corruption, severity)[rows])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous() / 255

    def sha256(self, severities: tuple[int, ...], count: int) -> str:
        """SHA-256 over the first ``count`` labels and images of each corruption and severity."""
        digest = hashlib.sha256(self.labels[:count].numpy().astype("<i8").tobytes())
        for corruption in self.arrays:
            for severity in severities:
                digest.update(f"{corruption}/{severity}".encode())
                digest.update(self._severity(corruption, severity)[:count].tobytes())
        return digest.hexdigest()

    def _severity(self, corruption: str, severity: int) -> NDArray[np.uint8]:
        return self.arrays[corruption][(severity - 1) * len(self) : severity * len(self)]


def open_corrupted(
    dataset: str, root: Path | None, corruptions: tuple[str, ...] = CORRUPTIONS
) -> CorruptedImages:
    """Map the published arrays in ``root/CIFAR-10-C`` or ``root/CIFAR-100-C``.

    Args:
        dataset: ``cifar10`` or ``cifar100``.
        root: the data folder; see ``find_root``.
        corruptions: some of ``CORRUPTIONS``.

    Raises:
        UserError: no arrays are published for the dataset, or a file is missing or damaged.
    """
    if dataset not in PUBLISHED:
        raise UserError(
            f"corrupted test images are published for {' and '.join(PUBLISHED)}, not for {dataset}"
        )
    info, name, record = PUBLISHED[dataset]
    folder = find_root(root) / name
    labels = torch.from_numpy(_read_array(folder / "labels.npy", record).astype(np.int64))
    arrays = {each: _read_array(folder / f"{each}.npy", record) for each in corruptions}
    count = len(next(iter(arrays.values()))) // len(SEVERITIES)
    size = info.image_size
    for each, pixels in arrays.items():
        expected = (count * len(SEVERITIES), size, size, info.channels)
        if pixels.dtype != np.uint8 or pixels.shape != expected:
            raise UserError(
                f"{folder / each}.npy is {pixels.dtype} of shape {list(pixels.shape)}, not uint8 "
                f"of shape {list(expected)}: unpack the archive again"
            )
    # The published labels are repeated for each severity.
    if len(labels) == count * len(SEVERITIES):
        labels = labels[:count]
    check_labels(labels, count, info, str(folder / "labels.npy"))
    return CorruptedImages(name, arrays, labels, complete=count == info.max_test_size)


def _read_array(path: Path, record: int) -> NDArray[Any]:
    source = f"https://zenodo.org/records/{record}"
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: download the archive from {source} and unpack it in "
            f"{path.parent.parent}, or name another folder with --data-root"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} is damaged ({error}): unpack the archive of {source} again"
        ) from error
    return array
