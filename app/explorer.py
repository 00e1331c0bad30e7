"""Values and gradients of losses of two logit vectors, from the functions that train models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.losses.divergence import dkl_loss, ikl_loss, kl_divergence

Loss = Callable[[Tensor, Tensor], Tensor]

KL = "KL"
WMSE = "wMSE"
CE = "soft CE"
DKL = "DKL"
# The paper's abbreviation: DKL with its asymmetry broken.
BROKEN = "DKL + BA"
IKL = "IKL"


@dataclass(frozen=True)
class Gradients:
    """Value and gradients of a loss of two logit vectors.

    Attributes:
        value: the loss.
        to_m: gradient [C] with respect to the reference's logits (clean image, teacher).
        to_n: gradient [C] with respect to the other logits (adversarial image, student).
    """

    value: float
    to_m: tuple[float, ...]
    to_n: tuple[float, ...]


def losses(class_weights: Sequence[float], wmse_weight: float, ce_weight: float) -> dict[str, Loss]:
    """The losses by name, each a function of two logit tensors [1, C].

    Args:
        class_weights: mean prediction of the class (Eq. 10), for IKL.
        wmse_weight: the paper's alpha, for all but KL.
        ce_weight: the paper's beta, for all but KL.
    """
    weights_BC = torch.tensor([list(class_weights)], dtype=torch.float64)
    return {
        KL: kl_divergence,
        WMSE: lambda m, n: wmse_weight * dkl_loss(m, n).wmse,
        CE: lambda m, n: ce_weight * dkl_loss(m, n).ce,
        DKL: lambda m, n: dkl_loss(m, n).weighted(wmse_weight, ce_weight),
        BROKEN: lambda m, n: dkl_loss(m, n, break_asymmetry=True).weighted(wmse_weight, ce_weight),
        IKL: lambda m, n: ikl_loss(m, n, weights_BC.expand_as(m)).weighted(wmse_weight, ce_weight),
    }


def tempered(loss: Loss, temperature: float) -> Loss:
    """A loss of logits divided by the temperature, times its square, as in distillation."""
    return lambda m, n: temperature**2 * loss(m / temperature, n / temperature)


def gradients(
    loss: Loss,
    logits_m: Sequence[float],
    logits_n: Sequence[float],
    *,
    temperature: float = 1.0,
    detach_m: bool = False,
) -> Gradients:
    """Value and gradients of a loss in float64, with both vectors divided by the temperature.

    Args:
        loss: a function of two logit tensors [1, C].
        logits_m: the reference's logits [C].
        logits_n: the other logits [C].
        temperature: the paper's tau; the loss is multiplied by its square, as in distillation.
        detach_m: whether the reference gets no gradient, as a fixed teacher does.
    """
    m, n = (torch.tensor([list(each)], dtype=torch.float64) for each in (logits_m, logits_n))
    value, to_m, to_n = value_and_gradients(tempered(loss, temperature), m, n, detach_m=detach_m)
    return Gradients(float(value), tuple(to_m[0].tolist()), tuple(to_n[0].tolist()))


def value_and_gradients(
    loss: Loss, m: Tensor, n: Tensor, *, detach_m: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A loss and its gradients [B, C] with respect to both logits [B, C], zero without effect."""
    m, n = m.detach().requires_grad_(), n.detach().requires_grad_()
    value = loss(m.detach() if detach_m else m, n)
    if not value.requires_grad:
        # The loss depends on the detached reference only.
        return value, torch.zeros_like(m), torch.zeros_like(n)
    to_m, to_n = torch.autograd.grad(value, (m, n), materialize_grads=True)
    return value.detach(), to_m, to_n


def length(gradient: Sequence[float]) -> float:
    """Euclidean length."""
    return float(torch.tensor(list(gradient), dtype=torch.float64).norm())


def largest_difference(a: Gradients, b: Gradients) -> float:
    """The largest absolute difference between the components of two losses' gradients."""
    first, second = (torch.tensor([*each.to_m, *each.to_n], dtype=torch.float64) for each in (a, b))
    return float((first - second).abs().max())


def class_mean(classes: int, label: int, confidence: float) -> tuple[float, ...]:
    """A class's mean prediction: ``confidence`` for its label, the rest split evenly."""
    rest = (1 - confidence) / (classes - 1)
    return tuple(confidence if index == label else rest for index in range(classes))
