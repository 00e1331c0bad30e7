"""Training batches. Sets in memory live on the device and are augmented there in whole batches."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
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
    """Serves a training split, each image once an epoch.

    An epoch's batches depend only on the split, the batch size and ``(seed, epoch)``: not on the
    device, the number of workers, or the epochs served before.
    """

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""

    @property
    def smallest_batch(self) -> int:
        """Images in the smallest batch of an epoch, its last."""

    @property
    def views(self) -> int | None:
        """Views that an image has, where batches say which they show; see ``Batch.view``."""

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (counted from 1), images float32 in [0, 1] on the device."""


class DeviceLoader:
    """A ``Loader`` that keeps the whole set on the device as uint8.

    Order, crops and flips come from one CPU generator, so that they are the same on every device.

    Args:
        split: the training images.
        batch_size: B; the last batch may be smaller.
        device: where the images are kept.
        crop_padding: border of the random crop in pixels; 0 is no crop.
        flip: mirror half of the images.
        drop_last: leave out a last batch that is not full.
        crop_mode: what the border shows, ``zero`` or ``reflect``.
        rotation: the largest angle of a random rotation in degrees; 0 is none.
    """

    def __init__(
        self,
        split: ImageSet,
        batch_size: int,
        device: torch.device,
        crop_padding: int = 0,
        flip: bool = False,
        drop_last: bool = False,
        crop_mode: str = "zero",
        rotation: float = 0.0,
    ) -> None:
        """See the class."""
        self.steps_per_epoch = count_steps(split, batch_size, drop_last)
        self.smallest_batch = min(batch_size, len(split) - (self.steps_per_epoch - 1) * batch_size)
        self.images = split.images.to(device)
        self.labels = split.labels.to(device)
        self.batch_size = batch_size
        self.augment = Augmentation(crop_padding, flip, crop_mode, rotation)
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

    Each image is cropped by a random size and ratio and mirrored half of the time, drawn from a
    seed of its own, so that workers do not matter.

    Args:
        split: the training images.
        batch_size: B; the last batch may be smaller.
        device: where batches are moved.
        flip: mirror half of the images.
        drop_last: leave out a last batch that is not full.
        workers: processes that decode; 0 decodes in this one.
        processes: that train together; each decodes its share of every batch.
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
        self.steps_per_epoch = count_steps(split, batch_size, drop_last)
        self.smallest_batch = min(batch_size, len(split) - (self.steps_per_epoch - 1) * batch_size)
        self.views = None
        self.split = split
        self.batch_size = batch_size
        self.device = device
        self.flip = flip
        self.drop_last = drop_last
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
            # A worker's error arrives with its traceback as text; the sentence is what follows.
            sentence = str(error).rpartition("UserError: ")[2].strip()
            # The error's traceback is a cycle that holds the workers' queues; if they are left to
            # the garbage collector, it closes them first and then waits for the workers in vain.
            error.with_traceback(None)
            raise UserError(sentence) from None


def _server() -> BaseContext:
    """Workers are forked from a process that has imported this and has no threads.

    A fork of this process would copy the locks that its threads, torch's and numpy's among them,
    hold just then, and such a worker, or the fork itself, can wait for ever.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class _TrainingImages(Dataset[Tensor]):
    """The random crop of each image in one epoch."""

    def __init__(self, split: FolderSet, flip: bool, seed: int, epoch: int) -> None:
        self.split = split
        self.flip = flip
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> Tensor:
        seed = derive_seed(self.seed, "loader", self.epoch, position)
        return self.split.training_image(position, self.flip, seed)


def count_steps(split: ImageSource, batch_size: int, drop_last: bool) -> int:
    """Batches in an epoch.

    Raises:
        UserError: there would be none.
    """
    steps = len(split) // batch_size if drop_last else -(-len(split) // batch_size)
    if steps == 0:
        raise UserError(
            f"{split.info.name} has {len(split)} training images, no full batch of {batch_size}: "
            "give a smaller batch size"
        )
    return steps


def make_loader(
    split: ImageSource,
    batch_size: int,
    device: torch.device,
    crop_padding: int = 0,
    flip: bool = False,
    drop_last: bool = False,
    workers: int = 0,
    crop_mode: str = "zero",
    rotation: float = 0.0,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Loader:
    """The loader for a training split, wherever it is kept.

    ``crop_padding``, ``crop_mode`` and ``rotation`` are for sets in memory, ``workers`` and
    ``processes`` for folders, whose random crop draws its own size.
    """
    if isinstance(split, ImageSet):
        return DeviceLoader(
            split, batch_size, device, crop_padding, flip, drop_last, crop_mode, rotation
        )
    if isinstance(split, FolderSet):
        return StreamLoader(split, batch_size, device, flip, drop_last, workers, processes)
    raise TypeError(f"no loader serves a {type(split).__name__}")


def split_validation(train: S, size: int, seed: int) -> tuple[S, S]:
    """Hold ``size`` images out of a training split: (the rest, the held-out ones).

    The choice is by a permutation seeded from ``seed``; both parts keep the split's own order.

    Raises:
        UserError: ``size`` leaves one of the parts empty.
    """
    if not 0 < size < len(train):
        raise UserError(
            f"cannot hold {size} of the {len(train)} training images of {train.info.name} out for "
            f"validation: give a validation size in 1..{len(train) - 1}"
        )
    order = torch.randperm(len(train), generator=seeded_generator(CPU, seed, "validation"))
    held, kept = order[:size].sort().values, order[size:].sort().values
    return (
        train.take(kept, complete=train.complete),
        train.take(held, complete=train.complete, split="val"),
    )
