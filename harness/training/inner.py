"""The inner maximisation of adversarial training: projected gradient ascent in a ball."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.config import InnerAttackConfig
from harness.method import Objective
from harness.training.schedules import InnerSchedule


def starting_point(x: Tensor, start: str, eps: float, generator: torch.Generator | None) -> Tensor:
    """The attack's first point; Gaussian noise is projected only after the first step."""
    if start == "clean":
        return x.clone()
    if start == "gaussian":
        noise = torch.empty_like(x).normal_(generator=generator)
        return x + 0.001 * noise
    noise = torch.empty_like(x).uniform_(-eps, eps, generator=generator)
    return (x + noise).clamp(0, 1)


def maximise(
    model: nn.Module,
    objective: Objective,
    x: Tensor,
    schedule: InnerSchedule,
    config: InnerAttackConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images in the ball of radius ``schedule.eps`` around ``x`` that raise the objective.

    Sign steps, each followed by a projection on the Linf ball and on [0, 1]. The model's mode and
    which of its parameters ask for gradients are the caller's.

    Args:
        model: maps images [B, K, H, W] to logits [B, C].
        objective: scalar of logits [B, C], to be maximised.
        x: clean images in [0, 1].
        schedule: radius, step size, step count.
        config: names the starting point.
        generator: source of the starting noise, on the device of ``x``.

    Returns:
        Adversarial images, detached, in [0, 1] and within the radius of ``x``.
    """
    low, high = (x - schedule.eps).clamp_(min=0), (x + schedule.eps).clamp_(max=1)
    x_adv = starting_point(x, config.start, schedule.eps, generator)
    for _ in range(schedule.steps):
        x_adv.requires_grad_(True)
        with torch.enable_grad():
            value = objective(model(x_adv))
        (gradient,) = torch.autograd.grad(value, x_adv)
        with torch.no_grad():
            x_adv = torch.clamp(x_adv + schedule.step_size * gradient.sign(), low, high)
    return x_adv.detach()
