"""Prediction and margin from logits; the size of a perturbation, and the ball it must be in."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.config import Norm

NO_PREDICTION = -1
# The attacks compute in float32 and leave the ball by rounding, in two ways. Norms, steps and the
# radius are rounded to about 1e-7 of the radius. And each pixel value in [0, 1] is stored to within
# 2^-25; over N values that is at most 2^-25 sqrt(N) in L2, if all round in the same direction, as
# those of flat images nearly do: 1.7e-6 for 3x32x32, 1.2e-5 for 3x224x224. On such images, at radii
# from 0.01 to 5, APGD and Square went at most 5e-7 and 2.1e-6 too far.
TOLERANCE = 1e-6
STORED = 2.0**-25


def predict(logits: Tensor) -> Tensor:
    """Predicted classes [B] of logits [B, C].

    Of equal largest logits, the lowest class is predicted. Logits with NaN or +inf, or that are all
    -inf, predict ``NO_PREDICTION``, which equals no label; -inf next to finite logits is a class
    that the model rules out.
    """
    classes = torch.arange(logits.shape[1], device=logits.device)
    largest = logits == logits.amax(dim=1, keepdim=True)
    first = torch.where(largest, classes, logits.shape[1]).amin(dim=1)
    return torch.where(finite(logits), first, NO_PREDICTION)


def finite(logits: Tensor) -> Tensor:
    """Whether the largest logit of each row [B, C] is finite: bool [B]."""
    return torch.isfinite(logits.amax(dim=1))


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The true class's logit minus the largest other one [B]; NaN if that is not finite."""
    column = labels[:, None]
    other = logits.scatter(1, column, -torch.inf).amax(dim=1)
    difference = logits.gather(1, column).squeeze(1) - other
    return difference.masked_fill(~torch.isfinite(difference), torch.nan)


def perturbation_norm(perturbed: Tensor, clean: Tensor, norm: Norm) -> Tensor:
    """The norm of ``perturbed - clean`` [B], float64, of images [B, K, H, W]."""
    difference = (perturbed.double() - clean.double()).flatten(1)
    return difference.abs().amax(dim=1) if norm == "Linf" else difference.norm(dim=1)


def effective_eps(norm: Norm, eps: float, values: int) -> float:
    """Distance up to which an image of ``values`` pixel values counts as inside the ball.

    It is the radius plus a tolerance for float32 rounding, absolute and relative to the radius.
    """
    stored = STORED * (1.0 if norm == "Linf" else values**0.5)
    return eps + TOLERANCE + stored + TOLERANCE * eps


def clip_to_ball(perturbed: Tensor, clean: Tensor, norm: Norm, eps: float) -> tuple[Tensor, Tensor]:
    """Put images that left the ball or [0, 1] back, and return which ones these were.

    An image within ``effective_eps`` stays unchanged to the last bit. One that is not finite
    becomes the clean image.

    Args:
        perturbed: images [B, K, H, W] that an attack returned.
        clean: the images it was given.
        norm: the ball's norm.
        eps: its radius.

    Returns:
        The images [B, K, H, W], and which were outside: bool [B].
    """
    flat = perturbed.flatten(1)
    boxed = (flat >= 0).all(dim=1) & (flat <= 1).all(dim=1)
    furthest = effective_eps(norm, eps, flat.shape[1])
    outside = ~(boxed & (perturbation_norm(perturbed, clean, norm) <= furthest))
    if not outside.any():
        return perturbed, outside
    known = torch.where(torch.isfinite(flat).all(dim=1)[:, None, None, None], perturbed, clean)
    inside = project(known, clean, norm, eps)
    return torch.where(outside[:, None, None, None], inside, perturbed), outside


def project(perturbed: Tensor, clean: Tensor, norm: Norm, eps: float) -> Tensor:
    """Project images [B, K, H, W] into the ball around ``clean`` and into [0, 1]."""
    difference = perturbed - clean
    if norm == "Linf":
        difference = difference.clamp(-eps, eps)
    else:
        length = perturbation_norm(perturbed, clean, norm).float()[:, None, None, None]
        difference = difference * (eps / length.clamp(min=eps))
    return (clean + difference).clamp(0, 1)
