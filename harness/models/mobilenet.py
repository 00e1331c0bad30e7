"""MobileNets: version 1 for ImageNet, version 2 at half width for small images.

Sources: Howard et al., "MobileNets", 2017; Sandler et al., "MobileNetV2: inverted residuals and
linear bottlenecks", CVPR 2018, in the form of the distillation literature (Tian et al.,
"Contrastive representation distillation", ICLR 2020). That form has ReLU instead of ReLU6, a stem
of stride 2 followed by three more strides of 2, so that 32-pixel images end at 2 pixels, and keeps
the first block's expansion by 1 as a convolution.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from harness.models.features import initialize_convolutions
from harness.models.staged import Block, StagedNetwork, conv_bn_relu, depthwise


class SeparableBlock(Block):
    """A depthwise 3x3 convolution, then a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Each convolution is followed by BatchNorm and ReLU."""
        super().__init__()
        self.conv1 = depthwise(in_channels, stride)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def preact(self, x: Tensor) -> Tensor:
        """See ``Block``."""
        mixed: Tensor = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return mixed


class MobileNetV1(StagedNetwork):
    """A stem and thirteen separable blocks up to 1024 channels; PyTorch's initialisation.

    The stages have 128, 256, 512 and 1024 channels at 1/4, 1/8, 1/16 and 1/32 of the image side,
    as in the ImageNet ResNets.
    """

    image_sizes = (32, 512)
    feature_channels = (32, 128, 256, 512, 1024)

    # Output channels and stride of each block.
    layout = (
        ((64, 1), (128, 2), (128, 1)),
        ((256, 2), (256, 1)),
        ((512, 2), *[(512, 1)] * 5),
        ((1024, 2), (1024, 1)),
    )

    def __init__(self, num_classes: int, in_channels: int = 3, image_size: int = 224) -> None:
        """Build for logits [B, ``num_classes``] of images with ``in_channels`` channels."""
        super().__init__(image_size)
        channels = self.feature_channels[0]
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.stages = nn.Sequential()
        for stage in self.layout:
            blocks = nn.Sequential()
            for outputs, stride in stage:
                blocks.append(SeparableBlock(channels, outputs, stride))
                channels = outputs
            self.stages.append(blocks)
        self.fc = nn.Linear(channels, num_classes)


class InvertedResidual(Block):
    """1x1 to more channels, depthwise 3x3, 1x1 back without activation, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        """Build the block; its shortcut is the identity, or absent if the shape changes."""
        super().__init__()
        inner = in_channels * expansion
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = depthwise(inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def preact(self, x: Tensor) -> Tensor:
        """The block's output, which has no activation."""
        inner = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        residual: Tensor = self.bn3(self.conv3(inner))
        return x + residual if self.has_shortcut else residual

    def forward(self, x: Tensor) -> Tensor:
        """The block's output [B, out, H / stride, W / stride]."""
        return self.preact(x)


class MobileNetV2(StagedNetwork):
    """A stem of stride 2, four linear stages, a 1x1 convolution to 1280 channels, a classifier.

    ``features`` has the stages' linear outputs; the classifier's input has 1280 channels.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, image_size: int = 32) -> None:
        """Build and initialise.

        Args:
            num_classes: number of logits C.
            in_channels: channels of the images.
            image_size: height and width of the images in pixels, 8 to 64.
        """
        super().__init__(image_size)
        # Output channels, number of blocks, stride and expansion of the groups in each stage.
        layout = (
            ((8, 1, 1, 1), (12, 2, 1, 6)),
            ((16, 3, 2, 6),),
            ((32, 4, 2, 6), (48, 3, 1, 6)),
            ((80, 3, 2, 6), (160, 1, 1, 6)),
        )
        self.feature_channels = (16, *(stage[-1][0] for stage in layout))
        self.conv1 = nn.Conv2d(in_channels, 16, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.stages = nn.Sequential()
        inputs = 16
        for stage in layout:
            blocks = nn.Sequential()
            for outputs, number, stride, expand in stage:
                for i in range(number):
                    blocks.append(
                        InvertedResidual(inputs, outputs, stride if i == 0 else 1, expand)
                    )
                    inputs = outputs
            self.stages.append(blocks)
        self.last = conv_bn_relu(inputs, 1280)
        self.fc = nn.Linear(1280, num_classes)
        initialize_convolutions(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def activate_stage(self, preact: Tensor) -> Tensor:
        """The identity: bottlenecks are linear."""
        return preact

    def after_stages(self, x: Tensor) -> Tensor:
        """The 1x1 convolution."""
        widened: Tensor = self.last(x)
        return widened


mobilenet_v1 = MobileNetV1
mobilenet_v2 = MobileNetV2
