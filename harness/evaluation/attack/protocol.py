"""The protocol: which attacks in which form, and what the result is called."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.config import STANDARD_ATTACKS, AttackName, EvalConfig, Norm, fingerprint
from harness.errors import UserError
from harness.evaluation.attack.model import AttackModel
from harness.evaluation.attack.stages import (
    APGD,
    FABTargeted,
    MarginTargetedAPGD,
    Square,
    TargetedAPGD,
    ZeroGradientCount,
)
from harness.registry import unknown_name
from harness.seeding import derive_seed

PACKAGE = "pyautoattack"
TARGETED = ("apgd-t", "fab-t")
DLR_CLASSES = 4


@dataclass(frozen=True)
class AttackBudget:
    """How long attacks search; the defaults are the standard ones, and a result says otherwise.

    Attributes:
        iterations: of APGD and FAB.
        queries: of Square.
        targets: classes that targeted attacks aim at, at most C - 1 of them.
    """

    iterations: int = 100
    queries: int = 5000
    targets: int = 9


STANDARD_BUDGET = AttackBudget()


@dataclass(frozen=True)
class Threat:
    """What an attack may do, and how long: the part of the protocol that attacks see."""

    norm: Norm
    eps: float
    num_classes: int
    budget: AttackBudget = STANDARD_BUDGET

    @property
    def targets(self) -> int:
        """Classes that a targeted attack aims at."""
        return min(self.budget.targets, self.num_classes - 1)


def chunk_seed(seed: int, chunk: int) -> int:
    """The seed of a chunk's attacks, in [0, 2**63): torch and the attacks take it as it is."""
    return derive_seed(seed, "chunk", chunk)


def make_attack(
    name: AttackName, model: AttackModel, threat: Threat, seed: int, device: torch.device
) -> Any:
    """The attack of that name as version ``standard`` runs it, within the budget.

    It has ``perturb(x, y)``; a targeted one has ``targets`` afterwards.

    Raises:
        UserError: no attack has that name.
    """
    norm, eps, budget = threat.norm, threat.eps, threat.budget
    common = {"norm": norm, "eps": eps, "seed": seed, "device": device, "verbose": False}
    apgd = {
        **common,
        "n_iter": budget.iterations,
        "n_restarts": 1,
        "eot_iter": 1,
        "rho": 0.75,
        "logger": ZeroGradientCount(),
    }
    if name == "apgd-ce":
        return APGD(model, loss="ce", **apgd)
    if name == "apgd-t":
        kind = TargetedAPGD if threat.num_classes >= DLR_CLASSES else MarginTargetedAPGD
        return kind(model, n_target_classes=threat.targets, **apgd)
    if name == "fab-t":
        return FABTargeted(
            model,
            n_iter=budget.iterations,
            n_restarts=1,
            targeted=True,
            n_target_classes=threat.targets,
            **common,
        )
    if name == "square":
        return Square(
            model, n_queries=budget.queries, n_restarts=1, p_init=0.8, resc_schedule=False, **common
        )
    raise UserError(unknown_name("attack", name, STANDARD_ATTACKS))


def passes(name: AttackName, threat: Threat) -> tuple[int, int]:
    """Forward and backward passes that a stage costs per image it does not break, about."""
    budget = threat.budget
    runs = budget.iterations * threat.targets
    return {
        "apgd-ce": (budget.iterations, budget.iterations),
        "apgd-t": (runs, runs),
        "fab-t": (2 * runs, runs),
        "square": (budget.queries, 0),
    }[name]


def attack_version(attacks: Sequence[AttackName], threat: Threat) -> str:
    """What the attacks are called beside a number, with all that differs from the standard ones."""
    parts = []
    if tuple(attacks) == STANDARD_ATTACKS:
        parts.append("standard")
    else:
        parts.append(f"custom({','.join(attacks)})")
    parts.append(f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}")
    if threat.budget != STANDARD_BUDGET:
        budget = threat.budget
        parts.append(f"budget({budget.iterations},{budget.queries},{budget.targets})")
    if threat.targets < threat.budget.targets and any(name in TARGETED for name in attacks):
        parts.append(f"targets({threat.targets})")
    if threat.num_classes < DLR_CLASSES and "apgd-t" in attacks:
        parts.append("margin-loss")
    return " ".join(parts)


def is_standard(config: EvalConfig, threat: Threat) -> bool:
    """Whether a result may be called AutoAttack without a word more."""
    return (
        tuple(config.attacks) == STANDARD_ATTACKS
        and threat.budget == STANDARD_BUDGET
        and threat.targets == STANDARD_BUDGET.targets
        and config.precision == "float32"
    )


def evaluation_id(
    config: EvalConfig, threat: Threat, *, data_sha256: str, model_sha256: str
) -> str:
    """Names an evaluation: equal for equal protocol, images and weights."""
    return fingerprint(
        {
            "protocol": config.identity_payload(),
            "attack_version": attack_version(config.attacks, threat),
            "data": data_sha256,
            "model": model_sha256,
        }
    )


def zero_gradient_starts(attack: Any) -> int:
    """Runs of an attack that began on points with zero gradient, as the attack itself warns."""
    logger = getattr(attack, "logger", None)
    return logger.warnings if isinstance(logger, ZeroGradientCount) else 0


def aimed_targets(attack: Any) -> Tensor | None:
    """Of a targeted attack that has run: the class [B] that broke each image, or NO_TARGET."""
    targets = getattr(attack, "targets", None)
    return None if targets is None else targets.broken_by_target
