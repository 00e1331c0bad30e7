"""The optimiser of the parameters of a network and its task, and a trial step on a copy."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.config import OptimizerConfig, TrainConfig
from harness.method import ModelLoss
from harness.training.modes import ReplicaForward
from harness.training.schedules import learning_rate, momentum, perturbation_size
from harness.training.weight_perturbation import perturbation, perturbed


def build_optimizer(
    model: nn.Module,
    others: Iterable[nn.Parameter],
    config: OptimizerConfig,
    task: nn.Module | None = None,
) -> torch.optim.Optimizer:
    """SGD for the parameters of the model and others, some undecayed; see ``OptimizerConfig``.

    ``task`` has the layers of the others.
    """
    parameters = [*model.parameters(), *others]
    modules = [model] if task is None else [model, task]
    exempt = {id(p) for module in modules for p in undecayed(module, config.decay)}
    groups: list[dict[str, object]] = [{"params": [p for p in parameters if id(p) not in exempt]}]
    if undecayed_group := [p for p in parameters if id(p) in exempt]:
        groups.append({"params": undecayed_group, "weight_decay": 0.0})
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def set_epoch(optimizer: torch.optim.Optimizer, training: TrainConfig, epoch: int) -> float:
    """Set the epoch's learning rate and momentum, and return the learning rate."""
    rate = learning_rate(training.optimizer, epoch, training.epochs)
    for group in optimizer.param_groups:
        group["lr"] = rate
        group["momentum"] = momentum(training.optimizer, epoch, training.epochs)
    return rate


def undecayed(model: nn.Module, decay: str) -> list[nn.Parameter]:
    """The model's parameters without weight decay under ``OptimizerConfig.decay``."""
    if decay == "all":
        return []
    norms = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
    return [
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, norms) or (decay == "not-norm-or-bias" and name == "bias")
    ]


def look_ahead(
    forward: ReplicaForward,
    training: TrainConfig,
    epoch: int,
    loss: ModelLoss,
    perturbation_loss: ModelLoss,
) -> nn.Module:
    """Return a copy of the network after one optimiser step on ``loss``, in training mode.

    The step uses the run's settings without accumulated momentum: the epoch's learning rate,
    weight decay, and weights perturbed along ``perturbation_loss`` if the run perturbs them.
    """
    processes = forward.processes
    copy = deepcopy(forward).train()
    optimizer = build_optimizer(copy, (), training.optimizer)
    set_epoch(optimizer, training, epoch)
    offsets: list[Tensor] = []
    if gamma := perturbation_size(training, epoch):
        offsets = perturbation(copy, lambda: perturbation_loss(copy), gamma, processes)
    with perturbed(copy, offsets):
        loss(copy).backward()
        processes.average_(p.grad for p in copy.parameters() if p.grad is not None)
        optimizer.step()
    return copy
