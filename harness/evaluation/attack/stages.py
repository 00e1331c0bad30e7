"""Build AutoAttack's stages and count their cost.

The standard order is ``STANDARD_ATTACKS`` of ``harness.config``: APGD-CE, APGD-T, FAB-T, Square. A
configuration may list others; each attacks only the images that the previous ones did not break.
"""

from __future__ import annotations

from typing import Any

import torch
from pyautoattack.autopgd_base import APGDAttack
from pyautoattack.square import SquareAttack
from torch import Tensor

from harness.config import STANDARD_ATTACKS, AttackBudget, AttackName, EvalProtocol
from harness.errors import UserError
from harness.evaluation.attack.fab import FastFAB
from harness.evaluation.attack.model import AttackModel
from harness.evaluation.attack.square import FastSquare
from harness.evaluation.attack.targeted import (
    NO_TARGET,
    FABTargeted,
    MarginTargetedAPGD,
    TargetedAPGD,
    ZeroGradientCount,
)
from harness.registry import unknown_name

TARGETED = ("apgd-t", "fab-t")
# The targeted DLR loss needs the four largest logits for its denominator.
DLR_CLASSES = 4


def target_classes(budget: AttackBudget, num_classes: int) -> int:
    """Return how many classes a targeted attack tries."""
    return min(budget.n_target_classes, num_classes - 1)


def make_attack(
    name: AttackName, model: AttackModel, protocol: EvalProtocol, seed: int, device: torch.device
) -> Any:
    """Build an attack as AutoAttack's version ``standard`` runs it, with the protocol's budget.

    The attack has ``perturb(x, y)``; a targeted one then has ``broken_by_target``.

    Raises:
        UserError: there is no attack of this name.
    """
    budget = protocol.budget
    targets = target_classes(budget, model.num_classes)
    common = {
        "norm": protocol.norm,
        "eps": protocol.eps,
        "seed": seed,
        "device": device,
        "verbose": False,
        "n_restarts": budget.n_restarts,
    }
    apgd = {"n_iter": budget.n_iter, "eot_iter": 1, "rho": 0.75, "logger": ZeroGradientCount()}
    if name == "apgd-ce":
        return APGDAttack(model, loss="ce", **apgd, **common)
    if name == "apgd-t":
        kind = TargetedAPGD if model.num_classes >= DLR_CLASSES else MarginTargetedAPGD
        return kind(model, n_target_classes=targets, **apgd, **common)
    if name == "fab-t":
        if protocol.accelerate and budget.n_restarts == 1:
            return FastFAB(model, protocol.norm, protocol.eps, budget.n_iter, targets)
        return FABTargeted(
            model, n_iter=budget.n_iter, targeted=True, n_target_classes=targets, **common
        )
    if name == "square":
        kind = FastSquare if protocol.accelerate else SquareAttack
        return kind(model, n_queries=budget.n_queries, p_init=0.8, resc_schedule=False, **common)
    raise UserError(unknown_name("attack", name, STANDARD_ATTACKS))


def passes(name: AttackName, budget: AttackBudget, num_classes: int) -> tuple[int, int]:
    """Return a stage's approximate forward and backward passes per image that it does not break."""
    iterations = budget.n_iter * budget.n_restarts
    targeted = iterations * target_classes(budget, num_classes)
    return {
        "apgd-ce": (iterations, iterations),
        "apgd-t": (targeted, targeted),
        "fab-t": (2 * targeted, targeted),
        "square": (budget.n_queries * budget.n_restarts, 0),
    }[name]


def zero_gradient_starts(attack: Any) -> int:
    """Count the runs of an attack that started at points with zero gradient, from its warnings."""
    logger = getattr(attack, "logger", None)
    return logger.warnings if isinstance(logger, ZeroGradientCount) else 0


def aimed_targets(attack: Any, y: Tensor) -> Tensor:
    """Return the target class that broke each image of labels ``y`` [B], else ``NO_TARGET``."""
    targets: Tensor | None = getattr(attack, "broken_by_target", None)
    return torch.full_like(y, NO_TARGET) if targets is None else targets
