"""A plain IKL training step, with which ``benchmarks/ikl_step.py`` compares the trainer's.

Clean logits are computed again, with their graph, in each step of the attack; logit differences are
[B, C, C] tensors; weights are perturbed by a proxy network that loads a state dict; memory is NCHW.
The mathematics is that of the harness's trainer.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from plain import ikl_loss_pairwise
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

PROXY_RATE = 0.01


@dataclass(frozen=True)
class StepSettings:
    """The settings of a step; radius and step size in pixel space."""

    eps: float
    step_size: float
    steps: int
    gamma: float
    wmse_weight: float
    ce_weight: float
    temperature: float


class PlainStep:
    """Attack, perturb by proxy, descend, restore."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: StepSettings,
        classes: int,
    ) -> None:
        """Keep the network and build its proxy."""
        self.model, self.optimizer, self.settings = model, optimizer, settings
        self.proxy = deepcopy(model)
        self.proxy_optimizer = torch.optim.SGD(self.proxy.parameters(), lr=PROXY_RATE)
        self.class_means_CC = torch.full((classes, classes), 1 / classes)
        self.sums_CC = torch.zeros(classes, classes)

    def __call__(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """One step; ``noise`` is standard normal, shaped like ``x``. The training loss."""
        x_adv = self.attack(x, y, noise)
        self.model.train()
        offsets = self.offsets(x, x_adv, y)
        self.add(offsets, 1)
        loss, clean_BC = self.loss(self.model, x, x_adv, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.add(offsets, -1)
        predictions_BC = (clean_BC.detach() / self.settings.temperature).softmax(-1)
        self.sums_CC.index_add_(0, y, predictions_BC.to(self.sums_CC.dtype))
        return loss.detach()

    def attack(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """The released attack: both weights 1."""
        settings = self.settings
        self.model.eval()
        x_adv = x + 0.001 * noise
        for _ in range(settings.steps):
            x_adv = x_adv.detach().requires_grad_()
            objective = self.divergence(self.model(x), self.model(x_adv), y, 1.0, 1.0)
            (gradient,) = torch.autograd.grad(objective, x_adv)
            x_adv = x_adv.detach() + settings.step_size * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, x - settings.eps), x + settings.eps).clamp(0, 1)
        return x_adv.detach()

    def offsets(self, x: Tensor, x_adv: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The proxy takes one step uphill; the difference is rescaled tensor by tensor."""
        before = deepcopy(self.model.state_dict())
        self.proxy.load_state_dict(before)
        self.proxy.train()
        loss = -self.loss(self.proxy, x, x_adv, y)[0]
        self.proxy_optimizer.zero_grad()
        loss.backward()
        self.proxy_optimizer.step()
        found = {}
        for name, moved in self.proxy.state_dict().items():
            old = before[name]
            if old.ndim > 1 and "weight" in name:
                change = moved - old
                found[name] = old.norm() / (change.norm() + 1e-20) * change
        return found

    def add(self, offsets: dict[str, Tensor], sign: int) -> None:
        """Add the perturbation, or subtract it."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in offsets:
                    parameter.add_(sign * self.settings.gamma * offsets[name])

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The training loss, and the clean logits."""
        adv_BC, clean_BC = model(x_adv), model(x)
        settings = self.settings
        binding = self.divergence(clean_BC, adv_BC, y, settings.wmse_weight, settings.ce_weight)
        return cross_entropy(clean_BC, y) + binding, clean_BC

    def divergence(self, clean_BC: Tensor, adv_BC: Tensor, y: Tensor, a: float, b: float) -> Tensor:
        """IKL through its pairwise tensors."""
        weights_BC = self.class_means_CC[y].to(clean_BC.dtype)
        return ikl_loss_pairwise(clean_BC, adv_BC, weights_BC, a, b)
