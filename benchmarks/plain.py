"""The IKL loss and its training step in plain code, as baselines for benchmarks."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

PROXY_RATE = 0.01


def ikl_loss_pairwise(
    logits_m: Tensor,
    logits_n: Tensor,
    class_weights_BC: Tensor,
    wmse_weight: float,
    ce_weight: float,
) -> Tensor:
    """Return Eq. 6 of arXiv:2305.13948 from its [B, C, C] tensors, a mean over the batch."""
    delta_m_BCC = logits_m[:, :, None] - logits_m[:, None, :]
    delta_n_BCC = logits_n[:, :, None] - logits_n[:, None, :]
    with torch.no_grad():
        weights_BCC = class_weights_BC[:, :, None] * class_weights_BC[:, None, :]
        labels_BC = logits_m.softmax(-1)
    wmse = ((delta_m_BCC - delta_n_BCC) ** 2 * weights_BCC).sum() / (4 * len(logits_m))
    ce = -(labels_BC * logits_n.log_softmax(-1)).sum(-1).mean()
    return wmse_weight * wmse + ce_weight * ce


@dataclass(frozen=True)
class StepSettings:
    """Settings of a step; radius and step size are in pixel space."""

    eps: float
    step_size: float
    steps: int
    gamma: float
    wmse_weight: float
    ce_weight: float
    temperature: float


class PlainStep:
    """Attack, perturb by proxy, descend, restore: the mathematics of the harness's trainer.

    Clean logits are recomputed with their graph in each step of the attack, weights are perturbed
    by a proxy network that loads a state dict, and memory is NCHW.
    """

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
        """Take one step, return the training loss; ``noise`` is standard normal, like ``x``."""
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
        """Return adversarial images by the released attack, whose weights are both 1."""
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
        """Return one ascent step of the proxy, rescaled tensor by tensor."""
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
        """Return the training loss and the clean logits."""
        adv_BC, clean_BC = model(x_adv), model(x)
        settings = self.settings
        binding = self.divergence(clean_BC, adv_BC, y, settings.wmse_weight, settings.ce_weight)
        return cross_entropy(clean_BC, y) + binding, clean_BC

    def divergence(self, clean_BC: Tensor, adv_BC: Tensor, y: Tensor, a: float, b: float) -> Tensor:
        """Return the IKL loss from its pairwise tensors."""
        weights_BC = self.class_means_CC[y].to(clean_BC.dtype)
        return ikl_loss_pairwise(clean_BC, adv_BC, weights_BC, a, b)
