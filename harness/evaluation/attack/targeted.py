"""AutoAttack's own targeted attacks, recording the target class that broke each image.

Nothing here changes what an attack computes, except ``MarginTargetedAPGD``'s loss.
"""

from __future__ import annotations

from typing import Any

import torch
from pyautoattack.autopgd_base import APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor

NO_TARGET = -1


class ZeroGradientCount:
    """A logger that counts an attack's warnings about points with zero gradient."""

    warnings = 0

    def warning(self, message: str) -> None:
        """Count one attack run that started at points with zero gradient."""
        self.warnings += 1


class _Targeted:
    """An attack that runs once per target class, on the rows of a batch that are not yet broken.

    Attributes:
        broken_by_target: for the last ``perturb``, the target class [B] at which each row broke,
            else ``NO_TARGET``.
    """

    broken_by_target: Tensor

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Return adversarial images for ``x`` [B, K, H, W] with labels ``y`` [B]."""
        self.broken_by_target = torch.full((len(x),), NO_TARGET, device=x.device)
        self._batch = x, y
        self._alive: Tensor | None = None
        adversarial: Tensor = super().perturb(x, y)  # type: ignore[misc]
        return adversarial

    def _logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def note(self, targets: Tensor | None, broken: Tensor) -> None:
        """Record the run for one target.

        Args:
            targets: target classes of the remaining rows, None if unknown.
            broken: which of these rows broke, bool.
        """
        x, y = self._batch
        if self._alive is None:
            every = len(broken) == len(x)
            correct = torch.ones_like(broken) if every else self._logits(x).max(1)[1] == y
            self._alive = correct.nonzero()[:, 0]
        if len(self._alive) != len(broken):
            return  # only with a randomised network, whose rows are inconsistent
        if targets is not None:
            self.broken_by_target[self._alive[broken]] = targets[broken]
        self._alive = self._alive[~broken]


class TargetedAPGD(_Targeted, APGDAttack_targeted):  # type: ignore[misc]
    """APGD on the targeted DLR loss."""

    def attack_single_run(
        self, x: Tensor, y: Tensor, x_init: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Attack the remaining rows with one target class each."""
        result: tuple[Tensor, Tensor, Tensor, Tensor] = super().attack_single_run(x, y, x_init)
        self.note(self.y_target, result[1] == 0)
        return result

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


class MarginTargetedAPGD(TargetedAPGD):
    """Targeted APGD for fewer than four classes, where the targeted DLR loss has no denominator.

    The loss is the numerator of that loss, z_target - z_true.
    """

    def dlr_loss_targeted(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss [B] of logits ``x`` [B, C] with labels ``y`` [B]."""
        rows = torch.arange(len(x), device=x.device)
        return x[rows, self.y_target] - x[rows, y]


class FABTargeted(_Targeted, FABAttack_PT):  # type: ignore[misc]
    """Targeted FAB."""

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Return adversarial images for ``x`` [B, K, H, W] with labels ``y`` [B]."""
        self._aimed_at: Tensor | None = None
        self._predicted: tuple[Tensor, Tensor] | None = None
        return super().perturb(x, y)

    def attack_single_run(
        self, x: Tensor, y: Tensor, use_rand_start: bool = False, is_targeted: bool = False
    ) -> Tensor:
        """Attack the remaining rows with one target class each."""
        adversarial: Tensor = super().attack_single_run(x, y, use_rand_start, is_targeted)
        # perturb() next asks for the logits of this very tensor, so they are kept.
        logits = self._logits(adversarial)
        self._predicted = adversarial, logits
        difference = (x - adversarial).reshape(len(x), -1)
        length = difference.abs().amax(1) if self.norm == "Linf" else (difference**2).sum(-1).sqrt()
        broken = (logits.max(1)[1] != y) & ~(length > self.eps)
        known = self._aimed_at is not None and len(self._aimed_at) == len(x)
        self.note(self._aimed_at if known else None, broken)
        return adversarial

    def get_diff_logits_grads_batch_targeted(
        self, imgs: Tensor, la: Tensor, la_target: Tensor
    ) -> Any:
        """Return logit differences [B, 1] to the target classes, and their gradients."""
        self._aimed_at = la_target
        return super().get_diff_logits_grads_batch_targeted(imgs, la, la_target)

    def _predict_fn(self, x: Tensor) -> Tensor:
        if self._predicted is not None and self._predicted[0] is x:
            return self._predicted[1]
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = super()._predict_fn(x)
        return logits
