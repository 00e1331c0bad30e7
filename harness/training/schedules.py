"""Schedules as pure functions of the epoch, counted from 1 to E."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.config import InnerAttackConfig, OptimizerConfig, TrainConfig


@dataclass(frozen=True)
class InnerSchedule:
    """The inner attack of one epoch: radius, step size (both in pixel space) and step count."""

    eps: float
    step_size: float
    steps: int


def inner_schedule(config: InnerAttackConfig, epoch: int, epochs: int) -> InnerSchedule:
    """The inner attack of ``epoch`` in 1..``epochs``; see ``InnerAttackConfig``."""
    eps = config.eps * epoch / epochs if config.ramp == "linear" else config.eps
    match config.step_rule:
        case "fixed":
            return InnerSchedule(eps, config.step_size, config.steps)
        case "five-halves":
            return InnerSchedule(eps, eps / 2, 5)
        case "two-full":
            return InnerSchedule(eps, eps, 2)
        case "staged":
            # Each quarter includes its last epoch: e = E/4 still takes two steps.
            quarter = min(3, (4 * epoch - 1) // epochs)
            steps, fraction = ((2, 1.0), (3, 2 / 3), (4, 0.5), (5, 0.5))[quarter]
            return InnerSchedule(eps, fraction * eps, steps)


def learning_rate(config: OptimizerConfig, epoch: int, epochs: int) -> float:
    """The learning rate of ``epoch`` in 1..``epochs``; see ``OptimizerConfig``."""
    match config.schedule:
        case "constant":
            factor = 1.0
        case "cosine":
            before, last = _cycle(epoch, cycle_ends(epochs, config.cycles))
            factor = 0.5 * (1 + math.cos(math.pi * (epoch - 1 - before) / (last - before)))
        case "cosine-inclusive":
            factor = 0.5 * (1 + math.cos(math.pi * epoch / (epochs + 1)))
        case "steps":
            factor = config.gamma ** sum(epoch > milestone for milestone in config.milestones)
        case "onecycle":
            factor = _one_cycle(config, epoch, epochs, (1 / 25, 1.0, 1 / 250_000))
    warmup = min(1.0, epoch / (config.warmup_epochs + 1))
    first = config.first_epoch_factor if epoch == 1 else 1.0
    return config.lr * factor * warmup * first


def cycle_ends(epochs: int, cycles: int) -> list[int]:
    """The last epochs of the ``cycles`` equal parts of training; empty parts are left out."""
    return sorted({end for part in range(1, cycles + 1) if (end := round(epochs * part / cycles))})


def _cycle(epoch: int, ends: list[int]) -> tuple[int, int]:
    """The last epoch before the cycle that contains ``epoch``, and the cycle's last epoch."""
    last = next(end for end in ends if epoch <= end)
    return max((end for end in ends if end < epoch), default=0), last


def momentum(config: OptimizerConfig, epoch: int, epochs: int) -> float:
    """The momentum of ``epoch`` in 1..``epochs``; see ``OptimizerConfig``."""
    if config.schedule == "onecycle" and config.cycle_momentum:
        return _one_cycle(config, epoch, epochs, (0.95, 0.85, 0.95))
    return config.momentum


def perturbation_size(training: TrainConfig, epoch: int) -> float:
    """The size gamma of the weight perturbation in ``epoch``, 0 for none."""
    config = training.weight_perturbation
    return config.gamma if epoch >= config.start_epoch else 0.0


def _one_cycle(
    config: OptimizerConfig, epoch: int, epochs: int, values: tuple[float, float, float]
) -> float:
    """Half a cosine from the first value to the second, then another to the third.

    This is torch's ``OneCycleLR`` stepped once per epoch: the turning point is at step
    pct_start E - 1 and the end at step E - 1, counted from 0. A phase of length 0, by which torch
    would divide, is skipped.
    """
    step, turn, end = epoch - 1, config.pct_start * epochs - 1, epochs - 1
    first, middle, last = values
    if step <= turn:
        return _along_cosine(first, middle, step / turn if turn else 1.0)
    return _along_cosine(middle, last, (step - turn) / (end - turn))


def _along_cosine(start: float, stop: float, share: float) -> float:
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2
