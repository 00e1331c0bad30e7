"""ResNets for small images, with activations at the end of each block.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2, with 1x1
convolutions in the shortcuts that change shape (option B), as the distillation literature has it;
``x4`` networks have four times the channels in the stages and twice in the stem (Tian et al.,
"Contrastive representation distillation", ICLR 2020).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn.functional import relu

from harness.models.features import (
    FeatureNetwork,
    Features,
    global_average,
    initialize_convolutions,
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """The shortcut is a 1x1 convolution with BatchNorm where the shape changes."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output [B, out, H / stride, W / stride]."""
        return relu(self.preact(x))

    def preact(self, x: Tensor) -> Tensor:
        """The block's output before its last ReLU."""
        residual: Tensor = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        shortcut: Tensor = self.shortcut(x)
        return residual + shortcut


class ResNet(FeatureNetwork):
    """A 3x3 stem, three stages of which the last two halve the image, and a linear classifier."""

    published_names: ClassVar = {
        r"^layer1\.": "stages.0.",
        r"^layer2\.": "stages.1.",
        r"^layer3\.": "stages.2.",
        r"^layer4\.": "stages.3.",
        r"\.downsample\.": ".shortcut.",
    }

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        depth: int,
        channels: tuple[int, ...] = (16, 16, 32, 64),
        strides: tuple[int, ...] = (1, 2, 2),
    ) -> None:
        """Build and initialise.

        Args:
            num_classes: number of logits C.
            in_channels: channels of the images.
            image_size: height and width of the images in pixels, 8 to 64.
            depth: weighted layers 6n + 2 of three stages of n blocks; more stages add 2n each.
            channels: channels of the stem and of each stage.
            strides: how far each stage's first block shrinks the image.
        """
        super().__init__(image_size)
        self.feature_channels = channels
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.stages = nn.Sequential()
        for stride, (inputs, outputs) in zip(strides, pairwise(channels), strict=True):
            first = BasicBlock(inputs, outputs, stride)
            rest = (BasicBlock(outputs, outputs, stride=1) for _ in range((depth - 2) // 6 - 1))
            self.stages.append(nn.Sequential(first, *rest))
        self.fc = nn.Linear(channels[-1], num_classes)
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, K, H, W] in [0, 1]."""
        x = relu(self.bn1(self.conv1(x)))
        logits: Tensor = self.fc(global_average(self.stages(x)))
        return logits

    def features(self, x: Tensor) -> Features:
        """See ``FeatureNetwork``; the stem and each stage are shown after their last ReLU."""
        preacts: list[Tensor] = [self.bn1(self.conv1(x))]
        stages = [relu(preacts[0])]
        for *blocks, last in self._blocks():
            x = stages[-1]
            for block in blocks:
                x = block(x)
            preacts.append(last.preact(x))
            stages.append(relu(preacts[-1]))
        pooled = global_average(stages[-1])
        return Features(tuple(stages), tuple(preacts), pooled, self.fc(pooled))

    def batchnorm_before_relu(self) -> list[nn.BatchNorm2d]:
        """See ``FeatureNetwork``."""
        return [self.bn1, *(blocks[-1].bn2 for blocks in self._blocks())]

    def _blocks(self) -> list[list[BasicBlock]]:
        return [list(stage) for stage in cast("Iterable[Iterable[BasicBlock]]", self.stages)]


WIDE = (32, 64, 128, 256)

resnet8 = partial(ResNet, depth=8)
resnet14 = partial(ResNet, depth=14)
resnet20 = partial(ResNet, depth=20)
resnet32 = partial(ResNet, depth=32)
resnet44 = partial(ResNet, depth=44)
resnet56 = partial(ResNet, depth=56)
resnet110 = partial(ResNet, depth=110)
resnet8x4 = partial(ResNet, depth=8, channels=WIDE)
resnet32x4 = partial(ResNet, depth=32, channels=WIDE)

# Four stages of two blocks; the variant leaves a final map of a quarter of the image's side.
_eighteen = partial(ResNet, depth=14, channels=(64, 64, 128, 256, 512))
resnet18_cifar = partial(_eighteen, strides=(1, 2, 2, 2))
resnet18_quarter = partial(_eighteen, strides=(1, 1, 2, 2))
