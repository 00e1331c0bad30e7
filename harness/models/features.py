"""Networks that return their intermediate features along with their logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from harness.errors import UserError


@dataclass(frozen=True)
class Features:
    """Logits and intermediate features of one forward pass.

    ``stages``, ``preacts``, the network's ``feature_channels`` and its ``batchnorm_before_relu()``
    have one entry for the stem and one for each stage, in the order of the forward pass.

    Attributes:
        stages: feature maps [B, K, H, W]. In a network with activations at the end of its blocks,
            they are taken after the stage's last ReLU; in a pre-activation network, they are the
            residual sum before the next BatchNorm and activation.
        preacts: inputs [B, K, H, W] of the activation adjacent to ``stages``. In a pre-activation
            network, they are ``stages`` after the next BatchNorm; for a stage without an activation
            at its end, they are ``stages``.
        pooled: the final feature map averaged over space [B, D], the classifier's input.
        logits: class scores [B, C].
    """

    stages: tuple[Tensor, ...]
    preacts: tuple[Tensor, ...]
    pooled: Tensor
    logits: Tensor


class FeatureNetwork(nn.Module):
    """Base class of the networks for square images with values in [0, 1].

    The network does not normalise its input; see ``harness.models.normalize``.

    Attributes:
        image_sizes: the smallest and the largest supported height and width in pixels.
        feature_channels: channels of the stem's and each stage's feature map.
        published_names: patterns and replacements for ``re.sub``, applied in order, that map the
            parameter names of widely used releases of the same network to the names here.
        unused_names: patterns of names in such releases that the network does not use.
    """

    image_sizes: ClassVar[tuple[int, int]] = (8, 64)
    published_names: ClassVar[Mapping[str, str]] = {}
    unused_names: ClassVar[tuple[str, ...]] = ()
    feature_channels: tuple[int, ...]

    def __init__(self, image_size: int) -> None:
        """Check that images of ``image_size`` x ``image_size`` pixels are supported.

        Raises:
            UserError: they are not.
        """
        super().__init__()
        smallest, largest = self.image_sizes
        if not smallest <= image_size <= largest:
            raise UserError(
                f"images of {image_size}x{image_size} pixels do not suit this architecture, which "
                f"takes {smallest} to {largest}: choose another dataset or load a model with "
                "timm:NAME"
            )

    def features(self, x: Tensor) -> Features:
        """Features and logits of images [B, K, H, W] in [0, 1].

        Every layer runs once, as in ``forward``, so in training mode the running statistics of each
        BatchNorm are updated once.
        """
        raise NotImplementedError

    def batchnorm_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last BatchNorm before the activation adjacent to each of ``Features.stages``.

        If a shortcut is added between the two, it is the last BatchNorm of the residual branch. For
        a stage without an activation at its end, it is the stage's last BatchNorm.
        """
        raise NotImplementedError


def features_of(model: Callable[[Tensor], Tensor], x: Tensor) -> Features:
    """Return a model's features for images [B, K, H, W].

    Raises:
        UserError: the model has no ``features`` method.
    """
    show: Callable[[Tensor], Features] | None = getattr(model, "features", None)
    if show is None:
        raise UserError(
            f"the network {type(model).__name__} has no features: choose a registered one, or a "
            "method that uses logits alone"
        )
    return show(x)


def global_average(x: Tensor) -> Tensor:
    """The mean over space: [B, K, H, W] to [B, K]."""
    return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)


def initialize_convolutions(network: nn.Module) -> None:
    """He initialisation by fan-out: N(0, 2 / (k^2 out)) for k x k kernels; BatchNorm is identity.

    Source: He et al., "Delving deep into rectifiers", ICCV 2015.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
