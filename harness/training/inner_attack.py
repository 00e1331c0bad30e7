"""The inner maximisation of adversarial training: projected gradient ascent in a ball."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from harness.config import InnerAttackConfig
from harness.method import AttackPlan, Forward, Objective
from harness.training.schedules import InnerSchedule


def starting_point(x: Tensor, start: str, eps: float, generator: torch.Generator | None) -> Tensor:
    """The attack's starting point; Gaussian noise is projected only after the first step."""
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
    """Find adversarial images within ``schedule.eps`` of ``x`` by projected gradient ascent.

    Each sign step is followed by a projection onto the Linf ball and [0, 1]. The caller sets the
    model's mode and which parameters require gradients.

    Args:
        model: maps images [B, K, H, W] to logits [B, C].
        objective: scalar function of logits [B, C] to maximise.
        x: clean images in [0, 1].
        schedule: radius, step size, step count.
        config: sets the kind of starting point.
        generator: generates the starting noise, on the device of ``x``.

    Returns:
        Adversarial images, detached, in [0, 1] and within the radius of ``x``.
    """
    start = starting_point(x, config.start, schedule.eps, generator)
    sizes = [schedule.step_size] * schedule.steps
    return _ascend(model, objective, start, sizes, *_ball(x, schedule.eps))


def planned_pgd(
    model: Forward,
    objective: Objective,
    x: Tensor,
    plan: AttackPlan,
    config: InnerAttackConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``pgd`` with a separate radius, step size and step count for each image.

    Images with fewer steps stay unchanged in the remaining ones. The plan's radii are not checked.
    """
    steps = int(plan.steps_B.max())
    sizes = (_per_image(plan.step_size_B * (step < plan.steps_B), x) for step in range(steps))
    start = starting_point(x, config.start, plan.start_eps, generator)
    return _ascend(model, objective, start, sizes, *_ball(x, _per_image(plan.eps_B, x)))


def clipped(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """``x_adv`` clipped to within ``eps`` of ``x`` and to [0, 1]."""
    return torch.clamp(x_adv, *_ball(x, eps))


def _ball(x: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
    return (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)


def _per_image(values_B: Tensor, x: Tensor) -> Tensor:
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
