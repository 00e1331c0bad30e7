"""Modes and forward passes of a network within a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, cat, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.distributed.group import SINGLE_PROCESS, ProcessGroup
from harness.models.features import Features, features_of

T = TypeVar("T")


def batchnorms(model: nn.Module) -> list[_BatchNorm]:
    """The model's BatchNorm layers."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Keep BatchNorm in training mode from updating its running statistics inside.

    It still normalises by the statistics of the batch; a layer in eval mode still uses its running
    statistics.
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
    """Freeze all parameters inside: an attack needs no gradients for them, which saves memory."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def attack_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """Put the model in ``eval``, ``train`` or ``train-frozen`` mode, and restore it on exit."""
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
    """Forward passes in which BatchNorm normalises the batch as data-parallel replicas would.

    ``nn.DataParallel`` splits a batch over devices: each part is normalised by its own statistics,
    and only the first part updates the running statistics. With one replica this is a plain forward
    pass.

    Several processes divide the parts among themselves, with the same result as one process. With
    one replica, each process's share goes through a plain forward pass with synchronised BatchNorm.
    """

    def __init__(
        self, model: nn.Module, replicas: int, processes: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        """Wrap the model, sharing its parameters and statistics."""
        super().__init__()
        self.model = model
        self.replicas = replicas
        self.processes = processes
        self._gathered = processes.gathered

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, K, H, W]."""
        parts = self._parts(x)
        return self._joined(self._outputs(self.model, parts), parts)

    def features(self, x: Tensor) -> Features:
        """Logits and everything before them; see ``FeatureNetwork``."""
        parts = self._parts(x)
        outputs = self._outputs(partial(features_of, self.model), parts)
        return Features(
            stages=self._maps([output.stages for output in outputs], parts),
            preacts=self._maps([output.preacts for output in outputs], parts),
            pooled=self._joined([output.pooled for output in outputs], parts),
            logits=self._joined([output.logits for output in outputs], parts),
        )

    def collected(self, x: Tensor) -> Tensor:
        """Gather images [B, K, H, W], each from the process that has its part of the batch."""
        if self.processes.count == 1:
            return x
        parts = self._parts(x)
        return self._joined(parts[self.processes.own(parts)], parts)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """All parts of a batch, for all processes; they do not depend on the network's mode."""
        if self.replicas > 1:
            return x.chunk(self.replicas)
        return x.tensor_split(self.processes.count)

    def _outputs(self, forward: Callable[[Tensor], T], parts: tuple[Tensor, ...]) -> list[T]:
        """The outputs for each of this process's parts; in eval mode for all parts at once."""
        own = parts[self.processes.own(parts)]
        first, *rest = own if self.model.training or len(own) == 1 else (cat(own),)
        outputs = [forward(first)]
        with frozen_statistics(self.model) if rest else nullcontext():
            outputs += [forward(part) for part in rest]
        if self.replicas > 1 and self.processes.count > 1 and self.model.training:
            self._copy_statistics()
        return outputs

    def exclude_communication_from_graphs(self) -> None:
        """Keep the communication between processes out of compiled graphs.

        A decorator would do the same, but import the compiler along with this module.
        """
        if self.processes.count > 1:
            self._gathered = torch.compiler.disable(self._gathered)
            self._copy_statistics = torch.compiler.disable(  # type: ignore[method-assign]
                self._copy_statistics
            )

    def _copy_statistics(self) -> None:
        """Copy BatchNorm's running statistics from the first process, which has the first part."""
        updated = [layer for layer in batchnorms(self.model) if layer.track_running_stats]
        # Without autograd: a backward pass in training mode does not read them.
        self.processes.copy_first_(buffer.data for layer in updated for buffer in layer.buffers())

    def _joined(self, outputs: Sequence[Tensor], parts: tuple[Tensor, ...]) -> Tensor:
        own = cat(list(outputs)) if len(outputs) > 1 else outputs[0]
        return self._gathered(own, parts)

    def _maps(
        self, outputs: list[tuple[Tensor, ...]], parts: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        return tuple(self._joined(maps, parts) for maps in zip(*outputs, strict=True))


def compiled(forward: ReplicaForward) -> nn.Module:
    """The forward passes to logits and to features, each compiled at its first use."""
    forward.exclude_communication_from_graphs()
    forward.features = torch.compile(forward.features)  # type: ignore[method-assign]
    return torch.compile(forward)  # type: ignore[return-value]
