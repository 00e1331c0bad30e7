"""Training on original and generated images, both in each batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from harness.config import DataConfig
from harness.data.augment import Augmentation
from harness.data.base import DatasetInfo, ImageSet, ImageSource
from harness.data.batch import Batch
from harness.data.loader import CPU
from harness.data.npz import NpzImages, open_npz
from harness.errors import UserError
from harness.seeding import seeded_generator

# Number of batches read ahead, to hide the latency of the disk.
READ_AHEAD = 4


class MixedLoader:
    """A ``Loader`` whose batches hold original images followed by generated ones.

    Each batch has round((1 - fraction) B) originals. Over an epoch these follow a random order of
    the split, then another one if it is exhausted. The rest of a batch is drawn uniformly and with
    replacement from the generated images, which a thread reads ahead from disk. All batches are
    full. ``Batch.index`` is -1 for a generated image.

    Args:
        split: the original training images, in memory.
        generated: the generated images, on disk.
        batch_size: B.
        device: where the batches and the originals are kept.
        fraction: share of generated images, in (0, 1).
        steps: number of batches in an epoch.
        augment: the random augmentation.
        augment_generated: whether generated images are augmented too.

    Raises:
        UserError: the split is not in memory, or a batch would have images of one kind only.
    """

    def __init__(
        self,
        split: ImageSource,
        generated: NpzImages,
        batch_size: int,
        device: torch.device,
        *,
        fraction: float,
        steps: int,
        augment: Augmentation,
        augment_generated: bool = True,
    ) -> None:
        """See the class."""
        if not isinstance(split, ImageSet):
            raise UserError(
                f"generated images cannot be mixed into {split.info.name}, which is read from "
                "folders: set data.generated_fraction=0 and data.generated_name=null"
            )
        self.originals = originals_per_batch(batch_size, fraction)
        self.batch_size = self.smallest_batch = batch_size
        self.steps_per_epoch = steps
        self.views = None
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.generated = generated
        self.device = device
        self.augment = augment
        self.augment_generated = augment_generated

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """See ``Loader``."""
        generator = seeded_generator(CPU, seed, "loader", epoch)
        order = self._order(generator)
        for step, (images, labels) in enumerate(self._generated_batches(seed, epoch)):
            index = order[step * self.originals : (step + 1) * self.originals]
            yield Batch(
                x=self._mixed(self.images[index], images, generator).float() / 255,
                y=torch.cat([self.labels[index], labels]),
                index=torch.cat([index, torch.full_like(labels, -1)]),
                epoch=epoch,
            )

    def _order(self, generator: torch.Generator) -> Tensor:
        """Rows of the epoch's originals [steps * originals], batch by batch."""
        needed = self.steps_per_epoch * self.originals
        rounds = -(-needed // len(self.labels))
        orders = [torch.randperm(len(self.labels), generator=generator) for _ in range(rounds)]
        return torch.cat(orders)[:needed].to(self.device)

    def _mixed(self, originals: Tensor, generated: Tensor, generator: torch.Generator) -> Tensor:
        if self.augment_generated:
            return self.augment(torch.cat([originals, generated]), generator)
        return torch.cat([self.augment(originals, generator), generated])

    def _generated_batches(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the generated images and labels of each step, on the device."""
        generator = seeded_generator(CPU, seed, "generated", epoch)
        shape = (self.steps_per_epoch, self.batch_size - self.originals)
        rows = torch.randint(len(self.generated), shape, generator=generator)
        waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="generated-images") as reader:
            for step in range(self.steps_per_epoch + READ_AHEAD):
                if step < self.steps_per_epoch:
                    waiting.append(reader.submit(self._read, rows[step]))
                if step >= READ_AHEAD:
                    images, labels = waiting.popleft().result()
                    yield (
                        images.to(self.device, non_blocking=True),
                        labels.to(self.device, non_blocking=True),
                    )

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.generated.gather(rows), self.generated.gather_labels(rows)
        if self.device.type == "cuda":
            return images.pin_memory(), labels.pin_memory()
        return images, labels


def originals_per_batch(batch_size: int, fraction: float) -> int:
    """Number of originals in a batch: round((1 - fraction) B), rounding halves to even.

    Raises:
        UserError: the batch would have images of one kind only.
    """
    count = round((1 - fraction) * batch_size)
    if not 0 < count < batch_size:
        raise UserError(
            f"data.generated_fraction {fraction:g} of a batch of {batch_size} leaves {count} "
            "original images: choose a fraction or a batch size with some of both kinds"
        )
    return count


def steps_with_generated(config: DataConfig, batch_size: int, originals: int) -> int:
    """Number of batches in an epoch of ``originals`` images; see ``DataConfig.generated_epoch``."""
    per_step = batch_size
    if config.generated_epoch == "originals":
        per_step = originals_per_batch(batch_size, config.generated_fraction)
    return -(-originals // per_step)


def open_generated(config: DataConfig, info: DatasetInfo) -> NpzImages | None:
    """Open the generated images of a configuration; None if it uses none.

    Raises:
        UserError: the file is missing or does not match the dataset, or a file or a name is given
            but not used.
    """
    if not config.generated_fraction:
        if config.generated is not None:
            raise UserError(
                f"{config.generated} is given but not used: set data.generated_fraction, the share "
                "of generated images in a batch"
            )
        if config.generated_name is not None:
            raise UserError(
                f"data.generated_name={config.generated_name} is given but not used: set "
                "data.generated_fraction, the share of generated images in a batch, or set "
                "data.generated_name=null"
            )
        return None
    if config.generated is None:
        raise UserError(missing_file(config, info))
    if config.generated_name is None:
        raise UserError(
            "the generated images have no name: set data.generated_name, which is part of a run's "
            "identity"
        )
    return open_npz(config.generated, info)


def missing_file(config: DataConfig, info: DatasetInfo) -> str:
    """The message for a run on generated images that is given no file of them."""
    name = f" ({config.generated_name})" if config.generated_name else ""
    size = f"{info.image_size}, {info.image_size}, {info.channels}"
    source = config.generated_source
    published = f"; such sets are published by {source}" if source else ""
    return (
        f"this run trains on generated images{name}: pass their file with --generated FILE or "
        f"--set data.generated=FILE, an uncompressed npz archive with image, uint8 [N, {size}], "
        f"and label, integers [N]{published}"
    )


def check_same_file(recorded: dict[str, Any] | None, found: dict[str, Any], where: str) -> None:
    """Check that a run continues with the generated images that it started with.

    Args:
        recorded: the fingerprint in the run's record, or None.
        found: the fingerprint of the given file.
        where: the name of the file, for the message.

    Raises:
        UserError: they differ.
    """
    if recorded is not None and recorded != found:
        differing = ", ".join(name for name in found if recorded.get(name) != found[name])
        raise UserError(
            f"{where} is not the file of generated images that this run started with ({differing} "
            "differ): give that file, or name this one in data.generated_name to start another run"
        )
