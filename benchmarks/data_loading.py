"""Time the harness's data loader against PIL transforms in a DataLoader with two workers.

With the project installed:

    python benchmarks/data_loading.py [--json]

Images are random, of CIFAR's shape, in batches of 64, cropped with a padding of 4 and flipped on
the CPU, as float32 tensors in [0, 1]. The peer is the usual code of the literature: torchvision's
``RandomCrop``, ``RandomHorizontalFlip`` and ``ToTensor`` on PIL images, in a DataLoader with two
workers and shuffling. Both serve an epoch in turns; the time includes starting the workers, which
each epoch does. The exit status is 1 if the harness is less than 10 times as fast.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from shared import finish, machine
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.compat import import_torchvision
from harness.data import dataset_info
from harness.data.augment import Augmentation
from harness.data.base import ImageSet
from harness.data.loader import DeviceLoader

BATCH, PADDING, WORKERS, WANTED = 64, 4, 2, 10.0
transforms = import_torchvision().transforms


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR serves them."""

    def __init__(self, split: ImageSet) -> None:
        """Keep the images as arrays [N, H, W, K]."""
        self.images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """Return an augmented image and its label."""
        image = Image.fromarray(self.images[position])
        return self.transform(image), self.labels[position]


def measure(count: int, repeats: int) -> dict[str, Any]:
    """Measure images per second of both, serving epochs in turns."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(100, (count,), generator=generator)
    split = ImageSet(images, labels, dataset_info("cifar100"), "train")
    ours = DeviceLoader(split, BATCH, torch.device("cpu"), Augmentation(PADDING, flip=True))
    peer = DataLoader(PilImages(split), batch_size=BATCH, shuffle=True, num_workers=WORKERS)

    def our_epoch(epoch: int) -> int:
        return sum(len(batch.x) for batch in ours.epoch(0, epoch))

    def peer_epoch(epoch: int) -> int:
        return sum(len(x) for x, _ in peer)

    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    for epoch in range(repeats + 1):
        for name, serve in (("ours", our_epoch), ("peer", peer_epoch)):
            rates[name].append(images_per_second(serve, epoch, count))
    # The first turn warms caches and allocators.
    ours_s, peer_s = rates["ours"][1:], rates["peer"][1:]
    return {
        "images": count,
        "repeats": repeats,
        "ours_images_per_s": statistics.median(ours_s),
        "peer_images_per_s": statistics.median(peer_s),
        "ratio": statistics.median(a / b for a, b in zip(ours_s, peer_s, strict=True)),
        "ratios": [a / b for a, b in zip(ours_s, peer_s, strict=True)],
    }


def images_per_second(serve: Callable[[int], int], epoch: int, count: int) -> float:
    """Return images per second of one epoch, which must serve every image."""
    began = time.perf_counter()
    served = serve(epoch)
    seconds = time.perf_counter() - began
    if served != count:
        raise SystemExit(f"an epoch served {served} images of {count}: nothing was measured")
    return count / seconds


def main() -> int:
    """Measure and print; the exit status is 1 if the ratio is below its limit."""
    parser = argparse.ArgumentParser(description="Data loading: images per second vs PIL workers.")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options.images, options.repeats)
    result |= machine()
    text = (
        f"{result['images']} images of 3x32x32, crop and flip, batches of {BATCH}, "
        f"{result['threads']} threads, torch {result['torch']}, {result['machine']}\n"
        f"  harness               {result['ours_images_per_s']:,.0f} images/s\n"
        f"  PIL, {WORKERS} workers        {result['peer_images_per_s']:,.0f} images/s\n"
        f"  ratio                 {result['ratio']:.1f} times, at least {WANTED:.0f}; median of "
        f"{result['repeats']} epochs [{min(result['ratios']):.1f}, {max(result['ratios']):.1f}]"
    )
    return finish(result, text, met=result["ratio"] >= WANTED, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
