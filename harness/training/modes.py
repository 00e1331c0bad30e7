"""Modes of a network inside a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, cat, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.models.features import Features, features_of

T = TypeVar("T")


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
        first, *rest = self._parts(self.model, x)
        return cat([first, *rest]) if rest else first

    def features(self, x: Tensor) -> Features:
        """Logits and everything before them; see ``FeatureNetwork``."""
        parts = self._parts(partial(features_of, self.model), x)
        if len(parts) == 1:
            return parts[0]
        return Features(
            stages=_joined([part.stages for part in parts]),
            preacts=_joined([part.preacts for part in parts]),
            pooled=cat([part.pooled for part in parts]),
            logits=cat([part.logits for part in parts]),
        )

    def _parts(self, forward: Callable[[Tensor], T], x: Tensor) -> list[T]:
        if self.replicas == 1 or not self.model.training:
            return [forward(x)]
        first, *rest = x.chunk(self.replicas)
        outputs = [forward(first)]
        with frozen_statistics(self.model):
            outputs += [forward(part) for part in rest]
        return outputs


def _joined(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(cat(maps) for maps in zip(*parts, strict=True))


def compiled(forward: ReplicaForward) -> nn.Module:
    """The forward passes to logits and to features, each compiled when it is first used."""
    forward.features = torch.compile(forward.features)  # type: ignore[method-assign]
    return torch.compile(forward)  # type: ignore[return-value]
