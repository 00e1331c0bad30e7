"""Find the shapes of a network's features without computing them."""

from __future__ import annotations

import copy

import torch

from harness.models.features import FeatureNetwork, Features
from harness.models.normalize import Normalized


def feature_shapes(
    network: FeatureNetwork | Normalized, in_channels: int, image_size: int
) -> Features:
    """Return the features of one image as tensors without values (device ``meta``).

    Args:
        network: the network; it is not changed.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad():
        return shadow.features(torch.empty(1, in_channels, image_size, image_size, device="meta"))
