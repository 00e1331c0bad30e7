"""Input normalisation as part of the model, so that attacks work on images in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.data import imagenet
from harness.data.base import DatasetInfo
from harness.errors import UserError
from harness.models.features import FeatureNetwork, Features

Statistics = tuple[Sequence[float], Sequence[float]]


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
        """Normalise images [B, K, H, W] in [0, 1]."""
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, K, H, W] in [0, 1]."""
        logits: Tensor = self.model(self.normalize(x))
        return logits

    def features(self, x: Tensor) -> Features:
        """The network's features for images [B, K, H, W] in [0, 1]."""
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
            raise UserError(
                f"the network {type(self.model).__name__} has no features: choose a registered "
                "one, or a method that uses logits alone"
            )
        return self.model


def statistics_of(normalize: str | Statistics | None, info: DatasetInfo) -> Statistics | None:
    """Return the mean and std that ``normalize`` selects for a dataset; None for no normalisation.

    Args:
        normalize: ``dataset``, ``imagenet``, (mean, std) or text such as ``0.5;0.2``, one value per
            channel; ``none`` or None for none.
        info: the dataset's description.

    Raises:
        UserError: it is none of these, its values do not match the channels, are not finite or are
            stds that are not positive, or the dataset has no statistics.
    """
    if normalize is None or normalize == "none":
        return None
    if normalize == "dataset":
        if not any(info.mean):
            raise UserError(f"no mean and std of {info.name} are known: give normalize=(mean, std)")
        statistics: Statistics = (info.mean, info.std)
    elif normalize == "imagenet":
        statistics = (imagenet.INFO.mean, imagenet.INFO.std)
    else:
        statistics = _parsed(normalize)
    mean, std = map(list, statistics)
    if not len(mean) == len(std) == info.channels:
        raise UserError(
            f"normalize has {len(mean)} means and {len(std)} stds, but images of {info.name} have "
            f"{info.channels} channels: give one of each per channel"
        )
    if not (all(map(math.isfinite, [*mean, *std])) and min(std) > 0):
        raise UserError(
            f"normalize has means {mean} and stds {std}: give finite means and positive stds"
        )
    return mean, std


def _parsed(normalize: str | Statistics) -> Statistics:
    """Convert to mean and std, also from text such as ``0.5,0.5,0.5;0.2,0.2,0.2``."""
    try:
        if isinstance(normalize, str):
            mean, std = ([float(part) for part in half.split(",")] for half in normalize.split(";"))
        else:
            mean, std = (list(map(float, values)) for values in normalize)
        return mean, std
    except (TypeError, ValueError) as error:
        raise UserError(
            f"normalize is {normalize!r}: give dataset, imagenet, none, or means and stds, such as "
            "0.5,0.5,0.5;0.2,0.2,0.2"
        ) from error
