"""Cross-entropy with smoothed labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from methods.losses.divergence import float32_or_wider


def smoothed_cross_entropy(logits_BC: Tensor, y_B: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with 1 - smoothing on the label and smoothing / (C - 1) on each other class.

    Args:
        logits_BC: logits [B, C], C >= 2.
        y_B: labels, int64 in [0, C).
        smoothing: the mass taken off the label, in [0, (C - 1) / C), below which the label keeps
            more than any other class.

    Returns:
        The mean over the batch, a scalar >= 0.
    """
    classes = logits_BC.shape[-1]
    # torch spreads its mass over all classes, the label among them.
    spread = smoothing * classes / (classes - 1)
    return cross_entropy(float32_or_wider(logits_BC), y_B, label_smoothing=spread)
