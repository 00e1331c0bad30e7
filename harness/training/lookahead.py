"""What a task may try before a step: the attack, and a step of a copy of the network."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.config import OptimizerConfig
from harness.method import Batch, Forward
from harness.training.modes import ReplicaForward
from harness.training.optimizer import build_optimizer
from harness.training.weight_perturbation import perturbation, perturbed


@dataclass
class LookaheadStep:
    """The engine's ``StepView``; see there.

    Attributes:
        forward: the network, behind its replicas.
        attacked: the images that the attack finds for a batch; None without an objective.
        optimizer: the run's settings, of which ``rate`` and ``momentum`` are the epoch's.
        gamma: the size of the weight perturbation in force, 0 for none.
        generator: the step's source of chance.
    """

    forward: ReplicaForward
    attacked: Callable[[Batch], Tensor | None]
    optimizer: OptimizerConfig
    rate: float
    momentum: float
    gamma: float
    generator: torch.Generator

    @property
    def model(self) -> nn.Module:
        """See ``StepView``."""
        return self.forward

    @property
    def rate_factor(self) -> float:
        """See ``StepView``."""
        return self.rate / self.optimizer.lr

    def attack(self, batch: Batch) -> Tensor:
        """See ``StepView``."""
        images = self.attacked(batch)
        if images is None:
            raise RuntimeError("a task without an attack objective has nothing to attack")
        return images

    def look_ahead(
        self, loss: Callable[[Forward], Tensor], perturbation_loss: Callable[[Forward], Tensor]
    ) -> nn.Module:
        """See ``StepView``."""
        processes = self.forward.processes
        copy = deepcopy(self.forward).train()
        optimizer = build_optimizer(copy, (), self.optimizer)
        for group in optimizer.param_groups:
            group["lr"], group["momentum"] = self.rate, self.momentum
        offsets: list[Tensor] = []
        if self.gamma:
            offsets = perturbation(copy, lambda: perturbation_loss(copy), self.gamma, processes)
        with perturbed(copy, offsets):
            loss(copy).backward()
            processes.average_(p.grad for p in copy.parameters() if p.grad is not None)
            optimizer.step()
        return copy
