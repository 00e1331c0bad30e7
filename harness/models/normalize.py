"""Input normalisation as a part of the model, so that attacks work on images in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.models.features import FeatureNetwork, Features


class Normalized(nn.Module):
    """``model((x - mean) / std)`` for images x in [0, 1].

    Attributes:
        model: the network for normalised images.
        mean: mean of each channel [1, K, 1, 1], a buffer.
        std: standard deviation of each channel [1, K, 1, 1], a buffer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap ``model``; ``mean`` and ``std`` have one value per channel."""
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def normalize(self, x: Tensor) -> Tensor:
        """Normalised images [B, K, H, W] of images in [0, 1]."""
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, K, H, W] in [0, 1]."""
        logits: Tensor = self.model(self.normalize(x))
        return logits

    def features(self, x: Tensor) -> Features:
        """The network's features of images [B, K, H, W] in [0, 1]."""
        return self._network.features(self.normalize(x))

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """See ``FeatureNetwork``."""
        return self._network.feature_channels

    def batchnorm_before_relu(self) -> list[nn.BatchNorm2d]:
        """See ``FeatureNetwork``."""
        return self._network.batchnorm_before_relu()

    @property
    def _network(self) -> FeatureNetwork:
        if not isinstance(self.model, FeatureNetwork):
            raise TypeError(f"a {type(self.model).__name__} has no features")
        return self.model
