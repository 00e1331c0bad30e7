"""What an answer of a model is worth: prediction, margin, distance, and the ball it must lie in."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.config import Norm

TOLERANCE = 1e-6
NO_PREDICTION = -1


def predict(logits: Tensor) -> Tensor:
    """Predicted classes [B] of logits [B, C].

    Of several largest logits the one of the lowest class counts. Logits that are not all finite
    predict ``NO_PREDICTION``, which no label equals.
    """
    classes = torch.arange(logits.shape[1], device=logits.device)
    largest = logits == logits.amax(dim=1, keepdim=True)
    first = torch.where(largest, classes, logits.shape[1]).amin(dim=1)
    return torch.where(finite(logits), first, NO_PREDICTION)


def finite(logits: Tensor) -> Tensor:
    """Whether all logits of each row are finite: bool [B] of logits [B, C]."""
    return torch.isfinite(logits).all(dim=1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The true class's logit minus the largest other [B]; NaN where logits are not finite."""
    column = labels[:, None]
    other = logits.scatter(1, column, -torch.inf).amax(dim=1)
    difference = logits.gather(1, column).squeeze(1) - other
    return difference.masked_fill(~finite(logits), torch.nan)


def perturbation_norm(perturbed: Tensor, clean: Tensor, norm: Norm) -> Tensor:
    """The norm of ``perturbed - clean`` [B], float64, of images [B, K, H, W]."""
    difference = (perturbed.double() - clean.double()).flatten(1)
    return difference.abs().amax(dim=1) if norm == "Linf" else difference.norm(dim=1)


def confine(perturbed: Tensor, clean: Tensor, norm: Norm, eps: float) -> tuple[Tensor, Tensor]:
    """Images with those that left the ball or [0, 1] put back, and which these were.

    An image within ``TOLERANCE`` of the ball stays as it is to the last bit: attacks that clip in
    float32 overstep by rounding. One that is not finite becomes the clean image.

    Args:
        perturbed: images [B, K, H, W] that an attack returned.
        clean: the images it was given.
        norm: the ball's norm.
        eps: its radius.

    Returns:
        Images like ``perturbed`` and bool [B].
    """
    flat = perturbed.flatten(1)
    boxed = (flat >= 0).all(dim=1) & (flat <= 1).all(dim=1)
    outside = ~(boxed & (perturbation_norm(perturbed, clean, norm) <= eps + TOLERANCE))
    if not outside.any():
        return perturbed, outside
    known = torch.where(torch.isfinite(flat).all(dim=1)[:, None, None, None], perturbed, clean)
    inside = project(known, clean, norm, eps)
    return torch.where(outside[:, None, None, None], inside, perturbed), outside


def project(perturbed: Tensor, clean: Tensor, norm: Norm, eps: float) -> Tensor:
    """The images [B, K, H, W] moved into the ball around ``clean`` and into [0, 1]."""
    difference = perturbed - clean
    if norm == "Linf":
        difference = difference.clamp(-eps, eps)
    else:
        length = perturbation_norm(perturbed, clean, norm).float()[:, None, None, None]
        difference = difference * (eps / length.clamp(min=eps))
    return (clean + difference).clamp(0, 1)
