"""Accuracy during training: on a subset to monitor a run, on a whole split to select an epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.config import InnerAttackConfig
from harness.data.base import ImageSource
from harness.seeding import seeded_generator
from harness.training.inner_attack import pgd
from harness.training.modes import attack_mode, frozen_parameters
from harness.training.schedules import InnerSchedule

BATCH = 250


def monitor_accuracy(
    model: nn.Module,
    images: ImageSource,
    device: torch.device,
    *,
    limit: int | None = None,
    eps: float,
    pgd_steps: int,
) -> dict[str, float]:
    """Measure clean accuracy and, for ``pgd_steps`` > 0, accuracy under Linf PGD.

    PGD starts from uniform noise and takes steps of 2.5 eps / ``pgd_steps``, on all images or on
    ``limit`` of them, spread evenly over the split, which may be sorted by class. It monitors
    training and is no substitute for an evaluation.

    Returns:
        ``{"clean": fraction}`` and, for ``pgd_steps`` > 0, ``"pgd"``.
    """
    schedule = InnerSchedule(eps, 2.5 * eps / max(1, pgd_steps), pgd_steps)
    config = InnerAttackConfig(start="uniform")
    generator = seeded_generator(device, "monitor")
    correct = torch.zeros(2, device=device)
    dtype = next(model.parameters()).dtype
    count = len(images) if limit is None else min(limit, len(images))
    with attack_mode(model, "eval"), frozen_parameters(model), torch.no_grad():
        for rows in (torch.arange(count) * len(images) // count).split(BATCH):
            x, y = images.images_float(rows).to(device, dtype), images.labels[rows].to(device)
            correct[0] += (model(x).argmax(1) == y).sum()
            if pgd_steps:

                def objective(logits: Tensor, y: Tensor = y) -> Tensor:
                    return cross_entropy(logits, y, reduction="sum")

                x_adv = pgd(model, objective, x, schedule, config, generator)
                correct[1] += (model(x_adv).argmax(1) == y).sum()
    clean, robust = (correct / count).tolist()
    return {"clean": clean, "pgd": robust} if pgd_steps else {"clean": clean}
