"""Training batches with further views of their images, made by AutoAugment.

Cubuk et al.: AutoAugment: Learning Augmentation Policies from Data, CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from harness.data.augment import autoaugmented
from harness.data.base import ImageSet, ImageSource
from harness.data.batch import Batch
from harness.data.loader import CPU, DeviceLoader, Loader
from harness.errors import UserError
from harness.seeding import derive_seed, seeded_generator


class AutoAugmentedLoader:
    """A ``Loader`` that adds ``Batch.others`` to the batches of another loader.

    Each further view is made from the stored images: a sub-policy of AutoAugment's CIFAR-10 policy,
    drawn for each image, followed by the loader's crop and flip, drawn independently.

    Args:
        loader: a loader of images in memory.
        images: the split's images, uint8 [N, K, H, W] on the CPU.
        views: number of further views of each image, at least 1.
    """

    def __init__(self, loader: DeviceLoader, images: Tensor, views: int) -> None:
        """See the class."""
        self.loader, self.images, self.count = loader, images, views
        self.steps_per_epoch = loader.steps_per_epoch
        self.smallest_batch = loader.smallest_batch
        self.views = loader.views

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """See ``Loader``."""
        for step, batch in enumerate(self.loader.epoch(seed, epoch)):
            batch.others = tuple(
                self._other(batch, (seed, "autoaugment", epoch, step, view))
                for view in range(self.count)
            )
            yield batch

    def _other(self, batch: Batch, source: tuple[object, ...]) -> Batch:
        changed = autoaugmented(self.images[batch.index.cpu()], derive_seed(*source))
        generator = seeded_generator(CPU, *source, "crop and flip")
        crop_and_flip = replace(self.loader.augment, autoaugment=False)
        images = crop_and_flip(changed.to(batch.x.device), generator)
        return Batch(x=images.float() / 255, y=batch.y, index=batch.index, epoch=batch.epoch)


def with_views(loader: Loader, split: ImageSource, views: int) -> Loader:
    """A loader that adds ``views`` further views of each image to its batches.

    Raises:
        UserError: ``views`` is positive and the images are in folders or partly generated.
    """
    if not views:
        return loader
    if not (isinstance(loader, DeviceLoader) and isinstance(split, ImageSet)):
        raise UserError(
            "AutoAugment views need original images in memory, not folders or generated images: "
            "set data.generated_fraction=0 and data.generated_name=null, choose another dataset, "
            "or set params.views=0"
        )
    return AutoAugmentedLoader(loader, split.images, views)
