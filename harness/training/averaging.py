"""Weight averaging: an exponential moving average of the weights over epochs or steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from harness.config import AveragingConfig


def first_epoch(config: AveragingConfig, epochs: int) -> int:
    """The first of ``epochs`` epochs, counted from 1, in which the weights are averaged."""
    return max(config.start_epoch, int(config.start_fraction * epochs) + 1)


class WeightAverage:
    """An exponential moving average of the weights; see ``AveragingConfig``.

    The first update copies the model. Integer buffers, which count batches, are always copied.
    Without averaging, ``model`` is the trained model itself.
    """

    def __init__(self, model: nn.Module, config: AveragingConfig, epochs: int = 0) -> None:
        """Create the average of ``model``, on its device, for a training run of ``epochs``."""
        self._config = config
        self._start = first_epoch(config, epochs)
        self._live = model
        self._average = (
            None
            if config.kind == "none"
            else AveragedModel(
                model, multi_avg_fn=_rule(config), use_buffers=config.buffers == "averaged"
            )
        )

    @property
    def model(self) -> nn.Module:
        """The model to evaluate: the average after its first update, else the trained model."""
        if self._average is None or int(self._average.n_averaged) == 0:
            return self._live
        return self._average.module

    def after_step(self, epoch: int) -> None:
        """Called after each optimiser step."""
        if self._config.kind == "step" and epoch >= self._start:
            self._update()

    def after_epoch(self, epoch: int) -> None:
        """Called after each epoch."""
        if self._config.kind == "epoch" and epoch >= self._start:
            self._update()

    def _update(self) -> None:
        assert self._average is not None
        self._average.update_parameters(self._live)

    def state_dict(self) -> dict[str, object]:
        """The state for a checkpoint."""
        return {} if self._average is None else dict(self._average.state_dict())

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Load a checkpoint's state."""
        if self._average is not None:
            self._average.load_state_dict(state)


Tensors = tuple[Tensor, ...] | list[Tensor]
Update = Callable[[Tensors, Tensors, Tensor | int], None]


def _rule(config: AveragingConfig) -> Update:
    """The function that updates averaged tensors with current ones, after ``count`` updates."""

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        # All tensors of a list have the same type. Averages of integers would be rounded down each
        # time.
        if not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, current)
            return
        decay = config.decay
        if config.decay_warmup:
            decay = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(decay)(averaged, current, count)

    return update
