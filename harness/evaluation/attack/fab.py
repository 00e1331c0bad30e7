"""Targeted FAB with an exact projection that does not sort pixels.

The algorithm, its settings and its order of targets are those of ``pyautoattack``'s FAB-T, which
sorts all pixels in each step. Both find the same images up to rounding.

Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
attack", ICML 2020 (arXiv:1907.02044).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.config import Norm
from harness.evaluation.attack.targeted import NO_TARGET

# From the paper: the largest weight of the step from the clean image, how far a step goes beyond
# the boundary, and how far an adversarial image is pulled back towards the clean one.
ALPHA_MAX = 0.1
ETA = 1.05
BETA = 0.9
# Newton's method on a piecewise linear function ends after finitely many steps, usually three.
PROJECTION_STEPS = 50
PROJECTION_TOLERANCE = 1e-6


@dataclass(eq=False)
class FastFAB:
    """Targeted FAB without random restarts.

    Attributes:
        model: maps images [B, K, H, W] to logits [B, C].
        norm: of the perturbation, which is minimised.
        eps: an image counts as broken within this radius.
        n_iter: steps for each target class.
        n_target_classes: number of target classes, starting with the likeliest wrong one.
        broken_by_target: for the last ``perturb``, the target class [B] at which each image broke,
            else ``NO_TARGET``.
    """

    model: Callable[[Tensor], Tensor]
    norm: Norm
    eps: float
    n_iter: int
    n_target_classes: int
    broken_by_target: Tensor = field(default_factory=lambda: torch.empty(0), init=False)

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Return adversarial images for ``x`` [B, K, H, W], labels ``y`` [B]; clean if none."""
        adversarial = x.clone()
        self.broken_by_target = torch.full_like(y, NO_TARGET)
        with torch.no_grad():
            logits = self.model(x)
            # The clean images' ranking holds for all targets.
            ranked = logits.argsort(dim=1)
            alive = (logits.argmax(dim=1) == y).nonzero()[:, 0]
            for rank in range(2, self.n_target_classes + 2):
                if not len(alive):
                    break
                aimed = ranked[alive, -rank]
                found, distance = self._nearest(x[alive], y[alive], aimed)
                broken = distance <= self.eps
                adversarial[alive[broken]] = found[broken]
                self.broken_by_target[alive[broken]] = aimed[broken]
                alive = alive[~broken]
        return adversarial

    def _nearest(self, clean: Tensor, y: Tensor, aimed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest adversarial images found towards the targets, and their distances.

        If none was found, it is the clean image at infinite distance.
        """
        centre = clean.flatten(1)
        point, nearest = centre.clone(), centre.clone()
        distance = centre.new_full((len(centre),), torch.inf)
        for _ in range(self.n_iter):
            point = self._step(point, centre, *self._boundary(point.view_as(clean), y, aimed))
            wrong = self.model(point.view_as(clean)).argmax(dim=1) != y
            moved = point - centre
            length = moved.abs().amax(dim=1) if self.norm == "Linf" else moved.norm(dim=1)
            better = (wrong & (length < distance)).nonzero()[:, 0]
            nearest[better] = point[better]
            distance[better] = length[better]
            drawn_back = moved.mul_(BETA).add_(centre)
            right = (~wrong).nonzero()[:, 0]
            drawn_back[right] = point[right]
            point = drawn_back
        return nearest.view_as(clean), distance

    def _boundary(self, x: Tensor, y: Tensor, aimed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the target's logit minus the label's [B], and its gradient [B, D]."""
        rows = torch.arange(len(x), device=x.device)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = self.model(leaf)
            lead = logits[rows, aimed] - logits[rows, y]
            (gradient,) = torch.autograd.grad(lead.sum(), leaf)
        return lead.detach(), gradient.flatten(1)

    def _step(self, point: Tensor, centre: Tensor, lead: Tensor, normal: Tensor) -> Tensor:
        """Step to the linearised boundary, mixing steps from the point and the centre: [B, D]."""
        beyond = (normal * (point - centre)).sum(dim=1)
        from_point = projection(point, normal, -lead, self.norm)
        from_centre = projection(centre, normal, beyond - lead, self.norm)
        near, far = (
            (step.abs().amax(dim=1) if self.norm == "Linf" else step.norm(dim=1)).clamp(min=1e-8)
            for step in (from_point, from_centre)
        )
        weight = (near / (near + far)).clamp(max=ALPHA_MAX)[:, None]
        ahead = from_point.mul_(ETA).add_(point).mul_(1 - weight)
        return from_centre.mul_(ETA).add_(centre).mul_(weight).add_(ahead).clamp_(0, 1)


def projection(point: Tensor, normal: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """Return the shortest step [B, D] to a hyperplane within [0, 1]^D, or to the nearest corner.

    The step d solves ``normal . d = gap`` with ``point + d`` in the cube. Each pixel moves in its
    direction of gain by ``min(rate * time, room)``, where the rate is 1 in Linf and ``|normal|`` in
    L2. The gain is concave and piecewise linear in time, so Newton's method from 0 never
    overshoots.

    Args:
        point: in the cube [B, D].
        normal: of the hyperplane [B, D]; pixels where it is 0 do not move.
        gap: how far ``normal . point`` is from the hyperplane [B].
        norm: the norm in which the step is shortest.
    """
    direction = torch.sign(normal) * torch.sign(gap)[:, None]
    # 1 - point if moving up, point if moving down, 0 where the normal is 0.
    room = direction * (0.5 - point) + 0.5 * direction.abs()
    slope, wanted = normal.abs(), gap.abs()
    rate = slope if norm == "L2" else slope.new_ones(1)
    gain = slope * rate
    limits = torch.finfo(slope.dtype)
    time, moved = torch.zeros_like(wanted), torch.zeros_like(room)
    for _ in range(PROJECTION_STEPS):
        missing = wanted - (slope * moved).sum(dim=1)
        speed = (gain * (moved < room)).sum(dim=1)
        if not bool(((missing > PROJECTION_TOLERANCE * wanted) & (speed > 0)).any()):
            break
        time += missing.clamp(min=0) / speed.clamp(min=limits.tiny)
        # Past the last corner time is infinite, and infinity times a rate of 0 would be NaN.
        time.clamp_(max=limits.max)
        moved = torch.minimum(rate * time[:, None], room)
    return direction.mul_(moved)
