"""ShuffleNets for small images.

Sources: Zhang et al., "ShuffleNet", CVPR 2018; Ma et al., "ShuffleNet V2", ECCV 2018, in the form
of the distillation literature (Tian et al., "Contrastive representation distillation", ICLR 2020):
a 1x1 stem of 24 channels without stride or pooling, and in version 1 a ReLU after each 3x3
convolution. They use PyTorch's initialisation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from harness.models.staged import Block, StagedNetwork, conv_bn_relu, depthwise

STEM = 24
NORM_STATE = ("weight", "bias", "running_mean", "running_var")


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the groups' channels: [B, groups * n, ...] to [B, n * groups, ...]."""
    return torch.unflatten(x, 1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class GroupedBlock(Block):
    """Grouped 1x1 convolution, shuffle, depthwise 3x3, grouped 1x1, and a shortcut.

    At stride 2 the averaged input is concatenated to the residual branch instead of added.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, groups: int, first_groups: int
    ) -> None:
        """Build the block; ``first_groups`` is for the first 1x1 convolution and the shuffle."""
        super().__init__()
        self.stride = stride
        self.first_groups = first_groups
        computed = out_channels if stride == 1 else out_channels - in_channels
        inner = computed // 4
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = depthwise(inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, computed, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(computed)

    def preact(self, x: Tensor) -> Tensor:
        """See ``Block``."""
        inner = channel_shuffle(relu(self.bn1(self.conv1(x))), self.first_groups)
        residual: Tensor = self.bn3(self.conv3(relu(self.bn2(self.conv2(inner)))))
        if self.stride == 1:
            return residual + x
        return torch.cat([residual, avg_pool2d(x, 3, stride=2, padding=1)], dim=1)


class ShuffleNetV1(StagedNetwork):
    """ShuffleNet with 3 groups: 240, 480, 960 channels in 4, 8, 4 blocks."""

    feature_channels = (STEM, 240, 480, 960)

    def __init__(self, num_classes: int, in_channels: int = 3, image_size: int = 32) -> None:
        """Build for logits [B, ``num_classes``] of images with ``in_channels`` channels."""
        super().__init__(image_size)
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.stages = nn.Sequential()
        inputs, groups = STEM, 3
        for outputs, number in zip(self.feature_channels[1:], (4, 8, 4), strict=True):
            blocks = nn.Sequential()
            for i in range(number):
                stride = 2 if i == 0 else 1
                # The paper does not group the convolution that reads the stem's few channels.
                first_groups = 1 if inputs == STEM else groups
                blocks.append(
                    GroupedBlock(inputs, outputs, stride, groups=groups, first_groups=first_groups)
                )
                inputs = outputs
            self.stages.append(blocks)
        self.fc = nn.Linear(inputs, num_classes)


def join(left: Tensor, right: Tensor) -> Tensor:
    """Interleave two halves of the channels."""
    return channel_shuffle(torch.cat([left, right], dim=1), 2)


def norm_state(norm: nn.BatchNorm2d) -> Tensor:
    """``NORM_STATE`` of each channel, [1, K, 4]."""
    state = norm.state_dict()
    return torch.stack([state[name] for name in NORM_STATE], dim=-1).unsqueeze(0)


class HalvingBlock(Block):
    """Halves the image; each half of the output channels is computed from the whole input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Left: depthwise 3x3, 1x1. Right: 1x1, depthwise 3x3, 1x1."""
        super().__init__()
        half = out_channels // 2
        self.conv1 = depthwise(in_channels, stride=2)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = depthwise(half, stride=2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def preact(self, x: Tensor) -> Tensor:
        """See ``Block``."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(relu(self.bn3(self.conv3(x)))))
        return join(left, self.bn5(self.conv5(right)))

    def norm_parameters(self) -> Tensor:
        """``NORM_STATE`` of the last BatchNorm that each output channel passed, [1, K, 4]."""
        return join(norm_state(self.bn2), norm_state(self.bn5))


class PassingBlock(Block):
    """One half of the channels passes unchanged, the other goes through 1x1, 3x3, 1x1.

    The half that passes is already rectified, so a ReLU of all channels does not change it.
    """

    def __init__(self, channels: int) -> None:
        """Build the block; input and output have the same number of channels."""
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = depthwise(half, stride=1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def preact(self, x: Tensor) -> Tensor:
        """See ``Block``."""
        halves = x.chunk(2, dim=1)
        right = self.bn2(self.conv2(relu(self.bn1(self.conv1(halves[1])))))
        return join(halves[0], self.bn3(self.conv3(right)))

    def norm_parameters(self, before: Tensor) -> Tensor:
        """See ``HalvingBlock``; ``before`` is the value of the previous block."""
        return join(before.chunk(2, dim=1)[0], norm_state(self.bn3))


class ShuffleNetV2(StagedNetwork):
    """ShuffleNetV2 of width 1: 116, 232, 464 channels in 4, 8, 4 blocks, then 1x1 to 1024.

    ``features`` has the stages; the classifier's input has 1024 channels.
    """

    feature_channels = (STEM, 116, 232, 464)

    def __init__(self, num_classes: int, in_channels: int = 3, image_size: int = 32) -> None:
        """Build for logits [B, ``num_classes``] of images with ``in_channels`` channels."""
        super().__init__(image_size)
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.stages = nn.Sequential()
        inputs = STEM
        for outputs, number in zip(self.feature_channels[1:], (4, 8, 4), strict=True):
            rest = (PassingBlock(outputs) for _ in range(number - 1))
            self.stages.append(nn.Sequential(HalvingBlock(inputs, outputs), *rest))
            inputs = outputs
        self.last = conv_bn_relu(inputs, 1024)
        self.fc = nn.Linear(1024, num_classes)

    def after_stages(self, x: Tensor) -> Tensor:
        """The 1x1 convolution."""
        widened: Tensor = self.last(x)
        return widened

    def batchnorm_before_relu(self) -> list[nn.BatchNorm2d]:
        """See ``FeatureNetwork``.

        A stage's channels come from the BatchNorms of all its blocks. The returned BatchNorm is a
        copy that holds, for each channel, the state of its last BatchNorm.
        """
        return [self.bn1, *(gathered_norm(blocks) for blocks in self._blocks())]


def gathered_norm(blocks: list[Any]) -> nn.BatchNorm2d:
    """See ``ShuffleNetV2.batchnorm_before_relu``; the copy takes no gradient."""
    first, *rest = blocks
    held: Tensor = first.norm_parameters()
    for block in rest:
        held = block.norm_parameters(held)
    norm = nn.BatchNorm2d(held.shape[1], device=held.device, dtype=held.dtype)
    norm.requires_grad_(False)
    for name, values in zip(NORM_STATE, held[0].unbind(-1), strict=True):
        getattr(norm, name).copy_(values)
    return norm


shufflenet_v1 = ShuffleNetV1
shufflenet_v2 = ShuffleNetV2
