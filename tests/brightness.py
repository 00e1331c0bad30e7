"""A network of which it is known how an attack within a ball changes its predictions."""

import torch
from torch import Tensor, nn


class Brightness(nn.Module):
    """Predicts class 2 for images whose weighted sum is above their median, else class 0.

    Its margin is linear, so the worst image of a ball is a corner. Other classes are never
    predicted.
    """

    def __init__(self, x: Tensor, classes: int) -> None:
        """Draw weights for images like ``x`` [B, K, H, W], and halve these."""
        super().__init__()
        weight = torch.randn(x[0].numel(), generator=torch.Generator().manual_seed(3)).to(x.dtype)
        self.weight, self.classes = nn.Parameter(weight), classes
        self.register_buffer("offset", (x.flatten(1) @ weight).median())

    def forward(self, x: Tensor) -> Tensor:
        """The logits [B, C]."""
        score_B = x.flatten(1) @ self.weight - self.offset
        zero_B = torch.zeros_like(score_B)
        never = [zero_B - 99] * (self.classes - 3)
        return torch.stack([zero_B, zero_B - 99, score_B, *never], dim=1)

    def worst(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """The image within ``eps`` and [0, 1] at which the label's probability is lowest."""
        sign_B = torch.where(y == 2, -1.0, 1.0).to(x.dtype)
        direction = self.weight.detach().sign().view(x[0].shape)
        return (x + eps * sign_B[:, None, None, None] * direction).clamp(0, 1)
