"""Modes of a network inside a training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, cat, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batchnorms(model: nn.Module) -> list[_BatchNorm]:
    """The model's BatchNorm layers."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Training-mode BatchNorm normalises by the batch and leaves the running statistics alone.

    A layer in eval mode goes on using its running statistics.
    """
    layers = [layer for layer in batchnorms(model) if layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """No gradient for any parameter: an attack needs none, and saves their activations."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def attack_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """The model in ``eval``, ``train`` or ``train-frozen`` mode, then as it was."""
    was_training = {module: module.training for module in model.modules()}
    model.train(mode != "eval")
    try:
        if mode == "train-frozen":
            with frozen_statistics(model):
                yield
        else:
            yield
    finally:
        for module, training in was_training.items():
            module.training = training


class ReplicaForward(nn.Module):
    """Forward passes in which BatchNorm sees the batch as so many data-parallel replicas did.

    ``nn.DataParallel`` splits a batch over devices: each part is normalised by its own statistics,
    and the running ones follow the first part alone. With one replica this is a plain forward.
    """

    def __init__(self, model: nn.Module, replicas: int) -> None:
        """Wrap the model; it stays the owner of parameters and statistics."""
        super().__init__()
        self.model = model
        self.replicas = replicas

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, K, H, W]."""
        if self.replicas == 1 or not self.model.training:
            return self.model(x)  # type: ignore[no-any-return]
        first, *rest = x.chunk(self.replicas)
        logits = [self.model(first)]
        with frozen_statistics(self.model):
            logits += [self.model(part) for part in rest]
        return cat(logits)
