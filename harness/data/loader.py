"""Loaders of training batches.

Datasets in memory are kept on the device and augmented there, a whole batch at a time.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.data.augment import Augmentation
from harness.data.base import ImageSet, ImageSource
from harness.data.batch import Batch
from harness.data.imagenet import FolderSet
from harness.distributed.group import SINGLE_PROCESS, ProcessGroup
from harness.errors import UserError
from harness.seeding import derive_seed, seeded_generator

CPU = torch.device("cpu")
S = TypeVar("S", bound=ImageSource)


class Loader(Protocol):
    """Yields the batches of a training split, each image once per epoch.

    An epoch's batches depend only on the split, the batch size, the seed and the epoch, not on the
    device, the number of workers or earlier epochs.
    """

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""

    @property
    def smallest_batch(self) -> int:
        """Number of images in the last batch of an epoch, its smallest."""

    @property
    def views(self) -> int | None:
        """Number of views of an image if batches have ``Batch.view``, else None."""

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 1), images float32 in [0, 1] on the device."""


class DeviceLoader:
    """A ``Loader`` that keeps the whole split on the device as uint8.

    Order, crops and flips come from one CPU generator, so they are the same on every device.

    Args:
        split: the training images.
        batch_size: B; the last batch may be smaller.
        device: where the images are kept.
        augment: the random crop, flip and rotation.
        drop_last: drop a last batch that is not full.
    """

    def __init__(
        self,
        split: ImageSet,
        batch_size: int,
        device: torch.device,
        augment: Augmentation | None = None,
        drop_last: bool = False,
    ) -> None:
        """See the class."""
        self.steps_per_epoch, self.smallest_batch = _batches(split, batch_size, drop_last)
        self.images = split.images.to(device)
        self.labels = split.labels.to(device)
        self.batch_size = batch_size
        self.augment = augment or Augmentation()
        self.views = self.augment.views

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """See ``Loader``."""
        generator = seeded_generator(CPU, seed, "loader", epoch)
        order = torch.randperm(len(self.labels), generator=generator)
        order_there = order.to(self.labels.device)
        for step in range(self.steps_per_epoch):
            rows = slice(step * self.batch_size, (step + 1) * self.batch_size)
            index = order_there[rows]
            images, view = self.augment.viewed(self.images[index], generator)
            if view is not None and self.views is not None:
                view = order[rows] * self.views + view
            yield Batch(
                x=images.float() / 255, y=self.labels[index], index=index, epoch=epoch, view=view
            )


class StreamLoader:
    """A ``Loader`` that decodes images from folders in worker processes.

    Each image is cropped with a random size and ratio and mirrored with probability one half, from
    its own seed, so the number of workers does not matter.

    Args:
        split: the training images.
        batch_size: B; the last batch may be smaller.
        device: where batches are moved.
        flip: mirror half of the images.
        drop_last: drop a last batch that is not full.
        workers: number of decoding processes; 0 decodes in this one.
        processes: the processes that train together; each decodes its share of every batch.
    """

    def __init__(
        self,
        split: FolderSet,
        batch_size: int,
        device: torch.device,
        flip: bool = False,
        drop_last: bool = False,
        workers: int = 0,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """See the class."""
        self.steps_per_epoch, self.smallest_batch = _batches(split, batch_size, drop_last)
        self.views = None
        self.split = split
        self.batch_size = batch_size
        self.device = device
        self.flip = flip
        self.workers = workers
        self.processes = processes

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """See ``Loader``."""
        generator = seeded_generator(CPU, seed, "loader", epoch)
        order = torch.randperm(len(self.split), generator=generator)
        whole = order.split(self.batch_size)[: self.steps_per_epoch]
        shared = [index.tensor_split(self.processes.count) for index in whole]
        batches = DataLoader(
            _TrainingImages(self.split, self.flip, seed, epoch),
            batch_sampler=[parts[self.processes.rank].tolist() for parts in shared],
            num_workers=self.workers,
            multiprocessing_context=_server() if self.workers else None,
            pin_memory=self.device.type == "cuda",
            generator=generator,
        )
        try:
            for images, index, parts in zip(batches, whole, shared, strict=True):
                own = images.to(self.device, non_blocking=True)
                yield Batch(
                    x=self.processes.gathered(own, parts).float() / 255,
                    y=self.split.labels[index].to(self.device),
                    index=index.to(self.device),
                    epoch=epoch,
                )
        except UserError as error:
            # A worker's error arrives with its traceback as text, followed by its message.
            sentence = str(error).rpartition("UserError: ")[2].strip()
            # The traceback is in a reference cycle with the workers' queues: the garbage collector
            # would close the queues first and then wait for the workers forever.
            error.with_traceback(None)
            raise UserError(sentence) from None


def _server() -> BaseContext:
    """The context that forks workers from a server process, which has no threads.

    A fork of this process would copy locks that its threads, such as torch's, hold at that moment,
    and the worker could wait for them forever.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # as on Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@dataclass(frozen=True)
class _TrainingImages(Dataset[Tensor]):
    """The random crops of one epoch."""

    split: FolderSet
    flip: bool
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> Tensor:
        seed = derive_seed(self.seed, "loader", self.epoch, position)
        return self.split.training_image(position, self.flip, seed)


def _batches(split: ImageSource, batch_size: int, drop_last: bool) -> tuple[int, int]:
    """The number of batches in an epoch, and the size of the smallest.

    Raises:
        UserError: there is none.
    """
    steps = len(split) // batch_size if drop_last else -(-len(split) // batch_size)
    if steps == 0:
        raise UserError(
            f"{split.info.name} has {len(split)} training images, fewer than a batch of "
            f"{batch_size}: give a smaller batch size"
        )
    return steps, min(batch_size, len(split) - (steps - 1) * batch_size)


def make_loader(
    split: ImageSource,
    batch_size: int,
    device: torch.device,
    augment: Augmentation | None = None,
    drop_last: bool = False,
    workers: int = 0,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Loader:
    """The loader for a training split in memory or in folders.

    Folders use only ``flip`` of ``augment``: their random crop draws its own size. ``workers`` and
    ``processes`` apply to folders only.

    Raises:
        UserError: the images are not uint8, or AutoAugment is requested for images in folders.
    """
    augment = augment or Augmentation()
    if isinstance(split, ImageSet):
        if split.images.dtype != torch.uint8:
            raise UserError(
                f"{split.info.name} has {split.images.dtype} images: training needs uint8 in 0..255"
            )
        return DeviceLoader(split, batch_size, device, augment, drop_last)
    if isinstance(split, FolderSet):
        if augment.autoaugment:
            raise UserError(
                f"AutoAugment needs images in memory, but those of {split.info.name} are in "
                "folders: set data.autoaugment=false"
            )
        return StreamLoader(split, batch_size, device, augment.flip, drop_last, workers, processes)
    raise TypeError(f"there is no loader for a {type(split).__name__}")


def split_validation(train: S, size: int, seed: int) -> tuple[S, S]:
    """Split off ``size`` validation images: (the remaining training images, the validation images).

    They are chosen by a permutation seeded from ``seed``; both parts keep the split's order.

    Raises:
        UserError: one of the parts would be empty.
    """
    if not 0 < size < len(train):
        raise UserError(
            f"cannot hold out {size} of the {len(train)} training images of {train.info.name} for "
            f"validation: give a validation size in 1..{len(train) - 1}"
        )
    order = torch.randperm(len(train), generator=seeded_generator(CPU, seed, "validation"))
    held, kept = order[:size].sort().values, order[size:].sort().values
    return (
        train.take(kept, complete=train.complete),
        train.take(held, complete=train.complete, split="val"),
    )
