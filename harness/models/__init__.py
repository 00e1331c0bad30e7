"""Architectures by name; the names are available without importing torch, which takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.registry import Registry

if TYPE_CHECKING:
    from harness.models.features import FeatureNetwork

Architecture = Callable[[int, int, int], "FeatureNetwork"]

# Module of a family to its networks; ``-`` in a name is ``_`` in the attribute.
FAMILIES = {
    "resnet": """
        resnet8 resnet14 resnet20 resnet32 resnet44 resnet56 resnet110 resnet8x4 resnet32x4
        resnet18-cifar resnet18-quarter resnet50
        imagenet-resnet18 imagenet-resnet34 imagenet-resnet50
    """,
    "mobilenet": "mobilenet-v1 mobilenet-v2",
    "shufflenet": "shufflenet-v1 shufflenet-v2",
    "vgg": "vgg8 vgg13",
    "preact_resnet": "preact-resnet18",
    "wide_resnet": """
        wrn-16-1 wrn-16-2 wrn-16-4 wrn-40-1 wrn-40-2 wrn-28-10 wrn-28-10-silu wrn-34-10 wrn-34-20
    """,
}
ARCHITECTURES: Registry[Architecture] = Registry(
    "architecture",
    targets={
        name: f"harness.models.{module}:{name.replace('-', '_')}"
        for module, names in FAMILIES.items()
        for name in names.split()
    },
    entry_points="harness.models",
    members=("__call__",),
)


def build_model(
    arch: str, num_classes: int, in_channels: int = 3, image_size: int = 32
) -> FeatureNetwork:
    """Build a network with random weights, for images in [0, 1].

    Args:
        arch: a name in ``ARCHITECTURES``.
        num_classes: number of logits C.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels.

    Raises:
        UserError: the name is unknown, or the architecture does not accept images of that size.
    """
    return ARCHITECTURES.get(arch)(num_classes, in_channels, image_size)
