"""Architectures by name."""

from __future__ import annotations

from collections.abc import Callable

from harness.models.features import FeatureNetwork
from harness.registry import Registry

Architecture = Callable[[int, int, int], FeatureNetwork]

ARCHITECTURES: Registry[Architecture] = Registry(
    "architecture",
    targets={
        "resnet8": "harness.models.resnet:resnet8",
        "resnet14": "harness.models.resnet:resnet14",
        "resnet20": "harness.models.resnet:resnet20",
        "resnet32": "harness.models.resnet:resnet32",
        "resnet44": "harness.models.resnet:resnet44",
        "resnet56": "harness.models.resnet:resnet56",
        "resnet110": "harness.models.resnet:resnet110",
        "resnet8x4": "harness.models.resnet:resnet8x4",
        "resnet32x4": "harness.models.resnet:resnet32x4",
        "resnet18-cifar": "harness.models.resnet:resnet18_cifar",
        "resnet18-quarter": "harness.models.resnet:resnet18_quarter",
        "resnet50": "harness.models.resnet:resnet50",
        "imagenet-resnet18": "harness.models.resnet:imagenet_resnet18",
        "imagenet-resnet34": "harness.models.resnet:imagenet_resnet34",
        "imagenet-resnet50": "harness.models.resnet:imagenet_resnet50",
        "mobilenet-v1": "harness.models.mobilenet:mobilenet_v1",
        "mobilenet-v2": "harness.models.mobilenet:mobilenet_v2",
        "shufflenet-v1": "harness.models.shufflenet:ShuffleNetV1",
        "shufflenet-v2": "harness.models.shufflenet:ShuffleNetV2",
        "vgg8": "harness.models.vgg:vgg8",
        "vgg13": "harness.models.vgg:vgg13",
        "preact-resnet18": "harness.models.preact_resnet:preact_resnet18",
        "wrn-16-1": "harness.models.wide_resnet:wrn_16_1",
        "wrn-16-2": "harness.models.wide_resnet:wrn_16_2",
        "wrn-16-4": "harness.models.wide_resnet:wrn_16_4",
        "wrn-40-1": "harness.models.wide_resnet:wrn_40_1",
        "wrn-40-2": "harness.models.wide_resnet:wrn_40_2",
        "wrn-28-10": "harness.models.wide_resnet:wrn_28_10",
        "wrn-28-10-silu": "harness.models.wide_resnet:wrn_28_10_silu",
        "wrn-34-10": "harness.models.wide_resnet:wrn_34_10",
        "wrn-34-20": "harness.models.wide_resnet:wrn_34_20",
    },
    entry_points="harness.models",
)


def build_model(
    arch: str, num_classes: int, in_channels: int = 3, image_size: int = 32
) -> FeatureNetwork:
    """A new network with random weights, for images in [0, 1].

    Args:
        arch: a name in ``ARCHITECTURES``.
        num_classes: number of logits C.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels.

    Raises:
        UserError: the name is unknown, or the architecture does not accept images of that size.
    """
    return ARCHITECTURES.get(arch)(num_classes, in_channels, image_size)
