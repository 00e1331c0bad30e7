"""The maintainers' attacks, which also note the target class that broke an image.

Nothing here changes what an attack computes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor

__all__ = ["APGD", "FABTargeted", "MarginTargetedAPGD", "Square", "TargetedAPGD"]

NO_TARGET = -1


class ZeroGradientCount:
    """A logger by which an attack warns of points with zero gradient; it counts the warnings."""

    def __init__(self) -> None:
        """Start from zero."""
        self.warnings = 0

    def warning(self, message: str) -> None:
        """Count one attack run that began with zero gradients."""
        self.warnings += 1


class APGD(APGDAttack):  # type: ignore[misc]
    """Untargeted APGD."""


class Square(SquareAttack):  # type: ignore[misc]
    """Square attack."""


class _Targets:
    """Tracks the rows of a batch over the target classes.

    Attributes:
        broken_by_target: class [B] that was aimed at when a row broke, else ``NO_TARGET``.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.broken_by_target = torch.full((rows,), NO_TARGET, device=device)
        self._alive: Tensor | None = None

    def note(
        self,
        attacked: int,
        targets: Tensor | None,
        broken: Tensor,
        correct: Callable[[], Tensor],
    ) -> None:
        """Note one target's run.

        Args:
            attacked: rows that this run attacked.
            targets: their targets, or None if they are not known.
            broken: which of them broke, bool.
            correct: gives the rows that are correctly classified to begin with, if need be.
        """
        if self._alive is None:
            rows = len(self.broken_by_target)
            self._alive = (
                torch.arange(rows, device=broken.device) if attacked == rows else correct()
            )
        if len(self._alive) != attacked:
            return  # only of a randomised network, whose rows are not consistent
        if targets is not None:
            self.broken_by_target[self._alive[broken]] = targets[broken]
        self._alive = self._alive[~broken]


class TargetedAPGD(APGDAttack_targeted):  # type: ignore[misc]
    """APGD on the targeted DLR loss; ``targets`` holds the result of the last ``perturb``."""

    targets: _Targets

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial images like ``x`` [B, K, H, W], with labels ``y`` [B]."""
        self.targets = _Targets(len(x), x.device)
        self._batch = x, y
        adversarial: Tensor = super().perturb(x, y)
        return adversarial

    def attack_single_run(
        self, x: Tensor, y: Tensor, x_init: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One target class for the rows that are left."""
        result: tuple[Tensor, Tensor, Tensor, Tensor] = super().attack_single_run(x, y, x_init)
        self.targets.note(len(x), self.y_target, result[1] == 0, self._correct_rows)
        return result

    def _correct_rows(self) -> Tensor:
        x, y = self._batch
        correct: Tensor = (self.model(x).max(1)[1] == y).nonzero()[:, 0]
        return correct


class MarginTargetedAPGD(TargetedAPGD):
    """Targeted APGD for fewer than four classes, where the targeted DLR loss has no denominator.

    The loss is that one's numerator, z_target - z_true.
    """

    def dlr_loss_targeted(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss [B] of logits ``x`` [B, C] with labels ``y`` [B]."""
        rows = torch.arange(len(x), device=x.device)
        return x[rows, self.y_target] - x[rows, y]


class FABTargeted(FABAttack_PT):  # type: ignore[misc]
    """Targeted FAB; ``targets`` holds the result of the last ``perturb``."""

    targets: _Targets

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial images like ``x`` [B, K, H, W], with labels ``y`` [B]."""
        self.targets = _Targets(len(x), x.device)
        self._batch = x, y
        self._aimed_at: Tensor | None = None
        self._predicted: tuple[Tensor, Tensor] | None = None
        adversarial: Tensor = super().perturb(x, y)
        return adversarial

    def attack_single_run(
        self, x: Tensor, y: Tensor, use_rand_start: bool = False, is_targeted: bool = False
    ) -> Tensor:
        """One target class for the rows that are left."""
        adversarial: Tensor = super().attack_single_run(x, y, use_rand_start, is_targeted)
        # perturb() needs the logits of this very tensor next: they are kept for it.
        logits = self._predict_fn(adversarial)
        self._predicted = adversarial, logits
        difference = (x - adversarial).reshape(len(x), -1)
        length = difference.abs().amax(1) if self.norm == "Linf" else (difference**2).sum(-1).sqrt()
        broken = (logits.max(1)[1] != y) & ~(length > self.eps)
        known = self._aimed_at is not None and len(self._aimed_at) == len(x)
        self.targets.note(len(x), self._aimed_at if known else None, broken, self._correct_rows)
        return adversarial

    def get_diff_logits_grads_batch_targeted(
        self, imgs: Tensor, la: Tensor, la_target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logit differences [B, 1] to the target classes, and their gradients."""
        self._aimed_at = la_target
        result: tuple[Tensor, Tensor] = super().get_diff_logits_grads_batch_targeted(
            imgs, la, la_target
        )
        return result

    def _predict_fn(self, x: Tensor) -> Tensor:
        if self._predicted is not None and self._predicted[0] is x:
            return self._predicted[1]
        logits: Tensor = super()._predict_fn(x)
        return logits

    def _correct_rows(self) -> Tensor:
        x, y = self._batch
        correct: Tensor = (super()._predict_fn(x).max(1)[1] == y).nonzero()[:, 0]
        return correct
