"""Base class of networks with a stem, stages of blocks, and a linear classifier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import relu

from harness.models.features import FeatureNetwork, Features, global_average


class Block(nn.Module):
    """A block of a stage that exposes its output before the last activation."""

    def preact(self, x: Tensor) -> Tensor:
        """The block's output before its last activation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return relu(self.preact(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The last BatchNorm of the residual branch; a shortcut's BatchNorm is in a submodule."""
        return [child for child in self.children() if isinstance(child, nn.BatchNorm2d)][-1]


class StagedNetwork(FeatureNetwork):
    """fc(mean(after_stages(stages(before_stages(relu(bn1(conv1(x)))))))).

    A subclass sets the modules in its ``__init__``. Each stage is an ``nn.Sequential`` of blocks.
    """

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    stages: nn.Sequential
    fc: nn.Linear

    def before_stages(self, x: Tensor) -> Tensor:
        """Transform the stem's feature map before the first stage; by default the identity."""
        return x

    def activate_stage(self, preact: Tensor) -> Tensor:
        """The activation at the end of the blocks; by default ReLU."""
        return relu(preact)

    def after_stages(self, x: Tensor) -> Tensor:
        """Transform the last stage's feature map before pooling; by default the identity."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, K, H, W] in [0, 1]."""
        x = self.stages(self.before_stages(relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.fc(global_average(self.after_stages(x)))
        return logits

    def features(self, x: Tensor) -> Features:
        """See ``FeatureNetwork``; the stem's features are taken before ``before_stages``."""
        preacts: list[Tensor] = [self.bn1(self.conv1(x))]
        stages = [relu(preacts[0])]
        x = self.before_stages(stages[0])
        for *blocks, last in self._blocks():
            for block in blocks:
                x = block(x)
            preacts.append(last.preact(x))
            x = self.activate_stage(preacts[-1])
            stages.append(x)
        pooled = global_average(self.after_stages(x))
        return Features(tuple(stages), tuple(preacts), pooled, self.fc(pooled))

    def batchnorm_before_relu(self) -> list[nn.BatchNorm2d]:
        """See ``FeatureNetwork``."""
        return [self.bn1, *(blocks[-1].last_norm for blocks in self._blocks())]

    def _blocks(self) -> list[list[Block]]:
        return [list(stage) for stage in cast("Iterable[Iterable[Block]]", self.stages)]


def depthwise(channels: int, stride: int) -> nn.Conv2d:
    """A depthwise 3x3 convolution."""
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


def conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 1x1 convolution without bias, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )
