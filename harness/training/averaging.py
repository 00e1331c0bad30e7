"""Weight averaging: the exponential average of the weights over epochs or steps."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from harness.config import AveragingConfig


class WeightAverage:
    """An exponential moving average of parameters and buffers; integer buffers stay integers.

    The first update copies the model. Without averaging, ``model`` is the trained model itself.
    """

    def __init__(self, model: nn.Module, config: AveragingConfig) -> None:
        """Make the average of ``model``, on its device."""
        self._config = config
        self._live = model
        self._average = (
            None
            if config.kind == "none"
            else AveragedModel(
                model, multi_avg_fn=get_ema_multi_avg_fn(config.decay), use_buffers=True
            )
        )

    @property
    def model(self) -> nn.Module:
        """The model to evaluate: the average once it has begun, else the live model."""
        if self._average is None or int(self._average.n_averaged) == 0:
            return self._live
        return self._average.module

    def after_step(self, epoch: int) -> None:
        """Called after each optimiser step."""
        if self._config.kind == "step" and epoch >= self._config.start_epoch:
            self._update()

    def after_epoch(self, epoch: int) -> None:
        """Called after each epoch."""
        if self._config.kind == "epoch" and epoch >= self._config.start_epoch:
            self._update()

    def _update(self) -> None:
        assert self._average is not None
        self._average.update_parameters(self._live)

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return {} if self._average is None else dict(self._average.state_dict())

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take up a checkpoint's average."""
        if self._average is not None:
            self._average.load_state_dict(state)
