"""Cross-entropy with labels, plain and smoothed, in float32 or wider."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from methods.losses.precision import float32_or_wider


def label_cross_entropy(logits_BC: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """CE(o, y), smoothed as in torch: ``label_smoothing`` is spread over all C classes.

    Args:
        logits_BC: logits [B, C].
        y: labels, int64 [B] in [0, C), or class probabilities [B, C].
        label_smoothing: the weight of the uniform distribution in the labels, in [0, 1].

    Returns:
        The mean over the batch, a scalar >= 0.
    """
    logits_BC = float32_or_wider(logits_BC)
    y = y.to(logits_BC.dtype) if y.is_floating_point() else y
    return cross_entropy(logits_BC, y, label_smoothing=label_smoothing)


def smoothed_cross_entropy(logits_BC: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with 1 - smoothing on the label and smoothing / (C - 1) on each other class.

    Args:
        logits_BC: logits [B, C], C >= 2.
        y: labels, int64 [B] in [0, C), or class probabilities [B, C].
        smoothing: in [0, (C - 1) / C), so that the label keeps more than any other class.

    Returns:
        The mean over the batch, a scalar >= 0.
    """
    classes = logits_BC.shape[-1]
    # torch spreads the smoothing over all classes, including the label.
    return label_cross_entropy(logits_BC, y, smoothing * classes / (classes - 1))
