"""Training batches in which a box of each image comes from another image of the batch.

Yun et al.: CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features,
ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import one_hot

from harness.data.batch import Batch
from harness.data.loader import CPU, Loader
from harness.seeding import seeded_generator


class CutMixLoader:
    """A ``Loader`` that mixes the batches of another loader.

    A mixed batch has one box, the same for all images, whose content comes from a permutation of
    the batch. The share of the area that is kept is uniform in [0, 1], as with the release's
    Beta(1, 1), before the box is clipped at the edges; labels are mixed in the ratio of the pixels
    that remain.

    Args:
        loader: a loader of batches without further views.
        classes: number of classes C.
        probability: probability of mixing a batch.
    """

    views = None

    def __init__(self, loader: Loader, classes: int, probability: float) -> None:
        """See the class."""
        self.loader, self.classes, self.probability = loader, classes, probability
        self.steps_per_epoch = loader.steps_per_epoch
        self.smallest_batch = loader.smallest_batch

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """See ``Loader``."""
        generator = seeded_generator(CPU, seed, "cutmix", epoch)
        for batch in self.loader.epoch(seed, epoch):
            batch.view = None
            if torch.rand((), generator=generator) < self.probability:
                self._mix(batch, generator)
            yield batch

    def _mix(self, batch: Batch, generator: torch.Generator) -> None:
        other = torch.randperm(len(batch.y), generator=generator).to(batch.y.device)
        rows, columns = box(batch.x.shape[2:], generator)
        batch.x = batch.x.clone()
        batch.x[:, :, rows, columns] = batch.x[other][:, :, rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        kept = 1 - area / batch.x[0, 0].numel()
        own, mixed = (one_hot(y, self.classes).float() for y in (batch.y, batch.y[other]))
        batch.soft_labels = kept * own + (1 - kept) * mixed
        if kept < 0.5:
            batch.y = batch.y[other]


def box(size: tuple[int, int] | torch.Size, generator: torch.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random box, clipped at the edges of an image of ``size``.

    Before clipping, its share of the image's area is uniform in [0, 1]; its centre is a uniformly
    drawn pixel.
    """
    side = float(torch.rand((), generator=generator)) ** 0.5
    found = []
    for length in size:
        middle = int(torch.randint(length, (), generator=generator))
        half = int(length * side) // 2
        found.append(slice(max(middle - half, 0), min(middle + half, length)))
    return found[0], found[1]
