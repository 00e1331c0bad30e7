"""Products that mixed precision must leave alone."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor


def exact_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in the operands' own precision, also under autocast."""
    kind = a.device.type
    available = torch.amp.is_autocast_available(kind)
    with torch.autocast(kind, enabled=False) if available else nullcontext():
        return a @ b
