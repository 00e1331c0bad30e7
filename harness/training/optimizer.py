"""The optimiser over a network's and its task's parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.config import OptimizerConfig


def build_optimizer(
    model: nn.Module, others: Iterable[nn.Parameter], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """SGD over the model's and other parameters, some undecayed; see ``OptimizerConfig``."""
    exempt = {id(parameter) for parameter in undecayed(model, config.decay)}
    decayed = [p for p in [*model.parameters(), *others] if id(p) not in exempt]
    groups: list[dict[str, object]] = [{"params": decayed}]
    if exempt:
        spared = [p for p in model.parameters() if id(p) in exempt]
        groups.append({"params": spared, "weight_decay": 0.0})
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def undecayed(model: nn.Module, decay: str) -> list[nn.Parameter]:
    """The model's parameters without weight decay under ``OptimizerConfig.decay``."""
    if decay == "all":
        return []
    norms = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
    chosen = [
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, norms) or (decay == "not-norm-or-bias" and name == "bias")
    ]
    return chosen
