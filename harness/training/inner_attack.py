"""The inner maximisation of adversarial training: projected gradient ascent in a ball."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from harness.config import InnerAttackConfig
from harness.method import AttackPlan, Forward, Objective
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


def pgd(
    model: Forward,
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
    start = starting_point(x, config.start, schedule.eps, generator)
    sizes = [schedule.step_size] * schedule.steps
    return _ascend(model, objective, start, sizes, *_ball(x, schedule.eps))


def follow(
    model: Forward,
    objective: Objective,
    x: Tensor,
    plan: AttackPlan,
    config: InnerAttackConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """As ``maximise``, but each image by its own radius, step size and step count.

    An image whose steps are taken waits for the others. Which radius is allowed is not asked here.
    """
    steps = int(plan.steps_B.max())
    sizes = (_spread(plan.step_size_B * (step < plan.steps_B), x) for step in range(steps))
    start = starting_point(x, config.start, plan.start_eps, generator)
    return _ascend(model, objective, start, sizes, *_ball(x, _spread(plan.eps_B, x)))


def clipped(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """``x_adv`` within ``eps`` of ``x`` and in [0, 1]."""
    return torch.clamp(x_adv, *_ball(x, eps))


def _ball(x: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
    return (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)


def _spread(values_B: Tensor, x: Tensor) -> Tensor:
    return values_B.to(x.dtype)[:, None, None, None]


def _ascend(
    model: Forward,
    objective: Objective,
    x_adv: Tensor,
    sizes: Iterable[float | Tensor],
    low: Tensor,
    high: Tensor,
) -> Tensor:
    for size in sizes:
        x_adv.requires_grad_(True)
        with torch.enable_grad():
            value = objective(model(x_adv))
        (gradient,) = torch.autograd.grad(value, x_adv)
        with torch.no_grad():
            x_adv = torch.clamp(x_adv + size * gradient.sign(), low, high)
    return x_adv.detach()
