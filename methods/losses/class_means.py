"""The mean prediction of each class over an epoch: the global information of IKL."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from methods.losses.precision import float32_or_wider


class ClassMeans(nn.Module):
    """The matrix W [C, C] whose row y is the mean softmax(o / T) of class y (Eq. 10).

    W is uniform, 1/C, in the first epoch. During an epoch W is constant while ``update`` sums the
    predictions; ``end_epoch`` replaces W by their means, so W lags by one epoch. A class without a
    sample in the epoch keeps its row. Rows sum to one.

    The matrix and the running sums are buffers, so they are part of every checkpoint.
    """

    matrix_CC: Tensor
    sums_CC: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        temperature: float = 1.0,
        momentum: float = 1.0,
        device: torch.device | None = None,
    ) -> None:
        """Start from uniform rows.

        Args:
            num_classes: C >= 1.
            temperature: T > 0, applied to these predictions only.
            momentum: weight in (0, 1] of the new means; 1 replaces the old ones.
            device: device of the buffers.
        """
        super().__init__()
        self.temperature = temperature
        self.momentum = momentum
        shape = (num_classes, num_classes)
        self.register_buffer("matrix_CC", torch.full(shape, 1 / num_classes, device=device))
        self.register_buffer("sums_CC", torch.zeros(shape, device=device))

    def of(self, labels_B: Tensor) -> Tensor:
        """Return the labels' rows of W, [B, C]."""
        return self.matrix_CC[labels_B]

    @torch.no_grad()
    def update(self, logits_BC: Tensor, labels_B: Tensor) -> None:
        """Add one batch's predictions to the sums.

        Args:
            logits_BC: logits of clean images, [B, C].
            labels_B: their classes, int64 in [0, C).
        """
        predictions_BC = softmax(float32_or_wider(logits_BC) / self.temperature, dim=-1)
        self.sums_CC.index_add_(0, labels_B, predictions_BC.to(self.sums_CC.dtype))

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Replace the means by those of the epoch, and reset the sums."""
        # Each prediction sums to one, so a row's sum is its number of samples.
        counts_C1 = self.sums_CC.sum(-1, keepdim=True)
        new_CC = self.sums_CC / counts_C1.clamp_min(1)
        mixed_CC = self.momentum * new_CC + (1 - self.momentum) * self.matrix_CC
        self.matrix_CC.copy_(torch.where(counts_C1 > 0, mixed_CC, self.matrix_CC))
        self.sums_CC.zero_()
