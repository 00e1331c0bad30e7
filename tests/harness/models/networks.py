"""One small network of each family."""

from functools import partial

from torch import nn

from harness.models import build_model
from harness.models.preact_resnet import PreActResNet
from harness.models.resnet import Bottleneck, ImageNetResNet, ResNet
from harness.models.wide_resnet import WideResNet, silu_wide_resnet

SMALL = (4, 8, 8, 12, 16)
PREACTIVATION = {
    "preact-resnet": partial(PreActResNet, blocks=2, channels=(4, 4, 8, 12, 16)),
    "wide-resnet": partial(WideResNet, depth=16, width=1),
    "wide-resnet-silu": partial(silu_wide_resnet, depth=16, width=1),
}
RESNETS = {"resnet": partial(ResNet, blocks=(2, 2, 2), channels=(4, 6, 8, 10)), **PREACTIVATION}
FAMILIES = RESNETS | {
    "bottlenecks": partial(ResNet, block=Bottleneck, blocks=(2, 1, 1, 2), channels=SMALL),
    "imagenet": partial(ImageNetResNet, blocks=(1, 2, 1, 1), channels=SMALL),
    "vgg": partial(build_model, "vgg8"),
    "mobilenet-v1": partial(build_model, "mobilenet-v1"),
    "mobilenet-v2": partial(build_model, "mobilenet-v2"),
    "shufflenet-v1": partial(build_model, "shufflenet-v1"),
    "shufflenet-v2": partial(build_model, "shufflenet-v2"),
}


def tiny_resnet(num_classes: int = 4) -> ResNet:
    """A CIFAR ResNet with four channels."""
    return ResNet(num_classes, blocks=(1, 1, 1), channels=(4, 4, 8, 8))


def size_of(name: str) -> int:
    """Height and width of the images on which a family is tested."""
    return 16 if name in RESNETS else 32


def make(name: str) -> nn.Module:
    """A network of a family, for 5 classes."""
    return FAMILIES[name](5, 3, size_of(name))


def randomized(network: nn.Module) -> nn.Module:
    """The network in eval mode with BatchNorms that are not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()
