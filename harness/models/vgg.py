"""VGG networks for small images, with BatchNorm.

Source: Simonyan and Zisserman, "Very deep convolutional networks", ICLR 2015, in the form of the
distillation literature (Tian et al., "Contrastive representation distillation", ICLR 2020): five
stages, max-pooling after the first three only, one linear layer as the classifier.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn.functional import relu

from harness.models.features import (
    FeatureNetwork,
    Features,
    global_average,
    initialize_convolutions,
)


class VGG(FeatureNetwork):
    """Stages of 3x3 convolutions with bias, BatchNorm and ReLU; the first counts as the stem."""

    feature_channels = (64, 128, 256, 512, 512)
    published_names: ClassVar = {r"^block(\d)\.": r"stages.\1.", r"^classifier\.": "fc."}

    def __init__(
        self, num_classes: int, in_channels: int = 3, image_size: int = 32, *, convolutions: int
    ) -> None:
        """Build and initialise.

        Args:
            num_classes: number of logits C.
            in_channels: channels of the images.
            image_size: height and width of the images in pixels, 8 to 64.
            convolutions: number of convolutions in each stage.
        """
        super().__init__(image_size)
        # Each stage ends before its last ReLU; its pooling comes first.
        self.stages = nn.ModuleList()
        self.pools = nn.ModuleList()
        inputs = in_channels
        for i, outputs in enumerate(self.feature_channels):
            layers: list[nn.Module] = []
            for _ in range(convolutions):
                convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
                layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            self.stages.append(nn.Sequential(*layers[:-1]))
            self.pools.append(nn.MaxPool2d(2) if i in (1, 2, 3) else nn.Identity())
        self.fc = nn.Linear(inputs, num_classes)
        initialize_convolutions(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, K, H, W] in [0, 1]."""
        for pool, stage in zip(self.pools, self.stages, strict=True):
            x = relu(stage(pool(x)))
        logits: Tensor = self.fc(global_average(x))
        return logits

    def features(self, x: Tensor) -> Features:
        """See ``FeatureNetwork``; stage outputs are taken after the last ReLU, before pooling."""
        stages: list[Tensor] = []
        preacts: list[Tensor] = []
        for pool, stage in zip(self.pools, self.stages, strict=True):
            preacts.append(stage(pool(x)))
            x = relu(preacts[-1])
            stages.append(x)
        pooled = global_average(x)
        return Features(tuple(stages), tuple(preacts), pooled, self.fc(pooled))

    def batchnorm_before_relu(self) -> list[nn.BatchNorm2d]:
        """See ``FeatureNetwork``."""
        stages = cast("Iterable[nn.Sequential]", self.stages)
        return [cast("nn.BatchNorm2d", stage[-1]) for stage in stages]


vgg8 = partial(VGG, convolutions=1)
vgg13 = partial(VGG, convolutions=2)
