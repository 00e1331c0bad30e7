"""ResNets with activations at the end of each block, for small images and for ImageNet.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016. Shortcuts that change
the shape are 1x1 convolutions (option B), and a bottleneck has its stride in the 3x3 convolution,
as in torchvision.

The networks for small images have a 3x3 stem of stride 1 without pooling. Those with three stages
follow section 4.2 of the paper; ``x4`` networks have four times the channels in the stages and
twice in the stem (Tian et al., "Contrastive representation distillation", ICLR 2020). ``resnet50``
is that of table 1 with the small stem, as in the distillation literature.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from harness.models.features import initialize_convolutions
from harness.models.staged import Block, StagedNetwork


def make_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the identity, or a 1x1 convolution with BatchNorm if the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(Block):
    """Two 3x3 convolutions and a shortcut: relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Build the block; its output is [B, out, H / stride, W / stride]."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride)

    def preact(self, x: Tensor) -> Tensor:
        """See ``Block``."""
        residual: Tensor = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        shortcut: Tensor = self.shortcut(x)
        return residual + shortcut


class Bottleneck(Block):
    """1x1 to a quarter of the channels, 3x3, 1x1 back, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Build the block; its output is [B, out, H / stride, W / stride]."""
        super().__init__()
        inner = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride)

    def preact(self, x: Tensor) -> Tensor:
        """See ``Block``."""
        inner = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        residual: Tensor = self.bn3(self.conv3(inner))
        shortcut: Tensor = self.shortcut(x)
        return residual + shortcut


class ResNet(StagedNetwork):
    """A 3x3 stem, stages of blocks, and a linear classifier."""

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
        blocks: Sequence[int],
        channels: tuple[int, ...],
        strides: Sequence[int] | None = None,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
    ) -> None:
        """Build and initialise.

        Args:
            num_classes: number of logits C.
            in_channels: channels of the images.
            image_size: height and width of the images in pixels, within ``image_sizes``.
            blocks: number of blocks in each stage.
            channels: channels of the stem and of each stage's output.
            strides: the stride of each stage's first block; by default 1, then 2 for all others.
            block: class of the blocks.
        """
        super().__init__(image_size)
        self.feature_channels = channels
        self.conv1 = self._stem(in_channels, channels[0])
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.stages = nn.Sequential()
        strides = strides or (1, *[2] * (len(blocks) - 1))
        for count, stride, (inputs, outputs) in zip(
            blocks, strides, pairwise(channels), strict=True
        ):
            first = block(inputs, outputs, stride)
            rest = (block(outputs, outputs, stride=1) for _ in range(count - 1))
            self.stages.append(nn.Sequential(first, *rest))
        self.fc = nn.Linear(channels[-1], num_classes)
        initialize_convolutions(self)

    def _stem(self, in_channels: int, out_channels: int) -> nn.Conv2d:
        return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


class ImageNetResNet(ResNet):
    """A ResNet with a 7x7 stem of stride 2 and max-pooling of stride 2 before the stages."""

    image_sizes = (32, 512)

    def _stem(self, in_channels: int, out_channels: int) -> nn.Conv2d:
        return nn.Conv2d(in_channels, out_channels, 7, stride=2, padding=3, bias=False)

    def before_stages(self, x: Tensor) -> Tensor:
        """Max-pooling."""
        return max_pool2d(x, 3, stride=2, padding=1)


def small_resnet(depth: int, channels: tuple[int, ...] = (16, 16, 32, 64)) -> partial[ResNet]:
    """Three stages of n basic blocks each; ``depth`` is the number of weighted layers, 6n + 2."""
    return partial(ResNet, blocks=[(depth - 2) // 6] * 3, channels=channels)


X4 = (32, 64, 128, 256)
NARROW = (64, 64, 128, 256, 512)
WIDE = (64, 256, 512, 1024, 2048)

resnet8 = small_resnet(8)
resnet14 = small_resnet(14)
resnet20 = small_resnet(20)
resnet32 = small_resnet(32)
resnet44 = small_resnet(44)
resnet56 = small_resnet(56)
resnet110 = small_resnet(110)
resnet8x4 = small_resnet(8, X4)
resnet32x4 = small_resnet(32, X4)
resnet18_cifar = partial(ResNet, blocks=(2, 2, 2, 2), channels=NARROW)
# Its last feature map is a quarter of the image's side.
resnet18_quarter = partial(resnet18_cifar, strides=(1, 1, 2, 2))
resnet50 = partial(ResNet, blocks=(3, 4, 6, 3), channels=WIDE, block=Bottleneck)
imagenet_resnet18 = partial(ImageNetResNet, blocks=(2, 2, 2, 2), channels=NARROW)
imagenet_resnet34 = partial(ImageNetResNet, blocks=(3, 4, 6, 3), channels=NARROW)
imagenet_resnet50 = partial(ImageNetResNet, blocks=(3, 4, 6, 3), channels=WIDE, block=Bottleneck)
