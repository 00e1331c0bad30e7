"""Numeric precision of the losses: at least float32, whatever the model computes in."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor


def float32_or_wider(values: Tensor) -> Tensor:
    """Return the values in float32; float64 stays float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def exact_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in the operands' own precision, even under autocast."""
    kind = a.device.type
    available = torch.amp.is_autocast_available(kind)
    with torch.autocast(kind, enabled=False) if available else nullcontext():
        return a @ b
