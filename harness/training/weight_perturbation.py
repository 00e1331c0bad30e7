"""Adversarial weight perturbation.

Wu, Xia, Wang: Adversarial Weight Perturbation Helps Robust Generalization, NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.distributed.group import SINGLE_PROCESS, ProcessGroup
from harness.training.modes import frozen_statistics


def perturbed_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters to perturb: weights with more than one dimension (no BatchNorm, no bias)."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and "weight" in name and parameter.requires_grad
    ]


def perturbation(
    model: nn.Module,
    loss: Callable[[], Tensor],
    gamma: float,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> list[Tensor]:
    """Per tensor, v = gamma ||w|| g / ||g||, where g is the gradient of the loss at the weights w.

    The loss is computed on the model itself with frozen BatchNorm statistics, not on a proxy copy:
    v is the same, since the proxy's learning rate cancels.
    """
    parameters = perturbed_parameters(model)
    with frozen_statistics(model):
        gradients = torch.autograd.grad(loss(), parameters)
    processes.average_(gradients)
    # The foreach norms launch a few kernels, a loop would launch hundreds.
    weight_norms = torch._foreach_norm([parameter.detach() for parameter in parameters])
    gradient_norms = torch._foreach_norm(gradients)
    scales = [
        gamma * weight / (gradient + 1e-20)
        for weight, gradient in zip(weight_norms, gradient_norms, strict=True)
    ]
    return list(torch._foreach_mul(gradients, scales))


@contextmanager
def perturbed(model: nn.Module, offsets: list[Tensor]) -> Iterator[None]:
    """Perturb the model's weights w to w + v inside; on exit, subtract v from their current values.

    The optimiser step is taken inside, at the perturbed weights, as in the released code.
    """
    parameters = perturbed_parameters(model) if offsets else []
    with torch.no_grad():
        for parameter, offset in zip(parameters, offsets, strict=True):
            parameter.add_(offset)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, offset in zip(parameters, offsets, strict=True):
                parameter.sub_(offset)
