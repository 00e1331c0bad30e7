"""Pre-activation ResNets for small images.

Source: He et al., "Identity mappings in deep residual networks", ECCV 2016: BatchNorm and
activation come before each convolution, including a shortcut's, and before the final pooling. The
18-layer network with a 3x3 stem is the usual small network of adversarial training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from harness.models.features import FeatureNetwork, Features, global_average

Activation = Callable[[Tensor], Tensor]
Norm = Callable[[int], nn.BatchNorm2d]


class SamePad(nn.Module):
    """Zero padding with which a 3x3 convolution of stride 2 gives ceil(size / 2).

    An even side is padded by one at its end, an odd side by one at each end, as TensorFlow's "SAME"
    does.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad images to [B, K, H + 1 or 2, W + 1 or 2]."""
        height, width = x.shape[-2:]
        return pad(x, (width % 2, 1, height % 2, 1))


class PreActBlock(nn.Module):
    """conv(act(bn(conv(a)))) + shortcut, where a = act(bn(x)).

    The shortcut is x, or a 1x1 convolution of a if the shape changes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        activation: Activation = relu,
        norm: Norm = nn.BatchNorm2d,
        same_padding: bool = False,
    ) -> None:
        """Build the block; without ``same_padding`` 3x3 convolutions pad one zero on each side."""
        super().__init__()
        uneven = same_padding and stride == 2
        self.activation = activation
        self.bn1 = norm(in_channels)
        self.pad: nn.Module = SamePad() if uneven else nn.Identity()
        self.conv1 = nn.Conv2d(
            in_channels, out_channels, 3, stride, padding=0 if uneven else 1, bias=False
        )
        self.bn2 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            if stride != 1 or in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output [B, out, H / stride, W / stride]."""
        return self.after_bn1(x, self.bn1(x))

    def after_bn1(self, x: Tensor, normed: Tensor) -> Tensor:
        """The block's output, given its input and its first BatchNorm's output."""
        a = self.activation(normed)
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(a)
        residual: Tensor = self.conv2(self.activation(self.bn2(self.conv1(self.pad(a)))))
        return residual + shortcut


class PreActResNet(FeatureNetwork):
    """A 3x3 stem, stages that halve the image (except the first), BatchNorm, and a classifier.

    It uses PyTorch's default initialisation, as the released adversarial-training code does.
    """

    published_names: ClassVar = {
        r"^layer1\.": "stages.0.",
        r"^layer2\.": "stages.1.",
        r"^layer3\.": "stages.2.",
        r"^layer4\.": "stages.3.",
        r"\.shortcut\.0\.": ".shortcut.",
        r"^linear\.": "fc.",
    }

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        blocks: int,
        channels: tuple[int, ...],
        activation: Activation = relu,
        norm: Norm = nn.BatchNorm2d,
        same_padding: bool = False,
    ) -> None:
        """Build and initialise.

        Args:
            num_classes: number of logits C.
            in_channels: channels of the images.
            image_size: height and width of the images in pixels, 8 to 64.
            blocks: number of blocks in each stage.
            channels: channels of the stem and of each stage.
            activation: the nonlinearity.
            norm: builds the BatchNorm for a number of channels.
            same_padding: pad the convolutions of stride 2 as ``SamePad`` does.
        """
        super().__init__(image_size)
        self.feature_channels = channels
        self.activation = activation
        block = partial(PreActBlock, activation=activation, norm=norm, same_padding=same_padding)
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        for i, (inputs, outputs) in enumerate(pairwise(channels)):
            first = block(inputs, outputs, stride=1 if i == 0 else 2)
            rest = (block(outputs, outputs, stride=1) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *rest))
        self.bn = norm(channels[-1])
        self.fc = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, K, H, W] in [0, 1]."""
        x = self.bn(self.stages(self.conv1(x)))
        logits: Tensor = self.fc(global_average(self.activation(x)))
        return logits

    def features(self, x: Tensor) -> Features:
        """See ``FeatureNetwork``; stem and stage outputs are taken before the next BatchNorm."""
        x = self.conv1(x)
        stages, preacts = [x], []
        for first, *rest in self._blocks():
            preacts.append(first.bn1(x))
            x = first.after_bn1(x, preacts[-1])
            for block in rest:
                x = block(x)
            stages.append(x)
        preacts.append(self.bn(x))
        pooled = global_average(self.activation(preacts[-1]))
        return Features(tuple(stages), tuple(preacts), pooled, self.fc(pooled))

    def batchnorm_before_relu(self) -> list[nn.BatchNorm2d]:
        """See ``FeatureNetwork``: each BatchNorm belongs to the next stage."""
        return [*(blocks[0].bn1 for blocks in self._blocks()), self.bn]

    def _blocks(self) -> list[list[PreActBlock]]:
        return [list(stage) for stage in cast("Iterable[Iterable[PreActBlock]]", self.stages)]


preact_resnet18 = partial(PreActResNet, blocks=2, channels=(64, 64, 128, 256, 512))
