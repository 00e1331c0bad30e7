"""Training that runs into NaN or infinity is stopped, and the step that did it is named."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.errors import UserError

# On an accelerator reading the loss back stalls the device, so it is read only this often; the
# first bad step is remembered on the device and named exactly.
FINITE_CHECK_EVERY = 50


class NonFiniteGuard:
    """Remembers, on the device, the first step whose loss was not finite."""

    def __init__(self, device: torch.device, epoch: int) -> None:
        """Watch one epoch."""
        self._epoch = epoch
        self._every = FINITE_CHECK_EVERY if device.type == "cuda" else 1
        self._first_bad = torch.zeros((), dtype=torch.int64, device=device)

    def see(self, step: int, loss: Tensor) -> None:
        """Note a step's loss."""
        bad = ~torch.isfinite(loss.detach()) & (self._first_bad == 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        if step % self._every == 0:
            self._raise_if_bad()

    def check_now(self, model: nn.Module) -> None:
        """Before an epoch's weights are kept: all losses and all weights must be finite."""
        self._raise_if_bad()
        for name, tensor in model.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise TrainingDivergedError(f"{name} is not finite after epoch {self._epoch}")

    def _raise_if_bad(self) -> None:
        step = int(self._first_bad)
        if step:
            raise TrainingDivergedError(
                f"the loss is not finite at epoch {self._epoch}, step {step}"
            )


class TrainingDivergedError(UserError):
    """Training ran into NaN or infinity; the last checkpoint before it is kept."""

    def __init__(self, what: str) -> None:
        """Say what was not finite, and what to do."""
        super().__init__(
            f"training diverged: {what}; the checkpoint of the epoch before is kept: try a lower "
            "training.optimizer.lr"
        )
