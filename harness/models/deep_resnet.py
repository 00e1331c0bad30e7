"""ResNets with four stages: those for ImageNet, and ``resnet50`` for small images.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016, table 1, in the form
that torchvision gave them: 1x1 convolutions in the shortcuts that change shape, and a bottleneck's
stride in its 3x3 convolution. For small images the stem is a 3x3 convolution of stride 1 without
pooling, as the distillation literature has it (Tian et al., "Contrastive representation
distillation", ICLR 2020).
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from harness.models.features import initialize_convolutions
from harness.models.resnet import BasicBlock
from harness.models.staged import Block, StagedNetwork


class PlainBlock(BasicBlock):
    """Two 3x3 convolutions and a shortcut."""

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """See ``Block``."""
        return self.bn2


class Bottleneck(Block):
    """1x1 to a quarter of the channels, 3x3, 1x1 back, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """The shortcut is a 1x1 convolution with BatchNorm where the shape changes."""
        super().__init__()
        inner = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def preact(self, x: Tensor) -> Tensor:
        """See ``Block``."""
        inner = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        residual: Tensor = self.bn3(self.conv3(inner))
        shortcut: Tensor = self.shortcut(x)
        return residual + shortcut

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """See ``Block``."""
        return self.bn3


class DeepResNet(StagedNetwork):
    """A stem of 64 channels and four stages of which the last three halve the image."""

    published_names: ClassVar = {
        r"^layer1\.": "stages.0.",
        r"^layer2\.": "stages.1.",
        r"^layer3\.": "stages.2.",
        r"^layer4\.": "stages.3.",
        r"\.downsample\.": ".shortcut.",
        r"^linear\.": "fc.",
    }

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        block: type[PlainBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        channels: tuple[int, ...],
    ) -> None:
        """Build and initialise.

        Args:
            num_classes: number of logits C.
            in_channels: channels of the images.
            image_size: height and width of the images in pixels, within ``image_sizes``.
            block: the kind of the blocks.
            blocks: number of blocks in each stage.
            channels: channels of the stem and of each stage's output.
        """
        super().__init__(image_size)
        self.feature_channels = channels
        self.conv1 = self._stem(in_channels, channels[0])
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.stages = nn.Sequential()
        for i, (inputs, outputs) in enumerate(pairwise(channels)):
            first = block(inputs, outputs, stride=1 if i == 0 else 2)
            rest = (block(outputs, outputs, stride=1) for _ in range(blocks[i] - 1))
            self.stages.append(nn.Sequential(first, *rest))
        self.fc = nn.Linear(channels[-1], num_classes)
        initialize_convolutions(self)

    def _stem(self, in_channels: int, out_channels: int) -> nn.Conv2d:
        return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


class ImageNetResNet(DeepResNet):
    """With a 7x7 stem of stride 2 and max-pooling of stride 2 before the stages."""

    image_sizes = (32, 512)

    def _stem(self, in_channels: int, out_channels: int) -> nn.Conv2d:
        return nn.Conv2d(in_channels, out_channels, 7, stride=2, padding=3, bias=False)

    def before_stages(self, x: Tensor) -> Tensor:
        """Max-pooling."""
        return max_pool2d(x, 3, stride=2, padding=1)


NARROW = (64, 64, 128, 256, 512)
WIDE = (64, 256, 512, 1024, 2048)

resnet50 = partial(DeepResNet, block=Bottleneck, blocks=(3, 4, 6, 3), channels=WIDE)
imagenet_resnet18 = partial(ImageNetResNet, block=PlainBlock, blocks=(2, 2, 2, 2), channels=NARROW)
imagenet_resnet34 = partial(ImageNetResNet, block=PlainBlock, blocks=(3, 4, 6, 3), channels=NARROW)
imagenet_resnet50 = partial(ImageNetResNet, block=Bottleneck, blocks=(3, 4, 6, 3), channels=WIDE)
